"""Batches and alerts for the results database, built from readings as Spark builds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from iot.alerts import Alert, Delivered, Rules
from iot.batches import BatchReport, Identity, Latest, Total
from iot.readings import format_timestamp
from iot.results.model import Batch
from iot.results.store import Store

NOW_S = 1_795_561_380
HOUR_S = 3_600
DAY_S = 24 * HOUR_S
IDENTITY = Identity("iot-sensors", "first-topic-id")
NO_RULES = Rules(())


def opened(store: Store) -> Iterator[Store]:
    """Yield the store with its tables created, then close it; for fixtures."""
    store.reset(IDENTITY, "state")
    yield store
    store.close()


def an_alert(number: int, **changes: Any) -> Alert:
    """The alert about the message at this offset of the first partition."""
    alert = Alert(
        f"iot-sensors-0-{number}", "HIGH_TEMPERATURE", "s", "temperature", "a", 31.0, "celsius", 30.0,
        "2026-11-24T02:15:07.123456+00:00",
    )  # fmt: skip
    return msgspec.structs.replace(alert, **changes)


class Sample(NamedTuple):
    """A reading that was measured ``at_s`` seconds after ``NOW_S``, and heard then too if ``heard_s`` is None."""

    value: float = 20.0
    at_s: float = 0.0
    sensor_id: str = "s"
    sensor_type: str = "temperature"
    location: str = "hall"
    unit: str = "celsius"
    heard_s: float | None = None
    offset: int = 0

    @property
    def time_us(self) -> int:
        return int((NOW_S + self.at_s) * 1_000_000)

    @property
    def heard_ms(self) -> int:
        return int((NOW_S + (self.at_s if self.heard_s is None else self.heard_s)) * 1_000)


class Stream:
    """Stands in for Spark: has the windows of all readings so far, and makes a batch of each list of new readings."""

    def __init__(self) -> None:
        self.windows: dict[tuple[int, str, str], list[Sample]] = defaultdict(list)

    def batch(self, samples: list[Sample], **report: Any) -> tuple[pa.Table, BatchReport]:
        """Return the windows that these samples change, and the report on them."""
        changed: dict[tuple[int, str, str], None] = {}
        for sample in samples:
            first_s = sample.time_us // 10_000_000 * 10 + 10
            for end_s in (first_s, first_s + 10, first_s + 20):
                key = (end_s, sample.sensor_type, sample.location)
                self.windows[key].append(sample)
                changed[key] = None
        by_type, by_sensor = defaultdict(list), defaultdict(list)
        for sample in samples:
            by_type[sample.sensor_type].append(sample)
            by_sensor[sample.sensor_id, sample.sensor_type].append(sample)
        result = BatchReport(
            messages=len(samples),
            totals={name: total(group) for name, group in by_type.items()},
            latest=[latest(group) for group in by_sensor.values()],
            sensor_types=sorted({sample.sensor_type for sample in samples}),
            locations=sorted({sample.location for sample in samples}),
        )
        for name, value in report.items():
            setattr(result, name, value)
        return window_table({key: self.windows[key] for key in changed}), result


def total(samples: list[Sample]) -> Total:
    values = [sample.value for sample in samples]
    newest = max(samples, key=lambda sample: sample.time_us)
    return Total(len(values), sum(values), min(values), max(values), newest.time_us, newest.unit)


def latest(samples: list[Sample]) -> Latest:
    last = max(samples, key=lambda sample: (sample.time_us, sample.offset))
    heard_ms = [sample.heard_ms for sample in samples]
    return Latest(
        *(last.time_us, last.offset, 0, last.sensor_id, last.sensor_type, last.location, last.value, last.unit),
        *(max(heard_ms), min(heard_ms)),
    )


def window_table(windows: dict[tuple[int, str, str], list[Sample]]) -> pa.Table:
    """The windows in the form that ``iot.spark.queries.windows`` produces."""
    totals = [total(group) for group in windows.values()]
    return pa.table(
        {
            "end": pa.array([end_s * 1_000_000 for end_s, _, _ in windows], pa.timestamp("us", "UTC")),
            "sensor_type": pa.array([name for _, name, _ in windows], pa.string()),
            "location": pa.array([place for _, _, place in windows], pa.string()),
            "unit": pa.array([of.unit for of in totals], pa.string()),
            "count": pa.array([of.count for of in totals], pa.int64()),
            "total": pa.array([of.total for of in totals], pa.float64()),
            "min": pa.array([of.min for of in totals], pa.float64()),
            "max": pa.array([of.max for of in totals], pa.float64()),
        }
    )


def write_batch(
    store: Store,
    batch_id: int,
    samples: list[Sample],
    stream: Stream | None = None,
    rules: Rules = NO_RULES,
    now_s: float | None = None,
    **report: Any,
) -> bool:
    """Write a batch of these samples; by default at the time at which the last of them was measured."""
    changed, made = (stream or Stream()).batch(samples, **report)
    if now_s is None:
        now_s = NOW_S + max((sample.at_s for sample in samples), default=0)
    return store.write_batch(Batch("windows", batch_id, changed, made), rules, now_s)


def delivered(number: int, at_s: float = 0.0, raised_s: float | None = None, **fields: Any) -> Delivered:
    """An alert about the reading at offset ``number``; raised when it was measured if ``raised_s`` is None."""
    defaults: dict[str, Any] = {
        "alert_id": f"iot-sensors-0-{number}",
        "type": "HIGH_TEMPERATURE",
        "sensor_id": "s",
        "sensor_type": "temperature",
        "location": "hall",
        "value": 31.5,
        "unit": "celsius",
        "threshold": 30.0,
        "timestamp": format_timestamp(int((NOW_S + at_s) * 1_000_000)),
    }
    return Delivered(Alert(**(defaults | fields)), int((NOW_S + (at_s if raised_s is None else raised_s)) * 1_000))
