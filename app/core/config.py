"""Settings: the only reader of the environment."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.errors import ConfigurationError
from app.core.keys import parse_keys

_HOST = re.compile(r"[A-Za-z0-9._-]+")
# As the header Origin has it: small letters, and the port only where it isn't the scheme's own.
_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?")


class Settings(BaseSettings):
    """Everything that can be set, from the environment or `.env`; the environment wins.

    An empty variable counts as unset. Each field's variable is its name in capitals.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    clickhouse_host: str | None = Field(
        None, description="ClickHouse server. Unset: the embedded engine at `CLICKHOUSE_PATH`."
    )
    clickhouse_port: int = Field(9000, ge=1, le=65535, description="Native protocol port.")
    clickhouse_database: str = Field(
        "analytics", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Database name."
    )
    clickhouse_user: str = Field("default", description="User of the ClickHouse server.")
    clickhouse_password: SecretStr = Field(SecretStr(""), description="That user's password.")
    clickhouse_secure: bool = Field(
        False, description="Speak TLS to the ClickHouse server, on port 9440 as a rule."
    )
    clickhouse_ca_file: Path | None = Field(
        None,
        description="PEM file of the authority that signed the server's certificate. Unset: those "
        "that the system trusts.",
    )
    clickhouse_cluster: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="A cluster of the server's configuration. Set: tables are replicated and "
        "distributed over it.",
    )
    clickhouse_connect_timeout: float = Field(
        60.0, ge=0, le=3600, description="How many seconds the start waits for the server."
    )
    clickhouse_query_timeout: float = Field(
        30.0,
        ge=0.5,
        le=3600,
        description="Seconds after which a query is given up.",
    )
    clickhouse_path: Path = Field(
        Path("data/clickhouse"), description="Where the embedded engine keeps its data."
    )
    clickhouse_fsync: bool = Field(
        True,
        description=(
            "Embedded engine: events reach the disk before they are acknowledged. False is faster "
            "and survives a killed process, but a power cut may lose the last seconds."
        ),
    )
    clickhouse_readers: int = Field(
        4, ge=1, le=64, description="How many queries run at the same time; more wait."
    )
    backup_path: Path | None = Field(
        None,
        description="Where `POST /api/v1/analytics/admin/backup` puts copies of the embedded "
        "engine's data. Unset: it makes none.",
    )

    kafka_bootstrap_servers: str = Field(
        "localhost:9092", description="Kafka brokers, with commas between them."
    )
    kafka_consumer_group: str = Field("analytics-service", description="Kafka group id.")
    kafka_topic_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,200}$",
        description="Put before the names of the topics, where several services share a cluster.",
    )
    kafka_batch_events: int = Field(
        50_000, ge=1, le=1_000_000, description="A batch from Kafka has at most so many messages."
    )
    kafka_batch_age_ms: int = Field(
        200,
        ge=0,
        le=60_000,
        description="A batch from Kafka is written when its first message has waited this long.",
    )
    kafka_session_timeout_ms: int = Field(
        6_000,
        ge=1_000,
        le=300_000,
        description=(
            "A member of the group that was not heard of for so long is taken for dead: how long "
            "Kafka's messages wait after `kill -9`. Brokers have a minimum, by default this."
        ),
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How the brokers are spoken to: with TLS, with a log-in, or both."
    )
    kafka_ca_file: Path | None = Field(
        None,
        description="PEM file of the authority that signed the brokers' certificates. Unset: those "
        "that the system trusts.",
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="How to log in, with a `SASL_…` protocol."
    )
    kafka_username: str = Field("", validate_default=True, description="User of the Kafka brokers.")
    kafka_password: SecretStr = Field(
        SecretStr(""), validate_default=True, description="That user's password."
    )
    enable_kafka: bool = Field(True, description="Start the Kafka consumer.")

    write_batch_events: int = Field(
        10_000, ge=1, le=1_000_000, description="A batch is written when it holds this many events."
    )
    write_batch_age_ms: int = Field(
        5,
        ge=0,
        le=60_000,
        description="A batch is written when its first event has waited this long.",
    )
    write_buffer_events: int = Field(
        50_000,
        ge=10_000,
        le=10_000_000,
        description="Events that may wait to be written; past that, 503. A full request must fit.",
    )
    event_retention_days: int = Field(
        365, ge=1, le=365, description="How many days events are kept. Older ones are `too_old`."
    )
    rollup_retention_days: int = Field(
        365,
        ge=1,
        le=3650,
        validate_default=True,
        description="How many days the views' figures are kept: at least as long as the events.",
    )

    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` for every one.")
    port: int = Field(8006, ge=1, le=65535, description="Service port.")
    workers: int = Field(
        1,
        ge=1,
        le=256,
        validate_default=True,
        description="Processes that serve the port. More than one needs a ClickHouse server.",
    )
    process_ports: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="First of as many ports as there are processes, one for each: where its own "
        "`/metrics` are asked for.",
    )
    ingest_api_keys: SecretStr = Field(
        SecretStr(""),
        description="SHA-256 hashes of the keys that may send events, with commas between them. "
        "Unset: anybody may.",
    )
    read_api_keys: SecretStr = Field(
        SecretStr(""),
        description="The same of the keys that may ask for figures. Unset: anybody may.",
    )
    admin_api_key: SecretStr = Field(
        SecretStr(""),
        description="The same of the key for administration. Unset: nobody may as soon as there "
        "are keys of another kind, else anybody.",
    )
    public_pages: str = Field(
        "health,docs",
        description="Which of `health`, `metrics` and `docs` need no key to read where there are "
        "such keys; or `none`.",
    )
    ingest_events_per_second: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Events that may be sent by HTTP with one key (without keys: in all) in a "
        "second, to each process. Unset: any number.",
    )
    cors_origins: str = Field(
        "",
        description="Origins whose pages may use the service from a browser, with commas between "
        "them; or `*`.",
    )
    allowed_hosts: str = Field(
        "",
        description="Names that the service is asked for by, with commas between them; others are "
        "refused, but for addresses and localhost. Unset: any.",
    )
    clickhouse_query_memory: int = Field(
        1024**3,
        ge=16 * 1024**2,
        le=1024**5,
        description="Bytes of memory that one query may take.",
    )
    clickhouse_query_queue: int = Field(
        200,
        ge=0,
        le=100_000,
        description="How many answers may wait for others to be computed; past that, 503.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least level that is logged."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Lines for people (`console`), or an object a line (`json`)."
    )
    log_requests: bool = Field(True, description="Log a line for each request.")

    @property
    def longest_compared_days(self) -> int:
        """Of a longer window the one before it isn't in the store as a whole."""
        return self.event_retention_days // 2

    @field_validator("clickhouse_database")
    @classmethod
    def _our_own(cls, name: str) -> str:
        # ClickHouse keeps its own tables there, and would not find ours again after a restart.
        if name.lower() in ("system", "information_schema"):
            raise ValueError("is a database of ClickHouse itself; choose another name")
        return name

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _servers(cls, servers: str) -> str:
        for server in servers.split(","):
            host, _, port = server.strip().rpartition(":")
            if not (host and port.isdecimal() and 1 <= int(port) <= 65535):
                raise ValueError("must be host:port, or several with commas between them")
        return servers

    @field_validator("kafka_username", "kafka_password")
    @classmethod
    def _log_in(cls, value: str | SecretStr, info: ValidationInfo) -> str | SecretStr:
        protocol: str = info.data.get("kafka_security_protocol", "PLAINTEXT")
        if protocol.startswith("SASL") and not str(value):
            raise ValueError(f"is needed with KAFKA_SECURITY_PROTOCOL={protocol}")
        return value

    @field_validator("workers")
    @classmethod
    def _one_store_one_process(cls, workers: int, info: ValidationInfo) -> int:
        if workers > 1 and info.data.get("clickhouse_host") is None:
            raise ValueError("must be 1 with the embedded engine; set CLICKHOUSE_HOST for more")
        return workers

    @field_validator("process_ports")
    @classmethod
    def _ports_apart(cls, first: int | None, info: ValidationInfo) -> int | None:
        port, workers = info.data.get("port"), info.data.get("workers")
        if first is None or port is None or workers is None:
            return first
        last = first + workers - 1
        if last > 65535:
            raise ValueError(f"{workers} ports from {first} on go past 65535; choose lower ones")
        if first <= port <= last:
            raise ValueError(f"{first} to {last} must not have PORT ({port}) among them")
        return first

    @field_validator("ingest_api_keys", "read_api_keys", "admin_api_key")
    @classmethod
    def _hashes(cls, keys: SecretStr) -> SecretStr:
        parse_keys(keys.get_secret_value())
        return keys

    @field_validator("public_pages")
    @classmethod
    def _pages(cls, pages: str) -> str:
        named = [page.strip() for page in pages.split(",")]
        if named != ["none"] and not set(named) <= {"health", "metrics", "docs"}:
            raise ValueError("must be some of health, metrics and docs, with commas, or none")
        return pages

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: str) -> str:
        for origin in origins.split(",") if origins not in ("", "*") else []:
            if not _ORIGIN.fullmatch(origin.strip()):
                raise ValueError(
                    "must be origins as browsers send them (https://tv.example, without a path), "
                    "with commas between them, or *"
                )
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, hosts: str) -> str:
        for host in hosts.split(",") if hosts else []:
            if not _HOST.fullmatch(host.strip()):
                raise ValueError("must be names (films.example, without a port), with commas")
        return hosts

    @field_validator("rollup_retention_days")
    @classmethod
    def _no_shorter_than_events(cls, days: int, info: ValidationInfo) -> int:
        if days < info.data.get("event_retention_days", 0):
            raise ValueError("must not be less than EVENT_RETENTION_DAYS")
        return days

    @field_validator("backup_path")
    @classmethod
    def _absolute_if_set(cls, path: Path | None) -> Path | None:
        return path and path.absolute()

    @field_validator("clickhouse_path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        # The embedded engine reads what follows a "?" in its path as options.
        if "?" in str(path):
            raise ValueError("must not contain '?'")
        return path.absolute()


def load_settings() -> Settings:
    """The settings of this process.

    Raises:
        ConfigurationError: a value cannot be used; the text names the variable and the rule.
    """
    try:
        return Settings()
    except UnicodeDecodeError:
        raise ConfigurationError(".env: not text in UTF-8") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'_'.join(str(part) for part in issue['loc']).upper()}: {issue['msg']}"
            for issue in error.errors(include_input=False, include_url=False)
        )
        raise ConfigurationError(problems) from None
