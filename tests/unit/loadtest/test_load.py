"""The readings of an end-to-end test."""

from __future__ import annotations

import time

from iot.loadtest.load import Load
from iot.readings import decode


def test_the_load_breaks_the_rules_as_often_as_expected():
    load = Load(400, 1_000.0, "run1", "here", time.monotonic())
    readings = [decode(load.record(number)["value"]) for number in range(400)]
    assert {(r.location, r.run_id) for r in readings} == {("here", "run1")}
    assert len({(r.sensor_id, r.sequence) for r in readings}) == 400
    breaking = [r for r in readings if r.value in (34.0, 24.0, 1037.0)]
    assert len(breaking) == 400 // 20
    assert len({r.sensor_id for r in breaking}) == 20
    assert sum(map(len, load.expected_windows().values())) == 1_200
    places = {"t-0-5": ("load_0", 0)}
    assert "t-0-5" in load.expected_alerts(places)
    assert len(load.expected_alerts(places)) == 20
