"""Injected faults: every malformed message is rejected, and sequence numbers have no gaps."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from iot.readings import Rejected, decode, format_timestamp
from iot.sensors.faults import KINDS, Injector, malformed_message
from iot.sensors.fleet import Fleet

NOW_US = time.time_ns() // 1000
TIMES_US = NOW_US + np.arange(1_000) * 50_000


def batch(malformed_ratio=0.0, late_ratio=0.0, cuts=()):
    """Return values, malformed and late of a thousand records, made in parts that end at ``cuts``."""
    injector = Injector(Fleet(10, 1, "r"), malformed_ratio, late_ratio, "1")
    values, malformed, late = [], [], []
    for part in np.split(TIMES_US, cuts):
        made = injector.batch(part)
        values += [record["value"] for record in made.records]
        malformed += made.malformed.tolist()
        late += made.late.tolist()
    return values, malformed, late


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_malformed_message_is_rejected(kind):
    fields = {
        "sensor_id": "sensor_7",
        "sensor_type": "temperature",
        "location": "building_a",
        "value": 21.5,
        "unit": "celsius",
        "timestamp": format_timestamp(NOW_US),
    }
    for seed in range(50):
        with pytest.raises(Rejected):
            decode(KINDS[kind](fields, random.Random(seed)), NOW_US // 1000)


def test_all_kinds_of_malformed_messages_occur():
    messages = [malformed_message("sensor_7", NOW_US, random.Random(seed)) for seed in range(1_000)]
    reasons = set()
    for message in messages:
        with pytest.raises(Rejected) as rejected:
            decode(message, NOW_US // 1000)
        reasons.add(str(rejected.value))
        assert b"sequence" not in message
    assert len(reasons) > 10


def test_malformed_messages_take_no_sequence_number():
    values, malformed, _ = batch(malformed_ratio=0.1)
    assert 50 < sum(malformed) < 150
    sequences: dict[str, list[int | None]] = {}
    for value, broken in zip(values, malformed, strict=True):
        if broken:
            with pytest.raises(Rejected):
                decode(value, NOW_US // 1000)
        else:
            reading = decode(value)
            sequences.setdefault(reading.sensor_id, []).append(reading.sequence)
    assert len(sequences) == 10
    assert all(found == list(range(len(found))) for found in sequences.values())


def test_late_readings_are_one_to_two_minutes_back_and_otherwise_valid():
    values, _, late = batch(late_ratio=0.1)
    assert 50 < sum(late) < 150
    back_s = [(time_us - decode(value).time_us) / 1e6 for value, time_us in zip(values, TIMES_US, strict=True)]
    assert all(60 <= back <= 120 if is_late else back == 0 for back, is_late in zip(back_s, late, strict=True))
    assert [decode(value).sequence for value in values[:30]] == [0] * 10 + [1] * 10 + [2] * 10


def test_cutting_into_batches_changes_nothing():
    assert batch(0.2, 0.2, (1, 3, 500, 500, 999)) == batch(0.2, 0.2)


def test_ratios_of_0_and_1():
    assert not any(batch(0, 0)[1] + batch(0, 0)[2])
    values, malformed, late = batch(1, 1)
    assert all(malformed)
    assert not any(late)
    assert len(values) == 1_000
