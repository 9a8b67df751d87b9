"""What the real driver gets from the server that the tests start."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import NetworkError, ServerException

from tests.conftest import PASSWORD
from tests.support.native_server import NativeServer, native_server

Connect = Callable[..., Any]

AWKWARD = ["", "it's", 'say "so"', "back\\slash", "\\N", "\\'", "tab\tline\nend\r", "a\0b\b\f\a\v",
           "Кино 映画 🎬", "NULL", "[1, 'a']", "{x:String}", "-- /* '"]  # fmt: skip
IDS = [UUID(int=0), UUID("9f1c2d34-5b6a-4e78-8c9d-0a1b2c3d4e5f")]
WHEN = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)

AUTHENTICATION_FAILED, UNKNOWN_DATABASE, UNKNOWN_TABLE, READONLY = 516, 81, 60, 164
CANCELLED, THROWN, CONSTRAINT_VIOLATED, UNKNOWN_IDENTIFIER = 394, 395, 469, 47

LONG = "SELECT sum(sleepEachRow(0.01)) FROM numbers(3000) SETTINGS max_block_size = 1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeServer]:
    with native_server(tmp_path_factory.mktemp("native") / "store", PASSWORD) as started:
        yield started


@pytest.fixture(params=[False, "lz4"], ids=["plain", "lz4"])
def connect(server: NativeServer, request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients, which are disconnected at the end."""
    clients = []

    def connected(**options: Any) -> Any:
        given = {"password": PASSWORD, "compression": request.param, **options}
        given["settings"] = {"server_side_params": True, **given.get("settings", {})}
        client = Client("127.0.0.1", server.port, **given)
        clients.append(client)
        return client

    yield connected
    for client in clients:
        client.disconnect()


@pytest.fixture
def client(connect: Connect) -> Any:
    return connect()


@pytest.fixture
def table() -> str:
    """A name that nobody else has."""
    return f"t_{uuid4().hex[:12]}"


def create(client: Any, table: str, columns: str) -> None:
    client.execute(f"CREATE TABLE {table} ({columns}) ENGINE = MergeTree ORDER BY tuple()")


def count(client: Any, table: str) -> int:
    [(rows,)] = client.execute(f"SELECT count() FROM {table}")
    return int(rows)


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def is_running(client: Any, mark: str) -> bool:
    return bool(
        client.execute(
            "SELECT 1 FROM system.processes WHERE Settings['log_comment'] = {mark:String}",
            {"mark": mark},
        )
    )


def start(client: Any, sql: str, watcher: Any) -> tuple[str, Any]:
    """Its mark, and what iterates over its answer, when the engine runs it."""
    mark = str(uuid4())
    answer = client.execute_iter(sql, settings={"log_comment": mark})
    until(lambda: is_running(watcher, mark), "it does not run")
    return mark, answer


COLUMNS: dict[str, list[Any]] = {
    "Int8": [-128, 127], "UInt16": [0, 65535], "Int32": [-5, 5], "UInt64": [0, 2**64 - 1],
    "Int128": [-(2**100), 2**100], "Float32": [0.5, -2.0], "Float64": [1e300, 0.1],
    "Bool": [True, False], "String": ["", "映画 \n\n \0"], "FixedString(3)": ["abc", "xyz"],
    "UUID": IDS, "Date": [date(1970, 1, 1), date(2026, 2, 3)],
    "DateTime": [WHEN.replace(tzinfo=None), datetime(1970, 1, 1)],
    "DateTime64(3, 'UTC')": [WHEN.replace(microsecond=7000), WHEN],
    "Enum8('start' = 1, 'it, (s' = 2)": ["start", "it, (s"], "Enum16('a' = 1000)": ["a", "a"],
    "LowCardinality(String)": ["one", ""], "LowCardinality(Nullable(String))": [None, "two"],
    "Nullable(UInt32)": [None, 7], "Nullable(String)": ["x", None],
    "Array(String)": [[], AWKWARD], "Array(Nullable(UUID))": [[None, *IDS], []],
    "Array(Array(UInt8))": [[[1, 2], [], [3]], []], "Tuple(UInt8, String)": [(1, "a"), (2, "")],
    "Map(String, Array(UInt16))": [{"a": [1, 2], "b": []}, {}],
}  # fmt: skip


def test_types_go_both_ways(client: Any, table: str) -> None:
    names = [f"c{number}" for number in range(len(COLUMNS))]
    create(client, table, ", ".join(map(" ".join, zip(names, COLUMNS, strict=True))))
    listed = ", ".join(names)
    columns = list(COLUMNS.values())
    client.execute(f"INSERT INTO {table} ({listed}) VALUES", columns, columnar=True)
    back, header = client.execute(
        f"SELECT {listed} FROM {table}", columnar=True, with_column_types=True
    )
    assert header == list(zip(names, COLUMNS, strict=True))
    assert [list(column) for column in back] == columns


def test_types_of_answers_alone(client: Any) -> None:
    answer, header = client.execute(
        "SELECT NULL AS a, [] AS b, tuple(1 AS x, 'two' AS y)::Tuple(x UInt8, y String) AS c",
        with_column_types=True,
    )
    assert header[0] == ("a", "Nullable(Nothing)")
    assert answer == [(None, [], (1, "two"))]


def test_an_answer_without_rows(client: Any) -> None:
    assert client.execute("SELECT 1 AS a, 'b' AS b WHERE 0") == []


def test_a_statement_without_an_answer(client: Any, table: str) -> None:
    assert client.execute(f"CREATE TABLE {table} (n UInt64) ENGINE = Memory") == []
    assert client.execute(f"INSERT INTO {table} SELECT number FROM numbers(7)") == []
    assert client.execute(f"INSERT INTO {table} (n) VALUES (8), (9)") == []
    assert count(client, table) == 9


def test_an_answer_of_several_blocks(client: Any) -> None:
    answer = client.execute("SELECT number FROM numbers(200000) SETTINGS max_block_size = 60000")
    assert answer == [(number,) for number in range(200_000)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *(("String", value) for value in AWKWARD),
        ("Array(String)", AWKWARD),
        ("Array(String)", []),
        ("UUID", IDS[1]),
        ("Array(UUID)", IDS),
        ("Int64", -(2**63)),
        ("Array(Int32)", [-1, 0, 2**31 - 1]),
        ("Date", date(2026, 2, 3)),
        ("DateTime64(3, 'UTC')", WHEN),
    ],
)
def test_a_parameter_arrives_as_it_was(client: Any, kind: str, value: Any) -> None:
    assert client.execute(f"SELECT {{x:{kind}}}", {"x": value}) == [(value,)]


def test_settings_are_for_one_query_alone(client: Any) -> None:
    def comment(**settings: Any) -> str:
        [(found,)] = client.execute("SELECT getSetting('log_comment')", settings=settings)
        return str(found)

    assert comment(log_comment="it's \\ one") == "it's \\ one"
    assert comment(max_threads=1) == ""
    assert comment(log_comment="two", no_such_setting="x") == "two"
    assert comment(log_comment="two", max_block_size=5) == "two"
    assert comment() == ""


def test_an_insert_of_many_blocks_is_one_statement(client: Any, table: str) -> None:
    create(client, table, "n UInt32, word String")
    rows = [(number, str(number) * (number % 3)) for number in range(100_000)]
    settings = {"insert_block_size": 30_000}
    sent = client.execute(f"INSERT INTO {table} (n, word) VALUES", rows, settings=settings)
    assert sent == 100_000
    assert client.execute(f"SELECT n, word FROM {table} ORDER BY n") == rows
    parts = "SELECT rows FROM system.parts WHERE table = {table:String}"
    assert client.execute(parts, {"table": table}) == [(100_000,)]


def test_an_insert_of_nothing(client: Any, table: str) -> None:
    create(client, table, "n UInt32")
    assert client.execute(f"INSERT INTO {table} (n) VALUES", []) == 0
    assert count(client, table) == 0


def test_strings_of_any_bytes(connect: Connect, table: str) -> None:
    client = connect(settings={"strings_as_bytes": True})
    create(client, table, "raw String")
    rows = [(bytes(range(256)) * 50,), (b"",), (b"\n",), (b"\n\n;\n",), (b"\xff\xfe'\\",), (b"",)]
    client.execute(f"INSERT INTO {table} (raw) VALUES", rows)
    assert client.execute(f"SELECT raw FROM {table}") == rows


def test_a_slow_query_outlasts_the_time_out_of_the_socket(connect: Connect, table: str) -> None:
    client = connect(send_receive_timeout=0.4)
    assert client.execute("SELECT sleep(0.9)") == [(0,)]
    create(client, table, "n UInt8, slept UInt8 DEFAULT sleepEachRow(0.3)")
    client.execute(f"INSERT INTO {table} (n) VALUES", [(1,), (2,), (3,)])
    assert count(client, table) == 3


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT throwIf(number = 100000) FROM numbers(200000)", THROWN),
        ("SELECT nothing", UNKNOWN_IDENTIFIER),
        ("SELECT 1 FROM no_such_table", UNKNOWN_TABLE),
    ],
)
def test_a_query_that_fails(client: Any, sql: str, code: int) -> None:
    with pytest.raises(ServerException) as raised:
        client.execute(sql)
    assert raised.value.code == code
    assert client.execute("SELECT 1") == [(1,)]


def test_an_insert_that_fails_leaves_nothing(client: Any, table: str) -> None:
    create(client, table, "n UInt32, CONSTRAINT small CHECK n < 25")
    for target, code in (("(n)", CONSTRAINT_VIOLATED), ("(m)", UNKNOWN_IDENTIFIER)):
        with pytest.raises(ServerException) as raised:
            client.execute(
                f"INSERT INTO {table} {target} VALUES",
                [(number,) for number in range(30)],
                settings={"insert_block_size": 10},
            )
        assert raised.value.code == code
        assert count(client, table) == 0


def test_a_connection_goes_on_after_an_exception(client: Any) -> None:
    """The driver gives it up; others don't."""
    client.execute("SELECT 1")
    for _ in range(2):
        client.connection.send_query("SELECT nothing")
        client.connection.send_external_tables(None)
        assert client.connection.receive_packet().exception.code == UNKNOWN_IDENTIFIER
    assert client.connection.ping()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"password": "guessed"}, AUTHENTICATION_FAILED),
        ({"password": ""}, AUTHENTICATION_FAILED),
        ({"user": "nobody"}, AUTHENTICATION_FAILED),
        ({"database": "nowhere"}, UNKNOWN_DATABASE),
    ],
)
def test_who_is_not_let_in(connect: Connect, wrong: dict[str, str], code: int) -> None:
    with pytest.raises(ServerException) as raised:
        connect(**wrong).execute("SELECT 1")
    assert raised.value.code == code


def test_the_database_of_a_connection(client: Any, connect: Connect, table: str) -> None:
    client.execute(f"CREATE DATABASE {table}")
    assert connect(database=table).execute("SELECT currentDatabase()") == [(table,)]
    assert client.execute("SELECT currentDatabase()") == [("default",)]


def test_a_user_who_may_only_read(client: Any, connect: Connect, table: str) -> None:
    create(client, table, "n UInt8")
    reader = connect(user="reader")
    assert reader.execute(f"SELECT count() FROM {table}", settings={"max_threads": 1}) == [(0,)]
    for refused in (
        lambda: create(reader, f"{table}_2", "n UInt8"),
        lambda: reader.execute(f"INSERT INTO {table} (n) VALUES", [(1,)]),
        lambda: reader.execute(f"INSERT INTO {table} SELECT 1"),
        lambda: reader.execute(f"DROP TABLE {table}", settings={"readonly": 0}),
    ):
        with pytest.raises(ServerException) as raised:
            refused()
        assert raised.value.code == READONLY
    assert count(client, table) == 0


@pytest.mark.parametrize("into", ["", "INSERT INTO {table} "])
def test_a_query_whose_client_is_gone_is_cancelled(
    client: Any, connect: Connect, table: str, into: str
) -> None:
    create(client, table, "n UInt64")
    mark, _ = start(gone := connect(), into.format(table=table) + LONG, watcher=client)
    gone.disconnect()
    until(lambda: not is_running(client, mark), "it still runs")
    assert count(client, table) == 0


def test_an_insert_whose_client_is_gone_is_cancelled(
    client: Any, connect: Connect, table: str
) -> None:
    create(client, table, "n UInt8, slept UInt8 DEFAULT sleepEachRow(0.01)")
    mark, gone = str(uuid4()), connect()

    def insert() -> None:
        with suppress(EOFError, OSError):
            gone.execute(
                f"INSERT INTO {table} (n) VALUES", [(1,)] * 200, settings={"log_comment": mark}
            )

    inserting = threading.Thread(target=insert)
    inserting.start()
    until(lambda: is_running(client, mark), "it does not run")
    gone.connection.socket.shutdown(socket.SHUT_RDWR)
    inserting.join()
    until(lambda: not is_running(client, mark), "it still runs")
    assert count(client, table) == 0


def test_rows_of_a_client_that_goes_while_it_sends_them_are_not_inserted(
    client: Any, connect: Connect, table: str
) -> None:
    def rows() -> Iterator[tuple[int]]:
        for number in range(25):
            yield (number,)
        raise InterruptedError

    create(client, table, "n UInt32")
    with pytest.raises(InterruptedError):
        connect().execute(
            f"INSERT INTO {table} (n) VALUES", rows(), settings={"insert_block_size": 10}
        )
    time.sleep(0.2)  # for what must not happen
    assert count(client, table) == 0


def test_a_query_is_cancelled_at_will(client: Any, connect: Connect) -> None:
    mark, _ = start(other := connect(), LONG, watcher=client)
    with pytest.raises(ServerException) as raised:
        other.cancel()
    assert raised.value.code == CANCELLED
    assert not is_running(client, mark)
    assert other.execute("SELECT 1") == [(1,)]


def test_a_query_is_cancelled_in_the_same_breath(client: Any, server: NativeServer) -> None:
    client.execute("SELECT 1")
    server.pause()
    try:
        client.connection.send_query(LONG)
        client.connection.send_external_tables(None)
        client.connection.send_cancel()
    finally:
        server.go_on()  # it finds all of that at once
    began = time.monotonic()
    with pytest.raises(ServerException) as raised:
        client.receive_result()
    assert raised.value.code == CANCELLED
    assert time.monotonic() - began < 5


def test_a_query_is_killed_by_its_comment(client: Any, connect: Connect) -> None:
    mark, answer = start(connect(), LONG, watcher=client)
    other, other_answer = start(connect(), LONG, watcher=client)
    client.execute(f"KILL QUERY WHERE Settings['log_comment'] = '{mark}' SYNC")
    assert not is_running(client, mark)
    assert is_running(client, other)
    with pytest.raises(ServerException) as raised:
        list(answer)
    assert raised.value.code == CANCELLED
    client.execute(f"KILL QUERY WHERE Settings['log_comment'] = '{other}' SYNC")
    with pytest.raises(ServerException):
        list(other_answer)


def test_temporary_tables_belong_to_a_connection(connect: Connect, table: str) -> None:
    clients = [connect(), connect()]
    for number, client in enumerate(clients):
        client.execute(f"CREATE TEMPORARY TABLE {table} (n UInt8) ENGINE = Memory")
        client.execute(f"INSERT INTO {table} (n) VALUES", [(number,)] * 3)
    for number, client in enumerate(clients):
        assert client.execute(f"SELECT n FROM {table}") == [(number,)] * 3
    clients[0].disconnect()
    with pytest.raises(ServerException) as raised:
        clients[0].execute(f"SELECT n FROM {table}")
    assert raised.value.code == UNKNOWN_TABLE


def test_a_connection_leaves_nothing_behind(
    client: Any, connect: Connect, server: NativeServer
) -> None:
    process = Path(f"/proc/{server.pid}")

    def sockets() -> int:
        found = []
        for descriptor in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found.append(str(descriptor.readlink()).startswith("socket:"))
        return sum(found)

    def threads() -> int:
        """Those of Python: the engine's have names of their own."""
        names = []
        for thread in (process / "task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                names.append((thread / "comm").read_text())
        return names.count((process / "comm").read_text())

    client.execute("SELECT 1")
    until(lambda: sockets() == 2, "more than the listener and this client")
    before = threads()
    others = [connect() for _ in range(10)]
    for other in others:
        other.execute("SELECT 1")
    assert sockets() == 12
    assert threads() >= before + 10
    for other in others[5:]:
        start(other, LONG, watcher=client)
    for other in others:
        other.disconnect()
    until(lambda: sockets() == 2 and threads() <= before, "something is left")


def test_it_is_killed_and_started_again(client: Any, server: NativeServer, table: str) -> None:
    create(client, table, "n UInt8")
    client.execute(f"INSERT INTO {table} (n) VALUES", [(1,), (2,)])
    server.kill()
    server.kill()
    with pytest.raises(NetworkError):
        client.execute("SELECT 1")
    server.start()
    assert client.execute(f"SELECT n FROM {table} ORDER BY n") == [(1,), (2,)]
