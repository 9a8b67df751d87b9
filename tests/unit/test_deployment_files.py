"""Dockerfile and docker-compose.yml agree with the service, and with what was promised of them."""

import json
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
