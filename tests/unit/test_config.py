"""Settings, where they come from, and the three places that list them."""

import re
import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.core.config import Settings, load_settings
from app.core.errors import ConfigurationError
from tests.support.process import ROOT

# As promised to whoever runs the service.
DEFAULTS = {
    "CLICKHOUSE_HOST": None,
    "CLICKHOUSE_PORT": 9000,
    "CLICKHOUSE_DATABASE": "analytics",
    "CLICKHOUSE_USER": "default",
    "CLICKHOUSE_PASSWORD": SecretStr(""),
    "CLICKHOUSE_SECURE": False,
    "CLICKHOUSE_PATH": Path("data/clickhouse"),
    "KAFKA_BOOTSTRAP_SERVERS": "localhost:9092",
    "KAFKA_CONSUMER_GROUP": "analytics-service",
    "ENABLE_KAFKA": True,
    "PORT": 8006,
}


@pytest.fixture(autouse=True)
def _nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, without .env, and an environment without any of the variables."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def documented_defaults(unset: str, empty: str) -> list[tuple[str, str]]:
    """Each variable with its default as text, in the order of Settings."""
    texts = []
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        texts.append((name.upper(), unset if default is None else str(default) or empty))
    return texts


def test_defaults_are_as_promised() -> None:
    settings = load_settings().model_dump()
    # A relative path is one from where the service was started.
    expected = {**DEFAULTS, "CLICKHOUSE_PATH": Path.cwd() / "data" / "clickhouse"}
    assert {name: settings[name.lower()] for name in expected} == expected


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=8100\nCLICKHOUSE_USER=of_file\nNO_SETTING_OF_OURS=1\n")
    monkeypatch.setenv("PORT", "8200")
    settings = load_settings()
    assert settings.port == 8200
    assert settings.clickhouse_user == "of_file"


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_an_empty_variable_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = load_settings()
    monkeypatch.setenv(name, "")
    assert load_settings() == default
    monkeypatch.delenv(name)
    Path(".env").write_text(f"{name}=\n")
    assert load_settings() == default


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "abc"), ("PORT", "0"), ("PORT", "65536"), ("PORT", "8006.5"),
        ("CLICKHOUSE_PORT", "-1"), ("CLICKHOUSE_DATABASE", "x; DROP"), ("CLICKHOUSE_DATABASE", "1"),
        ("CLICKHOUSE_DATABASE", "a-b"), ("CLICKHOUSE_SECURE", "tls"), ("CLICKHOUSE_FSYNC", "2"),
        ("CLICKHOUSE_PATH", "data?readonly=1"), ("CLICKHOUSE_READERS", "0"),
        ("ENABLE_KAFKA", "perhaps"), ("WRITE_BATCH_EVENTS", "0"), ("WRITE_BATCH_AGE_MS", "-1"),
        ("WRITE_BUFFER_EVENTS", "5"), ("LOG_LEVEL", "loud"), ("KAFKA_BOOTSTRAP_SERVERS", "kafka"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:x"), ("KAFKA_BOOTSTRAP_SERVERS", "a:9092,"),
        ("KAFKA_TOPIC_PREFIX", "a/b"), ("KAFKA_BATCH_EVENTS", "0"), ("KAFKA_BATCH_AGE_MS", "-1"),
        ("KAFKA_SESSION_TIMEOUT_MS", "10"), ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("KAFKA_SASL_MECHANISM", "MD5"), ("PROCESS_PORTS", "0"), ("PROCESS_PORTS", "8006"),
        ("LOG_FORMAT", "xml"), ("LOG_REQUESTS", "some"),
        ("INGEST_API_KEYS", "open-sesame"),
        ("READ_API_KEYS", "f" * 63), ("ADMIN_API_KEY", "f" * 64 + "@soon"),
        ("READ_API_KEYS", "f" * 64 + ","), ("ADMIN_API_KEY", "f" * 64 + "@2027-02-30"),
        ("PUBLIC_PAGES", "health,all"), ("PUBLIC_PAGES", "none,docs"),
        ("INGEST_EVENTS_PER_SECOND", "0"), ("CORS_ORIGINS", "tv.example"),
        ("CORS_ORIGINS", "https://tv.example/"), ("CORS_ORIGINS", "https://a.example,*"),
        ("ALLOWED_HOSTS", "a.example:80"), ("ALLOWED_HOSTS", "https://a.example"),
        ("CLICKHOUSE_QUERY_MEMORY", "1"), ("CLICKHOUSE_QUERY_QUEUE", "-1"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_one_line_that_names_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert re.fullmatch(rf"{name}: .+", str(raised.value))
    assert "sesame" not in str(raised.value)
    monkeypatch.delenv(name)
    Path(".env").write_text(f"{name}='{value}'\n")
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert re.fullmatch(rf"{name}: .+", str(raised.value))


def test_all_values_that_cannot_be_used_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "abc")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(ConfigurationError, match=r"^PORT: [^\n]+; LOG_LEVEL: [^\n]+$"):
        load_settings()


def test_a_log_in_needs_a_name_and_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    with pytest.raises(ConfigurationError, match=r"^KAFKA_USERNAME: .+; KAFKA_PASSWORD: .+$"):
        load_settings()
    monkeypatch.setenv("KAFKA_USERNAME", "cinema")
    monkeypatch.setenv("KAFKA_PASSWORD", "open-sesame")
    assert load_settings().kafka_password.get_secret_value() == "open-sesame"


def test_the_ports_of_processes_are_apart_from_the_shared_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLICKHOUSE_HOST", "localhost")
    monkeypatch.setenv("WORKERS", "4")
    for first in ("8003", "8006", "65533"):
        monkeypatch.setenv("PROCESS_PORTS", first)
        with pytest.raises(ConfigurationError, match=rf"^PROCESS_PORTS: .*{first}[^\n]*$"):
            load_settings()
    for first in ("8002", "8007", "65532"):
        monkeypatch.setenv("PROCESS_PORTS", first)
        assert load_settings().process_ports == int(first)


def test_an_env_file_that_is_no_text_is_one_line() -> None:
    Path(".env").write_bytes("CLICKHOUSE_PASSWORD=café\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"^[^\n]*\.env[^\n]*$"):
        load_settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "open-sesame")
    monkeypatch.setenv("READ_API_KEYS", "f" * 64)
    settings = load_settings()
    assert settings.clickhouse_password.get_secret_value() == "open-sesame"
    for shown in (repr(settings), str(settings), str(settings.model_dump())):
        assert "sesame" not in shown
        assert "fff" not in shown


def test_env_example_lists_every_setting_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:# )?[A-Z_]+=.*$", text, re.MULTILINE)
    assert listed == [
        f"# {name}=" if default == "unset" else f"{name}={default}"
        for name, default in documented_defaults(unset="unset", empty="")
    ]


def test_env_example_copied_as_it_is_changes_nothing() -> None:
    default = load_settings()
    shutil.copy(ROOT / ".env.example", ".env")
    assert load_settings() == default


def test_readme_lists_every_setting_with_its_default() -> None:
    """Its rows are `| `NAME` | meaning | default |`; the default may be in back-quotes."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Configuration\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\| `([A-Z_]+)` \| .+ \| `?(.*?)`? \|$", section[1], re.MULTILINE)
    assert rows == documented_defaults(unset="unset", empty="empty")
