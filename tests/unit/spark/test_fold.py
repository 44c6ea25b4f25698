"""Validating, folding and judging a batch: against a plain reference, however the batch is cut."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot import batches as report_module
from iot.batches import FIRST_NEWEST_US, MAX_SENSORS, MAX_TYPES, OTHER, Context, Report, decode_report
from iot.readings import Message, encode, format_timestamp
from iot.spark import fold, lateness

BASE_MS = 1_795_561_388_713
BASE_US = BASE_MS * 1000


class Sent(msgspec.Struct):
    partition: int
    arrived_ms: int
    value: bytes


def reading(at_us: int, value: float = 20.0, sensor_id: str = "s", **fields: Any) -> bytes:
    return encode(
        Message(sensor_id, fields.pop("sensor_type", "temperature"), value, format_timestamp(at_us), **fields)
    )


def batches(sent: list[Sent], size: int = 50_000) -> dict[int, list[pa.RecordBatch]]:
    """Arrow batches by partition."""
    by_partition = defaultdict(list)
    for one in sent:
        by_partition[one.partition].append(one)
    return {
        partition: [
            pa.RecordBatch.from_pydict(
                {
                    "key": pa.array([b"k"] * len(of[at : at + size]), pa.binary()),
                    "value": pa.array([one.value for one in of[at : at + size]], pa.binary()),
                    "partition": pa.array([partition] * len(of[at : at + size]), pa.int32()),
                    "offset": pa.array(range(at, at + len(of[at : at + size])), pa.int64()),
                    "timestamp_ms": pa.array([one.arrived_ms for one in of[at : at + size]], pa.int64()),
                }
            )
            for at in range(0, len(of), size)
        ]
        for partition, of in by_partition.items()
    }


def run(
    sent: list[Sent], context: Context | None = None, size: int = 50_000, sensors: bool = True
) -> tuple[list[dict[str, Any]], Report]:
    """One batch, digested and judged: the rows for the windows, and the report."""
    context = context or Context()
    partials = [
        partial
        for of_partition in batches(sent, size).values()
        for partial in fold.digest(of_partition, context.newest_us, sensors=sensors)
    ]
    rows = [row for batch in lateness.judge(partials, context, 7) for row in batch.to_pylist()]
    [report] = [row for row in rows if row["batch_id"] is not None]
    assert report["batch_id"] == 7
    return [row for row in rows if row["batch_id"] is None], decode_report(report["report"])


def windows(rows: list[dict[str, Any]]) -> dict[tuple[int, str, str], list[float]]:
    """Count, minimum and maximum by window end in seconds, as Spark's windows would have them."""
    found: dict[tuple[int, str, str], list[float]] = {}
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    for row in rows:
        first_s = (row["event_time"] - epoch) // timedelta(seconds=10) * 10 + 10
        for end_s in (first_s, first_s + 10, first_s + 20):
            if end_s > (row["missed_until"] - epoch).total_seconds():
                at = found.setdefault((end_s, row["sensor_type"], row["location"]), [0, row["min"], row["max"]])
                at[0] += row["count"]
                at[1], at[2] = min(at[1], row["min"]), max(at[2], row["max"])
    return found


def test_a_reading_counts_in_three_windows():
    rows, report = run([Sent(0, BASE_MS, reading(BASE_US, 21.5, location="hall"))])
    first_s = BASE_US // 10_000_000 * 10 + 10
    assert windows(rows) == {(first_s + more, "temperature", "hall"): [1, 21.5, 21.5] for more in (0, 10, 20)}
    assert (report.messages, report.rejected, report.late, report.newest_us) == (1, 0, 0, BASE_US)


def test_nothing_at_all_is_a_batch_too():
    rows, report = run([])
    assert rows == []
    assert report == Report()


def test_rejected_messages_are_handed_on_and_counted():
    seen: list[tuple[bool, tuple[int, str]]] = []
    sent = [Sent(0, BASE_MS, b"{"), Sent(0, BASE_MS, reading(BASE_US)), Sent(0, BASE_MS, b"")]
    [batch] = batches(sent)[0]
    parts = list(
        fold.digest([batch], FIRST_NEWEST_US, lambda of, rows: seen.extend((of is batch, row) for row in rows))
    )
    assert [(same, row) for same, (row, _) in seen] == [(True, 0), (True, 2)]
    assert all(reason for _, (_, reason) in seen)
    assert parts[0].column("count").to_pylist() == [1]
    report = decode_report(parts[-1].column("report")[0].as_py())
    assert (report.messages, report.rejected) == (1, 2)


def test_a_future_timestamp_moves_nothing():
    ahead = BASE_US + 60_000_001
    _, report = run([Sent(0, BASE_MS, reading(ahead)), Sent(0, BASE_MS, reading(BASE_US))])
    assert (report.rejected, report.newest_us) == (1, BASE_US)


@pytest.mark.parametrize("idle", [False, True], ids=["same partition", "partition with nothing else"])
def test_a_reading_whose_windows_all_closed_long_before_counts_in_none(idle):
    newest, old = (
        Sent(0, BASE_MS, reading(BASE_US)),
        Sent(int(idle), BASE_MS + int(idle), reading(BASE_US - 75_000_000)),
    )
    rows, report = run([newest, old])
    assert sum(row["count"] for row in rows) == 1
    assert (report.messages, report.late) == (2, 1)
    assert 75_000_000 <= report.latest_by_us <= 80_000_000
    # Had it been written before, it would have been on time.
    rows, report = run([old, Sent(0, BASE_MS + 2, newest.value)])
    assert (sum(row["count"] for row in rows), report.late) == (2, 0)


def test_lateness_is_known_from_earlier_batches():
    _, report = run([Sent(0, BASE_MS, reading(BASE_US))])
    rows, report = run([Sent(1, BASE_MS + 500, reading(BASE_US - 75_000_000))], report.context())
    assert (rows, report.late) == ([], 1)
    assert report.newest_us == BASE_US // 1000 * 1000


def test_a_reading_late_for_one_window_counts_in_the_others_and_once_as_late():
    slot_us = BASE_US // 10_000_000 * 10_000_000
    # The first of its windows ended 20 s or more before the newest, the second did not.
    rows, report = run([Sent(0, BASE_MS, reading(slot_us)), Sent(0, BASE_MS, reading(slot_us - 30_000_000, 1.0))])
    found = {end_s: count for (end_s, _, _), (count, low, _) in windows(rows).items() if low == 1.0}
    slot_s = slot_us // 1_000_000
    assert set(found) == {slot_s - 10, slot_s}
    assert report.late == 1


def reference(sent: list[Sent], slack_us: int) -> dict[tuple[int, str, str], int]:
    """Counts by window when a window is closed ``slack_us`` after its end, judged one by one in order of arrival."""
    counts: dict[tuple[int, str, str], int] = defaultdict(int)
    newest = FIRST_NEWEST_US
    for one in sent:
        message = msgspec.json.decode(one.value)
        moment = datetime.fromisoformat(message["timestamp"])
        time_us = (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)
        for number in (1, 2, 3):
            end_us = (time_us // 10_000_000 + number) * 10_000_000
            if end_us > newest - slack_us:
                counts[end_us // 1_000_000, message["sensor_type"], message["location"]] += 1
        newest = max(newest, time_us)
    return dict(counts)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),  # partition
            st.integers(0, 20_000),  # how much later than the one before it arrives, ms
            st.integers(-200_000, 55_000),  # its time against its arrival, ms
            st.sampled_from(["temperature", "humidity"]),
        ),
        max_size=40,
    ),
    st.integers(1, 7),
    st.integers(1, 4),
)
def test_every_cut_keeps_what_is_on_time_and_drops_what_is_long_past(drawn, size, cuts):
    now_ms, sent = BASE_MS, []
    for partition, wait_ms, offset_ms, sensor_type in drawn:
        now_ms += wait_ms + 1
        at_us = (now_ms + offset_ms) * 1000
        sent.append(Sent(partition, now_ms, reading(at_us, sensor_type=sensor_type, location="hall")))
    context, late = Context(), 0
    found: dict[Any, float] = defaultdict(int)
    step = max(1, -(-len(sent) // cuts))
    for at in range(0, len(sent), step):
        rows, report = run(sent[at : at + step], context, size)
        context = report.context()
        late += report.late
        for key, (count, _, _) in windows(rows).items():
            found[key] += count
    assert report.messages if sent else True
    # With each message at a moment of its own, order is known and the verdict is exact but for the milliseconds that
    # Spark's watermark leaves away between batches.
    assert dict(found) == reference(sent, fold.LATENESS_US)
    promised = reference(sent, 5_000_000)
    allowed = reference(sent, 35_000_000)
    assert all(found[key] >= count for key, count in promised.items())
    assert all(count <= allowed.get(key, 0) for key, count in found.items())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_totals_and_latest_are_the_same_however_the_batch_is_cut(size):
    chance = random.Random(4)
    sent = []
    for number in range(1000):
        sensor = chance.randrange(20)
        at_us = BASE_US + number * 1000 - chance.randrange(3_000_000)
        value = round(chance.uniform(10, 40), 2)
        sent.append(Sent(sensor % 3, BASE_MS + number, reading(at_us, value, f"s{sensor}", location=f"l{sensor % 4}")))
    rows, report = run(sent, size=size)
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
    wanted = {sensor: (*max(of)[:3], max(arrived for *_, arrived in of)) for sensor, of in by_sensor.items()}
    found = {
        one.sensor_id: (format_timestamp(one.time_us), one.offset, one.value, one.heard_ms) for one in report.latest
    }
    assert found == wanted


def test_names_beyond_the_limit_are_other_and_the_first_ones_are_remembered():
    sent = [
        Sent(0, BASE_MS + number, reading(BASE_US, sensor_type=f"type {number}")) for number in range(MAX_TYPES + 5)
    ]
    rows, report = run(sent)
    assert report.sensor_types == [f"type {number}" for number in range(MAX_TYPES)]
    assert report.totals[OTHER].count == 5
    assert sum(row["count"] for row in rows if row["sensor_type"] == OTHER) == 5
    _, report = run([Sent(0, BASE_MS, reading(BASE_US, sensor_type="new"))], report.context())
    assert set(report.totals) == {OTHER}
    assert len(report.sensor_types) == MAX_TYPES


def test_of_more_sensors_than_are_kept_those_heard_from_last_stay(monkeypatch):
    monkeypatch.setattr(report_module, "MAX_SENSORS", 10)
    sent = [Sent(0, BASE_MS + number, reading(BASE_US, sensor_id=f"s{number}")) for number in range(50)]
    _, report = run(sent, size=4)
    assert {one.sensor_id for one in report.latest} == {f"s{number}" for number in range(40, 50)}
    assert MAX_SENSORS == 100_000


def test_sums_that_overflow_are_infinite_and_nothing_else_breaks():
    rows, report = run([Sent(0, BASE_MS, reading(BASE_US, 1.7e308)) for _ in range(3)])
    assert rows[0]["total"] == float("inf")
    assert rows[0]["count"] == 3
    assert report.totals["temperature"].max == 1.7e308


def test_a_type_called_other_shares_the_row_of_those_beyond_the_limit():
    names = [OTHER, *(f"type {number}" for number in range(MAX_TYPES + 5)), OTHER]
    sent = [Sent(0, BASE_MS + n, reading(BASE_US, n, sensor_type=name)) for n, name in enumerate(names)]
    rows, report = run(sent)
    assert report.totals[OTHER].count == 7
    assert len(report.totals) == MAX_TYPES + 1
    assert sum(row["count"] for row in rows if row["sensor_type"] == OTHER) == 7
    assert OTHER not in report.sensor_types
