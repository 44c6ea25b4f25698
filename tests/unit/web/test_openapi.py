"""The description of the API against the API itself."""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import msgspec

from iot.results.model import LatestValue
from tests.support.results import an_alert


def test_every_path_and_parameter_is_described(app, client):
    document = client.get("/api/openapi.json").json
    assert document["openapi"].startswith("3.1")
    rules = [rule for rule in app.url_map.iter_rules() if not str(rule).startswith("/static") and str(rule) != "/"]
    for rule in rules:
        path = re.sub(r"<(\w+)>", r"{\1}", str(rule))
        methods = {method.lower() for method in rule.methods - {"HEAD", "OPTIONS"}}
        assert methods <= document["paths"][path].keys()
    assert sum(len(its) for its in document["paths"].values()) == len(rules)
    given = {parameter["name"] for parameter in document["paths"]["/api/windows"]["get"]["parameters"]}
    assert given == {"minutes", "since", "until", "sensor_type", "location", "format"}


def test_every_key_of_the_metrics_is_described_and_has_the_described_type(client, store, clock):
    store.state = msgspec.structs.replace(
        store.state,
        recent_alerts=[an_alert(1)],
        latest=[LatestValue("s", "temperature", "hall", 31.5, "celsius", int(clock.now_s * 1e6), True)],
        rate_history=[(int(clock.now_s), 2.5)],
        alert_history=[(int(clock.now_s), "LOW_HUMIDITY", 4)],
        retention_s=3_600.0,
    )
    document: Any = client.get("/api/openapi.json").json
    answer = client.get("/api/metrics")
    described = document["components"]["schemas"]["Metrics"]
    assert list(answer.json) == list(described["properties"]) == described["required"]
    # At any depth, a key that is not described is an error.
    for name, schema in document["components"]["schemas"].items():
        assert name.endswith("Given") or set(schema["required"]) == schema["properties"].keys()
        schema["additionalProperties"] = False
    reference = {"$ref": "#/components/schemas/Metrics", "components": document["components"]}
    jsonschema_rs.validator_for(reference).validate(answer.json)


def test_only_the_body_of_an_acknowledgement_may_be_left_out(client):
    posts = {path: its["post"] for path, its in client.get("/api/openapi.json").json["paths"].items() if "post" in its}
    assert {path: of["requestBody"]["required"] for path, of in posts.items()} == {
        "/api/alarms/{alarm_id}/ack": False,
        "/api/silences": True,
    }
