"""Dockerfile and docker-compose.yml agree with the service, and with what was promised of them."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.core.config import Settings
from tests.support.process import ROOT


@pytest.fixture
def services() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    parsed: dict[str, Any] = yaml.safe_load(text)["services"]
    return parsed


@pytest.fixture
def dockerfile() -> list[list[str]]:
    """Its instructions: [name, the rest]. Continued lines are joined, comments left out."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]


def last(dockerfile: list[list[str]], name: str) -> str:
    return [rest for instruction, rest in dockerfile if instruction == name][-1]


def is_pinned(image: str) -> bool:
    _, _, tag = image.rpartition("/")[2].partition(":")
    return tag not in ("", "latest")


def compose() -> list[str]:
    """What reads a compose file: the plugin of docker, or the program of before."""
    if (
        shutil.which("docker")
        and not subprocess.run(
            ["docker", "compose", "version"], capture_output=True, check=False
        ).returncode
    ):
        return ["docker", "compose"]
    program = shutil.which("docker-compose")
    if program is None:
        if "CI" in os.environ:
            pytest.fail("docker-compose is not installed")
        pytest.skip("docker compose is needed to check docker-compose.yml")
    return [program]


@pytest.mark.parametrize("password", ["a-password", ""])
def test_compose_takes_the_file_with_a_password_and_not_without(
    tmp_path: Path, password: str
) -> None:
    (tmp_path / "env").touch()  # not the .env that may be here
    checked = subprocess.run(
        [*compose(), "--project-directory", str(ROOT), "--env-file", str(tmp_path / "env"),
         "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
        env={"PATH": os.environ["PATH"], "CLICKHOUSE_PASSWORD": password},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.returncode == 0) == bool(password), checked.stderr
    if not password:
        assert "set it in .env" in checked.stderr


def test_compose_sets_only_variables_that_the_service_knows(services: dict[str, Any]) -> None:
    known = {name.upper() for name in Settings.model_fields}

    assert set(services["analytics"]["environment"]) <= known


def test_compose_publishes_only_the_service(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["analytics"]
    assert not any("network_mode" in service for service in services.values())


def test_service_waits_until_what_it_needs_is_healthy(services: dict[str, Any]) -> None:
    needed = services["analytics"]["depends_on"]

    assert set(needed) == {"clickhouse", "kafka"}
    for name, dependency in needed.items():
        assert dependency["condition"] == "service_healthy"
        assert services[name]["healthcheck"]["test"]


def test_data_is_in_named_volumes(services: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    named = set(yaml.safe_load(text)["volumes"])

    for name in ("clickhouse", "kafka"):
        assert {volume.partition(":")[0] for volume in services[name]["volumes"]} <= named


def test_passwords_are_not_in_compose(services: dict[str, Any]) -> None:
    for name in ("analytics", "clickhouse"):
        assert services[name]["environment"]["CLICKHOUSE_PASSWORD"].startswith(
            "${CLICKHOUSE_PASSWORD:?"
        )


def test_images_are_pinned(services: dict[str, Any], dockerfile: list[list[str]]) -> None:
    images = [service["image"] for service in services.values() if "image" in service]
    images.append(last(dockerfile, "FROM"))

    assert len(images) == 3
    for image in images:
        assert is_pinned(image), image


def test_container_runs_the_service_as_an_ordinary_user(dockerfile: list[list[str]]) -> None:
    assert last(dockerfile, "USER") not in ("root", "0")
    assert json.loads(last(dockerfile, "CMD")) == ["python", "-m", "app.main"]


def test_container_has_a_health_check(dockerfile: list[list[str]]) -> None:
    options, _, command = last(dockerfile, "HEALTHCHECK").partition("CMD")

    assert "--interval" in options
    assert "/readyz" in json.loads(command)[-1]


def test_kafka_without_containers_is_of_the_same_version(services: dict[str, Any]) -> None:
    pom = (ROOT / "scripts" / "kafka-pom.xml").read_text(encoding="utf-8")
    version = services["kafka"]["image"].partition(":")[2]

    assert f"<kafka.version>{version}</kafka.version>" in pom
