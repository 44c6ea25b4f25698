"""The judgement of what a webhook was told about alarms."""

from __future__ import annotations

import pytest

from tests.support.alarms import alarm, resolved
from tests.support.notified import faults, lasted, told

ALARMS = {one.alarm_id: one for one in (alarm("fires"), resolved(alarm("over")), alarm("waits", state="pending"))}
RIGHT = [("firing", "fires"), ("firing", "over"), ("resolved", "over")]


def bodies(*alerts: tuple[str, str]) -> list[dict[str, object]]:
    return [{"alerts": [{"status": status, "annotations": {"alarm_id": name}}]} for status, name in alerts]


@pytest.mark.parametrize(
    ("alerts", "mistake"),
    [
        (RIGHT, ""),
        (RIGHT[:1], ""),
        (RIGHT[1:], "1 alarms fired, but not told, such as fires"),
        (RIGHT[:2], "1 alarms resolved, but only told as firing, such as over"),
        (RIGHT[::2], "1 alarms not told as firing, but as resolved, such as over"),
        ([*RIGHT, ("firing", "waits")], "1 alarms never fired, but told, such as waits"),
        ([*RIGHT, ("resolved", "fires")], "1 alarms still firing, but told as resolved, such as fires"),
        ([*RIGHT, RIGHT[0]], ""),
        ([*RIGHT, *RIGHT[:2]], "2 repeats, but at most 1 deliveries were cut off"),
    ],
)
def test_each_mistake_is_found(alerts, mistake):
    assert faults(told(bodies(*alerts)), ALARMS, (), cut_off=1) == ([mistake] if mistake else [])


def test_what_lasted_must_be_told():
    assert faults(told(bodies(RIGHT[0])), ALARMS, {"over"}, 0) == ["1 alarms fired, but not told, such as over"]


def test_an_alarm_lasts_if_nothing_was_down_meanwhile():
    spans = {"short": (10.0, 13.0), "long": (20.0, 25.0), "cut": (30.0, 36.0), "before": (40.0, 45.0)}
    assert lasted(spans, [(35.0, 37.0), (45.0, 50.0)]) == {"long", "before"}
