"""The dashboard for Grafana is well formed, and shows every metric that /metrics has."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.deploy import DASHBOARD, DEPLOY, metrics_in, rules, without_suffix
from tests.unit.web.test_prometheus import measured as measured  # a fixture

BOARD: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = BOARD["panels"]
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]
PROVISIONED = DEPLOY / "grafana" / "provisioning"


def test_panels_are_unique_and_explained():
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in PANELS]
    assert len(titles) == len(set(titles))
    for panel in SHOWN:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert references == list("ABCDEFGH"[: len(references)])


def test_panels_do_not_overlap_and_fit_the_grid():
    places = [(panel["title"], panel["gridPos"]) for panel in PANELS]
    for title, at in places:
        assert at["x"] >= 0, title
        assert at["x"] + at["w"] <= 24, title
        assert at["h"] > 0, title
    for (one, a), (other, b) in combinations(places, 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y, f"{one} overlaps {other}"


def test_the_data_source_is_the_one_that_is_provisioned():
    [source] = yaml.safe_load((PROVISIONED / "datasources" / "iot.yml").read_text(encoding="utf-8"))["datasources"]
    wanted = {"type": source["type"], "uid": source["uid"]}
    for panel in SHOWN:
        assert panel["datasource"] == wanted
        assert all(target["datasource"] == wanted for target in panel["targets"])
    for variable in BOARD["templating"]["list"]:
        assert variable["datasource"] == wanted
    text = DASHBOARD.read_text(encoding="utf-8")
    # Grafana asks for a value of these when a dashboard is imported by hand.
    assert "${DS_" not in text
    assert "__inputs" not in text
    assert source["url"].startswith("http://127.0.0.1:")


def test_no_series_is_of_a_single_sensor():
    for panel in SHOWN:
        for target in panel["targets"]:
            for name in ("sensor_id", "location", "alarm_id"):
                assert name not in target["expr"] + target["legendFormat"]


def test_expressions_use_metrics_that_exist_and_show_all_of_them(client, measured):
    lines = client.get("/metrics").text.splitlines()
    exposed = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    exposed = {name.removesuffix("_total") for name in exposed}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    of_rules = {name for rule in rules() for name in metrics_in(rule["expr"])}
    of_panels = {name for panel in SHOWN for target in panel["targets"] for name in metrics_in(target["expr"])}
    used = {without_suffix(name, exposed) for name in of_rules | of_panels}
    assert used - recorded - {"up"} <= exposed
    shown = {without_suffix(name, exposed) for name in of_panels}
    assert exposed - shown == set()


@pytest.mark.parametrize("folder", ["datasources", "dashboards"])
def test_provisioning_files_have_the_version_that_grafana_expects(folder):
    content = yaml.safe_load((PROVISIONED / folder / "iot.yml").read_text(encoding="utf-8"))
    assert content["apiVersion"] == 1
