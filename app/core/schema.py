"""Where `clickhouse/schema.sql` becomes statements, for one server or for a cluster."""

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from app.core.errors import ConfigurationError, StoreError

SQL_FOLDER = Path(__file__).parents[2] / "clickhouse"

OLD_PARTS_SECONDS = 60
"""How long what was merged stays, as `clickhouse/schema.sql` has it."""

LOCAL = "_local"
"""How the names of the tables on each node of a cluster end; without it, all of them together."""

# A string may hold what looks like a comment, or like the end of a statement.
_TEXT_OR_COMMENT = re.compile(r"(?P<text>'(?:[^'\\]|\\.)*')|--[^\n]*|/\*.*?\*/", re.DOTALL)
_STATEMENT = re.compile(r"(?:'(?:[^'\\]|\\.)*'|[^';])+", re.DOTALL)
_TABLE = re.compile(
    r"CREATE TABLE IF NOT EXISTS (?P<name>\w+)\s*\((?P<columns>.*)\)"
    r"\s*ENGINE = (?P<engine>\w*MergeTree)\b(?P<rest>.*)",
    re.DOTALL,
)
_VIEW = re.compile(
    r"CREATE MATERIALIZED VIEW IF NOT EXISTS (?P<name>\w+) TO (?P<target>\w+) AS\b(?P<select>.*)",
    re.DOTALL,
)
_COLUMN = re.compile(r"^ {4}`?(?!INDEX\b|PROJECTION\b)(\w+)`? +[A-Z]", re.MULTILINE)
_ORDER = re.compile(r"ORDER BY (\(.*\)|\w+)$", re.MULTILINE)


def database_statement(database: str, cluster: str | None) -> str:
    """What creates the database unless it is there."""
    return f"CREATE DATABASE IF NOT EXISTS `{database}`{_on(cluster)}"


def schema_statements(database: str, cluster: str | None) -> list[str]:
    """The statements of `clickhouse/schema.sql`, in order; running them again changes nothing.

    On a cluster each table stands for two: `<name>_local`, replicated, on each node, and `<name>`,
    which is distributed over those of all shards. So queries are the same with and without.
    """
    text = (SQL_FOLDER / "schema.sql").read_text(encoding="utf-8")
    bare = _TEXT_OR_COMMENT.sub(lambda found: found["text"] or "", text)
    statements = [found.strip() for found in _STATEMENT.findall(bare) if found.strip()]
    if cluster is None:
        return statements
    return [
        rendered
        for statement in statements
        for rendered in _on_cluster(statement, database, cluster)
    ]


UNFILLED = "unfilled_"
"""How the name of a table begins that says: the rollup of that name lacks what was there before."""

_MADE_VIEW = re.compile(r"CREATE MATERIALIZED VIEW IF NOT EXISTS (?:`\w+`\.)?(\w+)")
_FILLED = re.compile(r" TO (?:`\w+`\.)?(\w+)")


_Execute = Callable[[str], Awaitable[list[dict[str, Any]]]]


async def mark_unfilled(execute: _Execute, rollup: str) -> None:
    """Say that the rollup lacks events, until it is filled."""
    await execute(
        f"CREATE TABLE IF NOT EXISTS {UNFILLED}{rollup}"
        " (nothing UInt8) ENGINE = MergeTree ORDER BY tuple()"
    )


async def apply_schema(execute: _Execute, database: str, cluster: str | None) -> None:
    """Bring the database to `clickhouse/schema.sql`; nothing changes when it is there.

    A view sees what is inserted after it was made. Where there are events already, a table
    `unfilled_<rollup>` is made before it, to say so until the rollup is filled.
    """
    there = {
        row["name"]
        for row in await execute(
            "SELECT name FROM system.tables WHERE database = currentDatabase()"
        )
    }
    has_events = "viewing_events" in there and bool(
        await execute("SELECT 1 AS one FROM viewing_events LIMIT 1")
    )
    for statement in schema_statements(database, cluster):
        view, target = _MADE_VIEW.match(statement), _FILLED.search(statement)
        if view and target and view[1] not in there and has_events:
            await mark_unfilled(execute, target[1].removesuffix(LOCAL))
        try:
            await execute(statement)
        except StoreError:
            if cluster is None:
                await _refuse_other_tables(execute, database)
            raise
    if cluster is None:
        await _refuse_other_tables(execute, database)


async def _refuse_other_tables(execute: _Execute, database: str) -> None:
    """Raises ConfigurationError when a table that was there isn't the one of `schema.sql`."""
    there = defaultdict(set)
    for row in await execute(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase()"
    ):
        there[row["table"]].add(row["name"])
    for statement in schema_statements(database, None):
        table = _TABLE.fullmatch(statement)
        if table and table["name"] in there:
            for column in _COLUMN.findall(table["columns"]):
                if column not in there[table["name"]]:
                    raise ConfigurationError(
                        f"CLICKHOUSE_DATABASE: the table {table['name']} of {database} has no "
                        f"column {column}; it is of another version, or of something else"
                    )


def _on_cluster(statement: str, database: str, cluster: str) -> list[str]:
    def full(name: str) -> str:
        return f"`{database}`.{name}"  # a node that carries it out has another current database

    def distributed(name: str, target: str, key: str) -> str:
        return (
            f"CREATE TABLE IF NOT EXISTS {full(name)}{_on(cluster)} AS {full(target + LOCAL)}\n"
            f"ENGINE = Distributed('{cluster}', '{database}', '{target}{LOCAL}', {key})"
        )

    if table := _TABLE.fullmatch(statement):
        name = table["name"]
        # Not by the table's UUID: a replica that comes later would get another one from the next
        # start, and be a table apart, empty and read as if it were not. By names it joins the
        # others; what is left of a dropped table is met with an error, until it is gone.
        local = (
            f"CREATE TABLE IF NOT EXISTS {full(name + LOCAL)}{_on(cluster)}\n({table['columns']})\n"
            f"ENGINE = Replicated{table['engine']}"
            "('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')"
            f"{table['rest']}"
        )
        return [local, distributed(name, name, _sharding_key(name, table))]
    if view := _VIEW.fullmatch(statement):
        name, target = view["name"], view["target"]
        # Each shard fills its part of a rollup from its part of the events.
        select = re.sub(r"\bFROM (\w+)", lambda it: f"FROM {full(it[1] + LOCAL)}", view["select"])
        local = (
            f"CREATE MATERIALIZED VIEW IF NOT EXISTS {full(name + LOCAL)}{_on(cluster)}"
            f" TO {full(target + LOCAL)} AS{select}"
        )
        # Queries read the view; nothing is written by its name.
        return [local, distributed(name, target, "rand()")]
    raise ConfigurationError(
        "CLICKHOUSE_CLUSTER: schema.sql has a statement with no form for a cluster: "
        f"{statement.splitlines()[0]}"
    )


def _sharding_key(name: str, table: re.Match[str]) -> str:
    """A user's events stay together; elsewhere, what can be merged into one row does."""
    if re.search(r"^\s*user_id\s", table["columns"], re.MULTILINE):
        return "cityHash64(user_id)"
    order = _ORDER.search(table["rest"])
    if order is None:
        raise ConfigurationError(f"CLICKHOUSE_CLUSTER: table {name} of schema.sql has no ORDER BY")
    return f"cityHash64({order[1].removeprefix('(').removesuffix(')')})"


def _on(cluster: str | None) -> str:
    return "" if cluster is None else f" ON CLUSTER `{cluster}`"
