"""Judges lateness across partitions and reports on the batch: the second Python step of a batch.

A reading counts in a window that ends after N - 5 s. N is the newest event time written to the topic before it. In its
own partition that means smaller offsets, and ``iot.spark.fold`` has judged those. In the others it means smaller Kafka
timestamps: of two messages with the same timestamp, neither is before the other.

A *partial* is a row of readings that ``fold`` has added up. They share their slot and Kafka's timestamp, so the other
partitions make all of them late or none. The *progress* of a partition says when its newest event time rose. Each
partition reports it after its last partial.

So all partials are spooled until every report is here, to disk when they are large, and then judged block by block.
Nothing here imports pyspark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from tempfile import SpooledTemporaryFile
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from iot.batches import MAX_LOCATIONS, MAX_TYPES, OTHER, BatchReport, Latest, forget_oldest, keep_latest
from iot.spark import candidate_columns
from iot.spark.candidate_columns import CandidateColumns, Candidates
from iot.spark.columns import Array
from iot.spark.contexts import Context, Progress
from iot.spark.fold import (
    FIRST_NEWEST_S,
    PARTIALS,
    SLOT_US,
    SLOTS_PER_WINDOW,
    PartitionReport,
    decode_report,
    first_names,
    newest_of,
    rises,
    windows_missed,
)
from iot.spark.groups import Groups, merge, totals_by_type

# Maximum size of the partials that are spooled in memory; more go to disk.
SPOOL_BYTES = 64 * 1024 * 1024
# How many groups to collect before they are merged.
MERGE_ROWS = 200_000
# How far back, by Kafka's timestamps, the next batch knows the progress of each partition. What rose before that counts
# as written before every message. Lagging replicas delay a message by about 30 s, so this is ample.
HISTORY_MS = 120_000
# Maximum number of steps that are kept of a partition's progress. A step is at least one second of event time.
HISTORY_STEPS = 1_000

JUDGED = pa.schema(
    [
        ("event_time", pa.timestamp("us", "UTC")),
        # The readings count in windows that end after this.
        ("missed_until", pa.timestamp("us", "UTC")),
        ("sensor_type", pa.string()),
        ("location", pa.string()),
        ("unit", pa.string()),
        ("count", pa.int64()),
        ("total", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        # Null except in the last row, which carries the Outcome as msgpack.
        ("batch_id", pa.int64()),
        ("outcome", pa.binary()),
    ]
)


class Outcome(msgspec.Struct):
    """What a batch hands to the driver, besides its windows."""

    report: BatchReport
    progress: dict[int, Progress]
    """What the next batch must know of the progress of each partition."""
    candidates: CandidateColumns = msgspec.field(default_factory=CandidateColumns)
    """Those of the report, which ``decode_outcome`` fills in."""

    @property
    def next_context(self) -> Context:
        """The context of the next batch."""
        return Context(self.progress, self.report.sensor_types, self.report.locations)


encode_outcome = msgspec.msgpack.Encoder().encode
_decode_outcome = msgspec.msgpack.Decoder(Outcome, strict=False).decode


def decode_outcome(encoded: bytes) -> Outcome:
    """Decode an outcome, and fill in the candidates of its report."""
    outcome = _decode_outcome(encoded)
    if outcome.candidates.sensors:
        outcome.report.candidates = Candidates(outcome.candidates)
    return outcome


def judge(
    folded: Iterable[pa.RecordBatch], context: Context, batch_id: int, state_slack_s: int
) -> Iterator[pa.RecordBatch]:
    """Judge the partials of all partitions of a batch, and report on it.

    Args:
        folded: batches of ``FOLDED``, from every ``fold`` of the batch.
        context: of this batch.
        batch_id: Spark's id of this batch.
        state_slack_s: how many seconds longer than the watermark Spark keeps a window. A reading for a window that
            Spark has dropped counts as late, even if Kafka's timestamps run backwards and say that it was earlier.

    Returns:
        Batches of ``JUDGED``: rows to count in windows, and one row with the ``Outcome``.
    """
    with SpooledTemporaryFile(SPOOL_BYTES) as spool:
        places: list[tuple[int, int]] = []
        reports: list[PartitionReport] = []
        for batch in folded:
            for partition, partials, report in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if report is None:
                    places.append((partition, len(partials)))
                    spool.write(partials)
                else:
                    reports.append(decode_report(report))
        spool.seek(0)
        blocks = ((partition, spool.read(size)) for partition, size in places)
        progress = _merged_progress(context, reports)
        types = _Names(context.sensor_types, MAX_TYPES, [report.new_types for report in reports])
        locations = _Names(context.locations, MAX_LOCATIONS, [report.new_locations for report in reports])
        judged = _Judged(progress, types, locations, newest_of_all(context.progress) - state_slack_s)
        for partition, partials in blocks:
            judged.add(partition, pa.ipc.read_record_batch(pa.py_buffer(partials), PARTIALS))
    groups = judged.groups()
    report = _report(reports)
    report.late, report.most_late_s = judged.late, judged.most_late_s
    report.totals = totals_by_type(groups, types.names, judged.units)
    report.sensor_types, report.locations = types.names[:-1], locations.names[:-1]
    if len(groups.slot):
        yield _rows(groups, types.names, locations.names, judged.units)
    candidates = candidate_columns.merged(report.candidates for report in reports)
    yield _outcome_row(batch_id, Outcome(report, _recent(progress), candidates))


class _Names:
    """Names with rows of their own: the known ones, and new ones in the order of arrival while there is room."""

    def __init__(self, known: list[str], most: int, new: list[dict[str, int]]) -> None:
        first_ms: dict[str, int] = {}
        for of_partition in new:
            for name, at_ms in of_partition.items():
                first_ms[name] = min(at_ms, first_ms.get(name, at_ms))
        self.names = [*known, *first_names(first_ms)[: max(0, most - len(known))], OTHER]
        """The admitted names, and ``OTHER`` after them."""
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def number(self, names: pa.Array) -> Array:
        """The position of each name in ``names``; that of ``OTHER`` where it was not admitted."""
        encoded = names.dictionary_encode()
        other = len(self.names) - 1
        numbers = np.array([self._numbers.get(name, other) for name in encoded.dictionary.to_pylist()], np.int64)
        found: Array = numbers[encoded.indices.to_numpy()]
        return found


class _Judged:
    """Partials, judged and merged into groups as they come."""

    def __init__(self, progress: dict[int, Progress], types: _Names, locations: _Names, least_newest_s: int) -> None:
        """
        Args:
            least_newest_s: lower bound of N in whole seconds. Spark has already dropped the windows that it closes.
        """
        self._steps = _Steps(progress)
        self._types, self._locations = types, locations
        self._least_newest_s = least_newest_s
        self._collected: list[Groups] = []
        self._rows = 0
        self._unit_numbers: dict[str, int] = {}
        self.late = self.most_late_s = 0

    @property
    def units(self) -> list[str]:
        return list(self._unit_numbers)

    def add(self, partition: int, partials: pa.RecordBatch) -> None:
        """Judge the partials of one partition against the others."""
        columns = {
            name: partials.column(name).to_numpy()
            for name in PARTIALS.names
            if name not in ("sensor_type", "location", "unit")
        }
        newest_us, count = columns["newest_us"], columns["count"]
        slot = newest_us // SLOT_US
        before_s = np.maximum(self._steps.newest_of_others(partition, columns["arrived_ms"]), self._least_newest_s)
        missed = np.maximum(columns["missed"], windows_missed(slot, before_s))
        late = missed > 0
        if late.any():
            self.late += int(count[late].sum())
            behind_s = np.maximum(columns["behind_s"], before_s - columns["oldest_us"] // 1_000_000)
            self.most_late_s = max(self.most_late_s, int(behind_s[late].max()))
        unit = partials.column("unit").dictionary_encode()
        unit_numbers = [
            self._unit_numbers.setdefault(name, len(self._unit_numbers)) for name in unit.dictionary.to_pylist()
        ]
        self._collected.append(
            merge(
                Groups(
                    slot,
                    missed,
                    self._types.number(partials.column("sensor_type")),
                    self._locations.number(partials.column("location")),
                    newest_us,
                    np.array(unit_numbers, np.int64)[unit.indices.to_numpy()],
                    count,
                    columns["total"],
                    columns["min"],
                    columns["max"],
                )
            )
        )
        self._rows += len(self._collected[-1].slot)
        if self._rows > MERGE_ROWS:
            self._collected = [self.groups()]
            # Merge again only after half as many new rows.
            self._rows = min(len(self._collected[0].slot), MERGE_ROWS // 2)

    def groups(self) -> Groups:
        """All groups so far."""
        if not self._collected:
            return Groups(*(np.empty(0, np.int64) for _ in Groups._fields))
        return merge(Groups(*map(np.concatenate, zip(*self._collected, strict=True))))


class _Steps:
    """The progress of all partitions in one order, to look up what the others had reached."""

    def __init__(self, progress: dict[int, Progress]) -> None:
        steps = sorted((*step, partition) for partition, of in progress.items() for step in of)
        # Before each step: the newest event time, its partition, and the newest event time of all other partitions.
        best, second = [(FIRST_NEWEST_S, -1)], [FIRST_NEWEST_S]
        for _, newest_s, partition in steps:
            (best_s, leader), second_s = best[-1], second[-1]
            if partition == leader:
                best_s = max(best_s, newest_s)
            elif newest_s > best_s:
                best_s, leader, second_s = newest_s, partition, best_s
            else:
                second_s = max(second_s, newest_s)
            best.append((best_s, leader))
            second.append(second_s)
        self._at_ms = np.array([at_ms for at_ms, *_ in steps], np.int64)
        self._best_s, self._leader = np.array(best, np.int64).T
        self._second_s = np.array(second, np.int64)

    def newest_of_others(self, partition: int, arrived_ms: Array) -> Array:
        """The newest event time that the other partitions had before these timestamps.

        Whole seconds suffice, see ``windows_missed``.
        """
        step = np.searchsorted(self._at_ms, arrived_ms, side="left")
        found: Array = np.where(self._leader[step] == partition, self._second_s[step], self._best_s[step])
        return found


def newest_of_all(progress: dict[int, Progress]) -> int:
    """The newest event time of all partitions in whole seconds."""
    return max([FIRST_NEWEST_S, *(newest_of(steps) for steps in progress.values())])


def _merged_progress(context: Context, reports: list[PartitionReport]) -> dict[int, Progress]:
    """The progress of all partitions up to the end of this batch."""
    progress = dict(context.progress)
    for report in reports:
        for partition, steps in report.progress.items():
            progress[partition] = rises(*np.array([*progress.get(partition, []), *steps], np.int64).T)
    return progress


def _recent(progress: dict[int, Progress]) -> dict[int, Progress]:
    """The progress that the next batch must know; what is older counts as before everything."""
    last_ms = max((steps[-1][0] for steps in progress.values()), default=0)
    recent = {}
    for partition, steps in progress.items():
        older = sum(at_ms <= last_ms - HISTORY_MS for at_ms, _ in steps)
        kept = steps[max(older - 1, len(steps) - HISTORY_STEPS, 0) :]
        # The first step stands for everything that is forgotten, so it gets time 0.
        recent[partition] = kept if kept[0] == steps[0] and not older else [(0, kept[0][1]), *kept[1:]]
    return recent


def _report(reports: list[PartitionReport]) -> BatchReport:
    """Counts, offsets and latest readings of all partitions together."""
    merged = BatchReport()
    latest: dict[tuple[str, str], Latest] = {}
    for report in reports:
        merged.messages += report.messages
        merged.rejected += report.rejected
        for kind, count in report.rejections.items():
            merged.rejections[kind] = merged.rejections.get(kind, 0) + count
        if report.first_ms is not None:
            merged.first_ms = min(report.first_ms, merged.first_ms or report.first_ms)
        merged.next_offsets |= report.next_offsets
        for entry in report.latest:
            keep_latest(latest, entry)
    forget_oldest(latest)
    merged.latest = list(latest.values())
    return merged


def _rows(groups: Groups, types: list[str], locations: list[str], units: list[str]) -> pa.RecordBatch:
    """The groups that count in a window."""
    kept = Groups(*(column[groups.missed < SLOTS_PER_WINDOW] for column in groups))
    nothing = [None] * len(kept.slot)
    columns: list[Any] = [
        kept.newest_us,
        (kept.slot + kept.missed) * SLOT_US,
        [types[number] for number in kept.sensor_type],
        [locations[number] for number in kept.location],
        [units[number] for number in kept.unit],
        *(kept.readings, kept.total, kept.low, kept.high, nothing, nothing),
    ]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, JUDGED, strict=True)], schema=JUDGED
    )


def _outcome_row(batch_id: int, outcome: Outcome) -> pa.RecordBatch:
    """The row that carries the Outcome through Spark's windows.

    It has the newest event time, so the watermark stays. It counts only in the last of its three windows, so Spark
    returns it once.
    """
    newest_s = newest_of_all(outcome.progress)
    slot = newest_s * 1_000_000 // SLOT_US
    row: dict[str, Any] = dict.fromkeys(JUDGED.names) | {
        "event_time": newest_s * 1_000_000,
        "missed_until": (slot + SLOTS_PER_WINDOW - 1) * SLOT_US,
        "batch_id": batch_id,
        "outcome": encode_outcome(outcome),
    }
    return pa.RecordBatch.from_pylist([row], JUDGED)
