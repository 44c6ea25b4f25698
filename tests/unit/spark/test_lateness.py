"""Judging lateness: windows and late counts are exact, however batches are cut and whatever clocks are wrong."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iot.readings import decode
from iot.spark import lateness
from iot.spark.contexts import Context
from iot.spark.lateness import HISTORY_MS, HISTORY_STEPS
from tests.support.batches import BASE_MS, BASE_US, Sent, reading, run_batch, windows_of_rows

DAY_US = 86_400_000_000


def test_a_reading_counts_in_three_windows():
    rows, report, _ = run_batch([Sent(0, BASE_MS, reading(BASE_US, 21.5, location="hall"))])
    first_s = BASE_US // 10_000_000 * 10 + 10
    assert windows_of_rows(rows) == {(first_s + more, "temperature", "hall"): [1, 21.5, 21.5] for more in (0, 10, 20)}
    assert (report.messages, report.rejected, report.late) == (1, 0, 0)
    assert report.totals["temperature"].newest_us == BASE_US


@pytest.mark.parametrize("idle", [False, True], ids=["same partition", "partition with nothing else"])
def test_a_reading_whose_windows_have_all_closed_counts_in_none(idle):
    newest, old = (
        Sent(0, BASE_MS, reading(BASE_US)),
        Sent(int(idle), BASE_MS + int(idle), reading(BASE_US - 75_000_000)),
    )
    rows, report, _ = run_batch([newest, old])
    assert sum(row["count"] for row in rows) == 1
    assert (report.messages, report.late) == (2, 1)
    assert report.most_late_s == 75
    # Written in the other order, it is on time.
    rows, report, _ = run_batch([old, Sent(0, BASE_MS + 2, newest.value)])
    assert (sum(row["count"] for row in rows), report.late) == (2, 0)


def test_a_reading_can_be_late_because_of_an_earlier_batch():
    _, _, context = run_batch([Sent(0, BASE_MS, reading(BASE_US))])
    rows, report, _ = run_batch([Sent(1, BASE_MS + 500, reading(BASE_US - 75_000_000))], context)
    assert (rows, report.late) == ([], 1)


def test_a_reading_late_for_one_window_counts_in_the_others_and_is_late_once():
    slot_us = BASE_US // 10_000_000 * 10_000_000
    # Its first window ended more than 5 s before the newest event time, its second one did not.
    rows, report, _ = run_batch(
        [Sent(0, BASE_MS, reading(slot_us)), Sent(0, BASE_MS, reading(slot_us - 20_000_000, 1.0))]
    )
    found = {end_s: count for (end_s, _, _), (count, low, _) in windows_of_rows(rows).items() if low == 1.0}
    slot_s = slot_us // 1_000_000
    assert set(found) == {slot_s, slot_s + 10}
    assert report.late == 1


class Timed(NamedTuple):
    """A message and its event time."""

    sent: Sent
    time_us: int
    sensor_type: str


def reference(timed: list[Timed]) -> tuple[dict[tuple[int, str, str], int], int]:
    """Counts by window and the number of late readings: each reading is compared with all that were written before."""
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
    """Cut the messages into batches. In the partition ``behind``, very late readings may move to the next batch.

    Only those move that were written after a much newer reading: any other may be the newest one of those that stay.
    """
    bounds = sorted({0, *(min(cut, len(timed)) for cut in cuts), len(timed)})
    held: list[Timed] = []
    for first, last in itertools.pairwise(bounds):
        part, held = held + timed[first:last], []
        of_partition = [one for one in part if one.sent.partition == behind]
        others = [one for one in part if one.sent.partition != behind]
        while of_partition and last < len(timed):
            moved = of_partition[-1]
            before = (one.time_us for one in others if one.sent.arrived_ms < moved.sent.arrived_ms)
            if moved.time_us >= max(before, default=-(10**18)) - 40_000_000:
                break
            held.insert(0, of_partition.pop())
        yield [one for one in part if one not in held]
    yield held


# Event time minus Kafka's timestamp, in ms: close to the edges of slots and of the watermark.
OFFSETS_MS = st.sampled_from([edge + more for edge in range(-45_000, 1, 5_000) for more in (-1, 0, 1)])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),  # partition
            st.sampled_from([0, 0, 1, 7, 1_000, 5_000, 10_000])
            | st.integers(0, 20_000),  # ms after the previous message
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
def test_windows_and_late_count_do_not_depend_on_how_batches_are_cut(drawn, start_ms, size, cuts, behind):
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
        rows, report, context = run_batch([one.sent for one in part], context, size)
        late += report.late
        for key, (count, _, _) in windows_of_rows(rows).items():
            found[key] += count
    assert (dict(found), late) == reference(timed)


def test_progress_across_partitions_is_kept_for_ten_minutes():
    sent = [Sent(0, BASE_MS + second * 1_000, reading(BASE_US + second * 1_000_000)) for second in range(2_000)]
    _, _, context = run_batch(sent)
    [steps] = context.progress.values()
    assert len(steps) <= HISTORY_STEPS
    first_s, last_s = BASE_US // 1_000_000 + 1_999 - HISTORY_MS // 1_000, BASE_US // 1_000_000 + 1_999
    assert (steps[0], steps[-1]) == ((0, first_s), (sent[-1].arrived_ms, last_s))


def test_partials_that_do_not_fit_into_memory_are_read_from_disk(monkeypatch):
    sent = [Sent(n % 3, BASE_MS + n, reading(BASE_US - n * 37_000, n, f"s{n % 7}")) for n in range(500)]
    wanted = run_batch(sent, size=20)
    monkeypatch.setattr(lateness, "SPOOL_BYTES", 1_000)
    monkeypatch.setattr(lateness, "MERGE_ROWS", 5)
    found = run_batch(sent, size=20)
    assert windows_of_rows(found[0]) == windows_of_rows(wanted[0])
    assert (found[1].late, found[1].totals.keys()) == (wanted[1].late, wanted[1].totals.keys())
    assert found[1].late > 0


def test_clocks_a_day_ahead_or_behind_change_no_other_sensors_windows():
    others = [
        Sent(n % 3, BASE_MS + n, reading(BASE_US + n * 1_000, n, f"s{n % 9}", location="hall")) for n in range(3_000)
    ]
    wrong = {
        n: reading(BASE_US + n * 1_000 + ahead_us, 99.0, "wrong", location="elsewhere")
        for n in range(50, 3_000, 100)
        for ahead_us in [DAY_US if n % 200 == 50 else -DAY_US]
    }
    mixed = []
    for n, one in enumerate(others):
        mixed.append(one)
        if n in wrong:
            mixed.append(Sent(one.partition, one.arrived_ms, wrong[n]))
    for sent, size in ((mixed, 50_000), (mixed, 17)):
        found: dict[Any, list[float]] = {}
        context, totals = Context(), [0, 0, 0]
        # In three batches, so that the context of one affects the next.
        for at in range(0, len(sent), 1_010):
            rows, report, context = run_batch(sent[at : at + 1_010], context, size)
            totals = [a + b for a, b in zip(totals, (report.messages, report.rejected, report.late), strict=True)]
            for key, (count, low, high) in windows_of_rows(rows).items():
                seen = found.setdefault(key, [0, low, high])
                found[key] = [seen[0] + count, min(seen[1], low), max(seen[2], high)]
        assert found == windows_of_rows(run_batch(others)[0])
        assert totals == [3_000 + 15, 15, 15]
        newest_s = max(int(decode(one.value).time_us) for one in others) // 1_000_000
        assert max(steps[-1][1] for steps in context.progress.values()) == newest_s


def test_what_sparks_state_has_lost_is_late_even_if_kafkas_clock_stepped_back():
    _, _, context = run_batch([Sent(0, BASE_MS, reading(BASE_US))])
    # In its partition it is the first, and by Kafka's timestamps it was written before the other.
    old = Sent(1, BASE_MS - 180_000, reading(BASE_US - 180_000_000))
    rows, report, _ = run_batch([old], context, state_slack_s=60)
    assert (rows, report.messages, report.late) == ([], 1, 1)
    rows, report, _ = run_batch([old], context, state_slack_s=3_600)
    assert (len(rows), report.late) == (1, 0)


def test_partitions_are_judged_against_all_others_however_many_there_are():
    chance = random.Random(7)
    timed = []
    for n in range(400):
        at_us = BASE_US + n * 500_000 - chance.choice([0, 0, 4_000_000, 12_000_000, 22_000_000, 33_000_000])
        value = reading(at_us, location="hall", sequence=n)
        timed.append(Timed(Sent(chance.randrange(24), BASE_MS + n * 500 // 3 * 3, value), at_us, "temperature"))
    rows, report, _ = run_batch([one.sent for one in timed])
    found = {key: count for key, (count, _, _) in windows_of_rows(rows).items()}
    assert (found, report.late) == reference(timed)
    assert report.late > 100
