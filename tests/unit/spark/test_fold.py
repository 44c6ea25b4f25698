"""Validating and folding a batch: totals, last readings, rejected messages and limits."""

from __future__ import annotations

import random
from collections import defaultdict

import msgspec
import pyarrow as pa
import pytest

from iot import batches
from iot.batches import MAX_SENSORS, MAX_TYPES, OTHER, BatchReport
from iot.readings import format_timestamp
from iot.spark.contexts import Context
from iot.spark.fold import FOLDED, PARTIALS, decode_report, fold
from tests.support.batches import BASE_MS, BASE_US, Sent, arrow_batches, reading, run_batch


def test_a_batch_may_be_empty():
    rows, report, _ = run_batch([])
    assert rows == []
    assert report == BatchReport()


def test_rejected_messages_are_counted_and_passed_on():
    seen: list[tuple[bool, tuple[int, str]]] = []
    sent = [Sent(0, BASE_MS, b"{"), Sent(0, BASE_MS, reading(BASE_US)), Sent(0, BASE_MS, b"")]
    [batch] = arrow_batches(sent)[0]
    parts = list(fold([batch], Context(), lambda of, rows: seen.extend((of is batch, row) for row in rows)))
    assert [(same, row) for same, (row, _) in seen] == [(True, 0), (True, 2)]
    assert all(reason for _, (_, reason) in seen)
    assert all(part.schema == FOLDED for part in parts)
    partials = pa.ipc.read_record_batch(pa.py_buffer(parts[0].column("partials")[0].as_py()), PARTIALS)
    assert partials.column("count").to_pylist() == [1]
    report = decode_report(parts[-1].column("report")[0].as_py())
    assert (report.messages, report.rejected) == (1, 2)


def test_rejected_messages_are_counted_by_the_kind_of_reason_over_all_partitions():
    sent = [
        Sent(0, BASE_MS + 5, b"{"),
        Sent(0, BASE_MS + 6, reading(BASE_US)),
        Sent(0, BASE_MS + 7, b""),
        Sent(1, BASE_MS + 3, reading(BASE_US)),
        Sent(1, BASE_MS + 9, b"{"),
        Sent(2, BASE_MS + 8, reading(BASE_US + 70_000_000)),
    ]
    _, report, _ = run_batch(sent, size=1)
    assert report.rejections == {"not_json": 2, "empty": 1, "future_timestamp": 1}
    assert report.rejected == 4
    # The delay of a batch is that of its first message.
    assert report.first_ms == BASE_MS + 3


def test_a_reading_with_a_future_timestamp_is_rejected_and_makes_no_other_late():
    ahead = BASE_US + 60_000_001
    _, report, _ = run_batch([Sent(0, BASE_MS, reading(ahead)), Sent(0, BASE_MS, reading(BASE_US))])
    assert (report.rejected, report.totals["temperature"].newest_us, report.late) == (1, BASE_US, 0)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_totals_and_last_readings_do_not_depend_on_the_size_of_arrow_batches(size):
    chance = random.Random(4)
    sent = []
    for number in range(1000):
        sensor = chance.randrange(20)
        at_us = BASE_US + number * 1000 - chance.randrange(3_000_000)
        value = round(chance.uniform(10, 40), 2)
        sent.append(Sent(sensor % 3, BASE_MS + number, reading(at_us, value, f"s{sensor}", location=f"l{sensor % 4}")))
    rows, report, _ = run_batch(sent, size=size)
    values = [msgspec.json.decode(one.value)["value"] for one in sent]
    [total] = report.totals.values()
    assert (total.count, total.min, total.max, total.unit) == (1000, min(values), max(values), "celsius")
    assert total.total == pytest.approx(sum(values), rel=1e-12)
    assert sum(row["count"] for row in rows) == 1000
    by_sensor = defaultdict(list)
    offsets: dict[int, int] = defaultdict(int)
    for one in sent:
        message = msgspec.json.decode(one.value)
        by_sensor[message["sensor_id"]].append(
            (message["timestamp"], offsets[one.partition], message["value"], one.arrived_ms)
        )
        offsets[one.partition] += 1
    heard_ms = {sensor: [arrived for *_, arrived in of] for sensor, of in by_sensor.items()}
    wanted = {sensor: (*max(of)[:3], max(heard_ms[sensor]), min(heard_ms[sensor])) for sensor, of in by_sensor.items()}
    found = {
        one.sensor_id: (format_timestamp(one.time_us), one.offset, one.value, one.heard_ms, one.first_heard_ms)
        for one in report.latest
    }
    assert found == wanted


def test_types_beyond_the_limit_are_counted_as_other_in_later_batches_too():
    sent = [
        Sent(0, BASE_MS + number, reading(BASE_US, sensor_type=f"type {number}")) for number in range(MAX_TYPES + 5)
    ]
    rows, report, context = run_batch(sent)
    assert report.sensor_types == [f"type {number}" for number in range(MAX_TYPES)]
    assert report.totals[OTHER].count == 5
    assert sum(row["count"] for row in rows if row["sensor_type"] == OTHER) == 5
    _, report, _ = run_batch([Sent(0, BASE_MS, reading(BASE_US, sensor_type="new"))], context)
    assert set(report.totals) == {OTHER}
    assert len(report.sensor_types) == MAX_TYPES


def test_the_sensors_heard_from_most_recently_are_kept(monkeypatch):
    monkeypatch.setattr(batches, "MAX_SENSORS", 10)
    sent = [Sent(0, BASE_MS + number, reading(BASE_US, sensor_id=f"s{number}")) for number in range(50)]
    _, report, _ = run_batch(sent, size=4)
    assert {one.sensor_id for one in report.latest} == {f"s{number}" for number in range(40, 50)}
    assert MAX_SENSORS == 100_000


def test_a_sum_that_overflows_is_infinite():
    rows, report, _ = run_batch([Sent(0, BASE_MS, reading(BASE_US, 1.7e308)) for _ in range(3)])
    assert rows[0]["total"] == float("inf")
    assert rows[0]["count"] == 3
    assert report.totals["temperature"].max == 1.7e308


def test_a_type_named_other_shares_the_row_of_types_beyond_the_limit():
    names = [OTHER, *(f"type {number}" for number in range(MAX_TYPES + 5)), OTHER]
    sent = [Sent(0, BASE_MS + n, reading(BASE_US, n, sensor_type=name)) for n, name in enumerate(names)]
    rows, report, _ = run_batch(sent)
    assert report.totals[OTHER].count == 7
    assert len(report.totals) == MAX_TYPES + 1
    assert sum(row["count"] for row in rows if row["sensor_type"] == OTHER) == 7
    assert OTHER not in report.sensor_types
