"""The messages about alarms, for programs and for people."""

from __future__ import annotations

import json

import msgspec
import pytest

from iot.alarms.grouping import Notification
from iot.alarms.messages import alertmanager_alerts, fingerprint, sentence, text, title, webhook_body
from tests.support.alarms import alarm, at, resolved

RULE = {"rule": "HIGH_TEMPERATURE"}
KEY = '{}:{rule="HIGH_TEMPERATURE"}'


def notification(firing=(), ended=(), new=None):
    return Notification(KEY, RULE, tuple(firing), tuple(ended), len(firing) if new is None else new)


def test_a_webhook_body_is_alertmanagers():
    body = webhook_body(notification([alarm("a")], [resolved(alarm("b"), 60)]), "ops", 500, "http://localhost:5000")
    assert body == json.loads(msgspec.json.encode(body))
    first, second = body.pop("alerts")
    assert body == {
        "version": "4",
        "groupKey": KEY,
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "ops",
        "groupLabels": {"alertname": "HIGH_TEMPERATURE"},
        "commonLabels": {
            "alertname": "HIGH_TEMPERATURE",
            "location": "lab",
            "unit": "celsius",
            "sensor_type": "temperature",
            "severity": "warning",
        },
        "commonAnnotations": {
            "peak": "33",
            "started": at(0),
            "threshold": "30",
            "unit": "celsius",
            "value": "31.5",
        },
        "externalURL": "http://localhost:5000",
    }
    assert first["status"] == "firing"
    assert first["labels"]["sensor_id"] == "sensor_a"
    assert (first["startsAt"], first["endsAt"]) == (at(0), "0001-01-01T00:00:00Z")
    assert first["fingerprint"] == fingerprint(first["labels"])
    assert (second["status"], second["endsAt"]) == ("resolved", at(60))


def test_a_body_of_ends_only_is_resolved():
    assert webhook_body(notification([], [resolved(alarm("a"))]), "ops", 0, "")["status"] == "resolved"


def test_a_body_is_bounded_and_has_what_is_new():
    firing = [alarm(f"{number:05}") for number in range(10_000)]
    body = webhook_body(notification(firing, [resolved(alarm("end"))], new=3), "ops", 500, "")
    assert (len(body["alerts"]), body["truncatedAlerts"]) == (500, 9_501)
    assert [one["labels"]["sensor_id"] for one in body["alerts"][:4]] == [
        "sensor_00000",
        "sensor_00001",
        "sensor_00002",
        "sensor_end",
    ]
    assert len(webhook_body(notification(firing), "ops", 0, "")["alerts"]) == 10_000


def test_a_fingerprint_is_that_of_alertmanager():
    """The integration tests compare it with a real Alertmanager."""
    assert fingerprint({}) == "cbf29ce484222325"
    assert fingerprint({"alertname": "x"}) == "d240efc3896bf266"
    assert fingerprint({"a": "bc"}) != fingerprint({"ab": "c"})


def test_an_alertmanager_hears_no_time_in_the_future_but_until_when_to_believe():
    early, late = alarm("a"), alarm("b", started=at(5000), fired=at(5000))
    ended, ended_late = resolved(alarm("c"), 900), resolved(alarm("d", fired=at(2000)), 9000)
    alerts = alertmanager_alerts(notification([early, late], [ended, ended_late]), "", 1000)
    times = [(one["startsAt"], one["endsAt"]) for one in alerts]
    assert [(start[11:19], end[11:19]) for start, end in times] == [
        ("00:00:00", "00:20:40"),
        ("00:16:40", "00:20:40"),
        ("00:00:00", "00:15:00"),
        ("00:16:40", "00:16:40"),
    ]


def test_alarms_of_rules_in_two_units_are_two_for_alertmanager():
    of_units = [alarm("a", sensor_id="s", unit=unit) for unit in ("celsius", "kelvin")]
    bodies = [alertmanager_alerts(notification([one]), "", 0)[0] for one in of_units]
    assert [body["labels"]["unit"] for body in bodies] == ["celsius", "kelvin"]
    assert len({fingerprint(body["labels"]) for body in bodies}) == 2


def test_an_alarm_without_location_has_no_such_label():
    (one,) = alertmanager_alerts(notification([alarm("a", location="")]), "", 0)
    assert "location" not in one["labels"]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (alarm("a"), "sensor_a (lab): temperature above 30 celsius since 1970-01-01 00:00:00 UTC, now 31.5, peak 33"),
        (
            resolved(alarm("a", value=28.1), 3600),
            "sensor_a (lab): temperature was above 30 celsius from 1970-01-01 00:00:00 UTC to 1970-01-01 01:00:00 UTC, "
            "now 28.1, peak 33",
        ),
        (
            alarm("a", rule="LOW_PRESSURE", unit="hPa", threshold=1000.0, value=990.25, peak=0.1 + 0.2),
            "sensor_a (lab): temperature below 1000 hPa since 1970-01-01 00:00:00 UTC, now 990.25, peak 0.3",
        ),
        (
            alarm("a", rule="SENSOR_SILENT", location="", unit="s", threshold=300.0),
            "sensor_a: no temperature reading since 1970-01-01 00:00:00 UTC, for more than 300 s",
        ),
        (
            resolved(alarm("a", rule="SENSOR_SILENT", unit="s", threshold=300.0), 400),
            "sensor_a (lab): sends temperature again since 1970-01-01 00:06:40 UTC; the last before was at "
            "1970-01-01 00:00:00 UTC",
        ),
        (
            alarm("a", sensor_id="x\n\x1b[2J", location=""),
            "x\\n\\x1b[2J: temperature above 30 celsius since 1970-01-01 00:00:00 UTC, now 31.5, peak 33",
        ),
    ],
)  # fmt: skip
def test_a_sentence_says_who_what_and_since_when(told, expected):
    assert sentence(told) == expected


def test_a_title_counts():
    a, b, c = alarm("a"), alarm("b"), resolved(alarm("c", rule="LOW_HUMIDITY"))
    assert title(notification([a])) == "1 alarm firing: HIGH_TEMPERATURE"
    assert title(notification([a, b], [c])) == "2 alarms firing, 1 resolved: HIGH_TEMPERATURE, LOW_HUMIDITY"
    assert title(notification([], [c])) == "1 alarm resolved: LOW_HUMIDITY"


def test_a_text_has_a_line_for_each_alarm_as_far_as_they_fit():
    few = text(notification([alarm("a")], [resolved(alarm("b"))]), "http://localhost:5000", 4000).split("\n")
    assert few[0].startswith("FIRING warning: sensor_a (lab): ")
    assert few[1].startswith("RESOLVED warning: sensor_b (lab): ")
    assert few[2:] == ["http://localhost:5000"]
    many = text(notification([alarm(str(number)) for number in range(10_000)]), "", 2000)
    assert len(many) <= 2000
    *lines, last = many.split("\n")
    assert last == f"and {10_000 - len(lines)} more"
    assert len(lines) > 10
    assert len(text(notification([alarm("a")]), "", 20)) == 20
