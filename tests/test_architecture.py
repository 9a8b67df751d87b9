"""Imports point one way, each driver has one importer, and Settings alone reads the environment."""

import ast
from pathlib import Path

import pytest

from tests.support.process import ROOT

APP = ROOT / "app"
FILES = sorted(APP.rglob("*.py"))

BASE = {"core", "schemas"}
MAY_IMPORT = {
    "core": {"core"},
    "schemas": {"schemas"},
    "ingest": {"ingest"} | BASE,
    "services": {"services"} | BASE,
    "kafka_consumer": {"kafka_consumer", "ingest"} | BASE,
    "api": {"api", "services", "ingest"} | BASE,
    "keys.py": {"core"},
    "main.py": {"api", "kafka_consumer", "services", "ingest"} | BASE,
}
IMPORTER = {
    "chdb": "core/clickhouse_embedded.py",
    "clickhouse_driver": "core/clickhouse_server.py",
    "aiokafka": "kafka_consumer/",
    "prometheus_client": "core/measures.py",
}


def imports(path: Path) -> set[str]:
    """The dotted names of all that is imported, `from a import b` as `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports_of_app(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == "app"}


each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(APP)))


@each_file
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = path.relative_to(APP).parts[0]
    rooms = {(name + ".").split(".")[1] for name in imports_of_app(path)}
    assert rooms <= MAY_IMPORT.get(room, set())


@each_file
def test_a_driver_is_imported_in_its_place(path: Path) -> None:
    drivers = {name.split(".")[0] for name in imports(path)} & set(IMPORTER)
    place = path.relative_to(APP).as_posix()
    assert [driver for driver in drivers if not place.startswith(IMPORTER[driver])] == []


@each_file
def test_a_file_leaves_the_environment_to_settings(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    read |= {name.split(".")[-1] for name in imports(path)}
    assert read.isdisjoint({"environ", "environb", "getenv", "getenvb"})


def test_settings_know_nothing_but_the_errors_and_the_form_of_keys() -> None:
    names = imports_of_app(APP / "core" / "config.py")
    assert names == {"app.core.errors.ConfigurationError", "app.core.keys.parse_keys"}
    assert imports_of_app(APP / "core" / "keys.py") == set()


def test_sample_events_stand_alone() -> None:
    assert imports_of_app(ROOT / "test_events.py") == set()
