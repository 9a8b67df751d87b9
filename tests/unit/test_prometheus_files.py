"""What deploy/ has for Prometheus and Grafana: right by their own tool, and about our metrics."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from app.core.config import Settings
from app.main import create_app
from tests.support.process import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"


@pytest.mark.parametrize(
    ("action", "file"),
    [
        (("check", "config"), "prometheus.yml"),
        (("check", "rules"), "alerts.yml"),
        (("test", "rules"), "alerts_test.yml"),
    ],
)
def test_promtool_finds_nothing_wrong(promtool: str, action: tuple[str, str], file: str) -> None:
    checked = subprocess.run(
        [promtool, *action, str(PROMETHEUS / file)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def rules() -> list[dict[str, Any]]:
    text = (PROMETHEUS / "alerts.yml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    text = (PROMETHEUS / "alerts_test.yml").read_text(encoding="utf-8")
    tests = [one for test in yaml.safe_load(text)["tests"] for one in test["alert_rule_test"]]
    names = sorted(rule["alert"] for rule in rules())
    for fires in (True, False):
        shown = {one["alertname"] for one in tests if bool(one["exp_alerts"]) == fires}
        assert sorted(shown) == names


def panels() -> Iterator[dict[str, Any]]:
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [
        target["expr"] for panel in panels() for target in panel["targets"]
    ]


def test_they_ask_for_metrics_and_labels_that_are_there() -> None:
    measures = create_app(Settings(_env_file=None)).state.measures
    measures.request("/", "GET", 200, 0.0)
    measures.kafka("group", True, [("topic", 0, 0)])
    labels: dict[str, set[str]] = {"up": {"job", "instance"}}
    for family in measures.families():
        for sample in family.samples:
            labels.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    asked = set()
    for text in expressions():
        for name, conditions in re.findall(r"\b(up|(?:analytics|process)_\w+)\b(\{[^}]*\})?", text):
            asked.add(name)
            assert set(re.findall(r"(\w+)(?==|!=)", conditions)) <= labels[name], text
    ours = {name for name in labels if name.startswith("analytics_")}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours} <= shown


def test_every_panel_of_the_dashboard_is_named_and_none_covers_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells
