"""Validating, folding and judging a batch: against a plain reference, however the batch is cut."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot import batches as iot_batches
from iot.batches import MAX_SENSORS, MAX_TYPES, OTHER, BatchReport
from iot.readings import Message, encode, format_timestamp
from iot.spark import lateness
from iot.spark.contexts import Context
from iot.spark.fold import FOLDED, PARTIALS, decode_report, fold
from iot.spark.lateness import HISTORY_MS, HISTORY_STEPS, Outcome, decode_outcome, judge

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
) -> tuple[list[dict[str, Any]], BatchReport, Context]:
    """One batch, folded and judged: the rows for the windows, the report, and the context of the next batch."""
    context = context or Context()
    folded = [
        row for of_partition in batches(sent, size).values() for row in fold(of_partition, context, sensors=sensors)
    ]
    rows = [row for batch in judge(folded, context, 7) for row in batch.to_pylist()]
    [last] = [row for row in rows if row["batch_id"] is not None]
    assert last["batch_id"] == 7
    outcome: Outcome = decode_outcome(last["outcome"])
    return [row for row in rows if row["batch_id"] is None], outcome.report, outcome.next_context


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
    rows, report, _ = run([Sent(0, BASE_MS, reading(BASE_US, 21.5, location="hall"))])
    first_s = BASE_US // 10_000_000 * 10 + 10
    assert windows(rows) == {(first_s + more, "temperature", "hall"): [1, 21.5, 21.5] for more in (0, 10, 20)}
    assert (report.messages, report.rejected, report.late) == (1, 0, 0)
    assert report.totals["temperature"].newest_us == BASE_US


def test_nothing_at_all_is_a_batch_too():
    rows, report, _ = run([])
    assert rows == []
    assert report == BatchReport()


def test_rejected_messages_are_handed_on_and_counted():
    seen: list[tuple[bool, tuple[int, str]]] = []
    sent = [Sent(0, BASE_MS, b"{"), Sent(0, BASE_MS, reading(BASE_US)), Sent(0, BASE_MS, b"")]
    [batch] = batches(sent)[0]
    parts = list(fold([batch], Context(), lambda of, rows: seen.extend((of is batch, row) for row in rows)))
    assert [(same, row) for same, (row, _) in seen] == [(True, 0), (True, 2)]
    assert all(reason for _, (_, reason) in seen)
    assert all(part.schema == FOLDED for part in parts)
    partials = pa.ipc.read_record_batch(pa.py_buffer(parts[0].column("partials")[0].as_py()), PARTIALS)
    assert partials.column("count").to_pylist() == [1]
    report = decode_report(parts[-1].column("report")[0].as_py())
    assert (report.messages, report.rejected) == (1, 2)


def test_a_future_timestamp_moves_nothing():
    ahead = BASE_US + 60_000_001
    _, report, _ = run([Sent(0, BASE_MS, reading(ahead)), Sent(0, BASE_MS, reading(BASE_US))])
    assert (report.rejected, report.totals["temperature"].newest_us, report.late) == (1, BASE_US, 0)


@pytest.mark.parametrize("idle", [False, True], ids=["same partition", "partition with nothing else"])
def test_a_reading_whose_windows_all_closed_long_before_counts_in_none(idle):
    newest, old = (
        Sent(0, BASE_MS, reading(BASE_US)),
        Sent(int(idle), BASE_MS + int(idle), reading(BASE_US - 75_000_000)),
    )
    rows, report, _ = run([newest, old])
    assert sum(row["count"] for row in rows) == 1
    assert (report.messages, report.late) == (2, 1)
    assert report.most_late_s == 75
    # Had it been written before, it would have been on time.
    rows, report, _ = run([old, Sent(0, BASE_MS + 2, newest.value)])
    assert (sum(row["count"] for row in rows), report.late) == (2, 0)


def test_lateness_is_known_from_earlier_batches():
    _, _, context = run([Sent(0, BASE_MS, reading(BASE_US))])
    rows, report, _ = run([Sent(1, BASE_MS + 500, reading(BASE_US - 75_000_000))], context)
    assert (rows, report.late) == ([], 1)


def test_a_reading_late_for_one_window_counts_in_the_others_and_once_as_late():
    slot_us = BASE_US // 10_000_000 * 10_000_000
    # The first of its windows ended 5 s or more before the newest, the second did not.
    rows, report, _ = run([Sent(0, BASE_MS, reading(slot_us)), Sent(0, BASE_MS, reading(slot_us - 20_000_000, 1.0))])
    found = {end_s: count for (end_s, _, _), (count, low, _) in windows(rows).items() if low == 1.0}
    slot_s = slot_us // 1_000_000
    assert set(found) == {slot_s, slot_s + 10}
    assert report.late == 1


class Timed(NamedTuple):
    """A message and its event time."""

    sent: Sent
    time_us: int
    sensor_type: str


def reference(timed: list[Timed]) -> tuple[dict[tuple[int, str, str], int], int]:
    """Counts by window and the number of late readings, by the definition: each reading against all before it."""
    counts: dict[tuple[int, str, str], int] = defaultdict(int)
    late = 0
    for number, (sent, time_us, sensor_type) in enumerate(timed):
        newest_us = max(
            (
                other.time_us
                for at, other in enumerate(timed)
                if other.sent.arrived_ms < sent.arrived_ms or (other.sent.partition == sent.partition and at < number)
            ),
            default=-(10**18),
        )
        ends_us = [(time_us // 10_000_000 + n) * 10_000_000 for n in (1, 2, 3)]
        counted = [end_us for end_us in ends_us if end_us > newest_us - 5_000_000]
        late += len(counted) < 3
        for end_us in counted:
            counts[end_us // 1_000_000, sensor_type, "hall"] += 1
    return dict(counts), late


def parts_of(timed: list[Timed], cuts: list[int], behind: int) -> Iterator[list[Timed]]:
    """The messages in batches. What raises no event time may be read a batch later in the partition ``behind``."""
    bounds = sorted({0, *(min(cut, len(timed)) for cut in cuts), len(timed)})
    held: list[Timed] = []
    for first, last in itertools.pairwise(bounds):
        part, held = held + timed[first:last], []
        of_partition = [one for one in part if one.sent.partition == behind]
        newest_us = max((one.time_us for one in part if one.sent.partition != behind), default=-(10**18))
        while of_partition and last < len(timed) and of_partition[-1].time_us < newest_us - 40_000_000:
            held.insert(0, of_partition.pop())
        yield [one for one in part if one not in held]
    yield held


# A reading's time against its arrival, in ms: around the edges of slots and of the watermark, and anything.
OFFSETS_MS = st.sampled_from([edge + more for edge in range(-45_000, 1, 5_000) for more in (-1, 0, 1)])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),  # partition
            st.sampled_from([0, 0, 1, 7, 1_000, 5_000, 10_000]) | st.integers(0, 20_000),  # ms after the one before
            OFFSETS_MS | st.integers(-200_000, 55_000),
            st.sampled_from(["temperature", "humidity"]),
        ),
        max_size=40,
    ),
    st.sampled_from([0, 4_999, 5_000, 5_001, 9_999]),
    st.integers(1, 7),
    st.lists(st.integers(0, 40), max_size=4),
    st.integers(0, 2),
)
def test_windows_and_late_count_are_exact_however_the_batches_are_cut(drawn, start_ms, size, cuts, behind):
    now_ms = BASE_MS // 10_000 * 10_000 + start_ms
    timed = []
    for number, (partition, wait_ms, offset_ms, sensor_type) in enumerate(drawn):
        now_ms += wait_ms
        at_us = (now_ms + offset_ms) * 1000
        value = reading(at_us, sensor_type=sensor_type, location="hall", sequence=number)
        timed.append(Timed(Sent(partition, now_ms, value), at_us, sensor_type))
    context, late = Context(), 0
    found: dict[Any, float] = defaultdict(int)
    for part in parts_of(timed, cuts, behind):
        rows, report, context = run([one.sent for one in part], context, size)
        late += report.late
        for key, (count, _, _) in windows(rows).items():
            found[key] += count
    assert (dict(found), late) == reference(timed)


def test_the_order_across_partitions_is_remembered_for_some_minutes_only():
    sent = [Sent(0, BASE_MS + second * 1_000, reading(BASE_US + second * 1_000_000)) for second in range(2_000)]
    _, _, context = run(sent)
    [steps] = context.progress.values()
    assert len(steps) <= HISTORY_STEPS
    first_s, last_s = BASE_US // 1_000_000 + 1_999 - HISTORY_MS // 1_000, BASE_US // 1_000_000 + 1_999
    assert (steps[0], steps[-1]) == ((0, first_s), (sent[-1].arrived_ms, last_s))


def test_partials_that_do_not_fit_into_memory_are_judged_from_disk(monkeypatch):
    sent = [Sent(n % 3, BASE_MS + n, reading(BASE_US - n * 37_000, n, f"s{n % 7}")) for n in range(500)]
    wanted = run(sent, size=20)
    monkeypatch.setattr(lateness, "SPOOL_BYTES", 1_000)
    monkeypatch.setattr(lateness, "MERGE_ROWS", 5)
    found = run(sent, size=20)
    assert windows(found[0]) == windows(wanted[0])
    assert (found[1].late, found[1].totals.keys()) == (wanted[1].late, wanted[1].totals.keys())
    assert found[1].late > 0


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_totals_and_latest_are_the_same_however_the_batch_is_cut(size):
    chance = random.Random(4)
    sent = []
    for number in range(1000):
        sensor = chance.randrange(20)
        at_us = BASE_US + number * 1000 - chance.randrange(3_000_000)
        value = round(chance.uniform(10, 40), 2)
        sent.append(Sent(sensor % 3, BASE_MS + number, reading(at_us, value, f"s{sensor}", location=f"l{sensor % 4}")))
    rows, report, _ = run(sent, size=size)
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
    rows, report, context = run(sent)
    assert report.sensor_types == [f"type {number}" for number in range(MAX_TYPES)]
    assert report.totals[OTHER].count == 5
    assert sum(row["count"] for row in rows if row["sensor_type"] == OTHER) == 5
    _, report, _ = run([Sent(0, BASE_MS, reading(BASE_US, sensor_type="new"))], context)
    assert set(report.totals) == {OTHER}
    assert len(report.sensor_types) == MAX_TYPES


def test_of_more_sensors_than_are_kept_those_heard_from_last_stay(monkeypatch):
    monkeypatch.setattr(iot_batches, "MAX_SENSORS", 10)
    sent = [Sent(0, BASE_MS + number, reading(BASE_US, sensor_id=f"s{number}")) for number in range(50)]
    _, report, _ = run(sent, size=4)
    assert {one.sensor_id for one in report.latest} == {f"s{number}" for number in range(40, 50)}
    assert MAX_SENSORS == 100_000


def test_sums_that_overflow_are_infinite_and_nothing_else_breaks():
    rows, report, _ = run([Sent(0, BASE_MS, reading(BASE_US, 1.7e308)) for _ in range(3)])
    assert rows[0]["total"] == float("inf")
    assert rows[0]["count"] == 3
    assert report.totals["temperature"].max == 1.7e308


def test_a_type_called_other_shares_the_row_of_those_beyond_the_limit():
    names = [OTHER, *(f"type {number}" for number in range(MAX_TYPES + 5)), OTHER]
    sent = [Sent(0, BASE_MS + n, reading(BASE_US, n, sensor_type=name)) for n, name in enumerate(names)]
    rows, report, _ = run(sent)
    assert report.totals[OTHER].count == 7
    assert len(report.totals) == MAX_TYPES + 1
    assert sum(row["count"] for row in rows if row["sensor_type"] == OTHER) == 7
    assert OTHER not in report.sensor_types
