"""What goes into the results database and comes out of it: batches, results, alarms, and how the processing is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from iot.alarms.model import ACTIVE, Alarm
from iot.alarms.model import State as AlarmState
from iot.alerts import Alert, Severity
from iot.batches import BatchReport, Total
from iot.histograms import Histogram

if TYPE_CHECKING:
    import pyarrow as pa

STARTING = "starting"
"""The reason of a query that has not started yet: it is inactive, but has not failed."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch of a Spark query."""

    query_id: str
    batch_id: int
    windows: pa.Table
    """The current values of the windows by location that the batch changed; with the columns ``end``, ``sensor_type``,
    ``location``, ``unit``, ``count``, ``total``, ``min`` and ``max``."""
    report: BatchReport


class QueryStatus(msgspec.Struct):
    """One of Spark's streaming queries, as of its last poll."""

    name: str
    active: bool
    reason: str | None = None
    """Why it is not active."""
    polled_s: float = 0.0
    """When it was polled. All clocks here count seconds since the epoch."""
    mode: str = ""


class Timings(msgspec.Struct):
    """Durations and delays since the processing started, in seconds."""

    batch: Histogram
    """From the start of a batch of windows until its results are stored."""
    write: Histogram
    """The part of it that the transaction in the database takes."""
    windows: Histogram
    """From Kafka's timestamp of the first message of a batch until its windows are stored."""
    alerts: Histogram
    """From the measurement until the alert is stored, for the first of the alerts that are stored together."""


class Status(msgspec.Struct):
    """The state of the processing. It is written every second; if it gets old, the processing has died."""

    at_s: float
    started_s: float
    queries: list[QueryStatus] = []
    kafka: str | None = None
    """Why Kafka does not answer; None while it does."""
    end_offsets: dict[int, int] = {}
    """The end of the topic of readings, by partition."""
    read_offsets: dict[int, int] = {}
    """The offsets at which Spark began to read; they count for partitions without a processed message."""
    lag_10s: bool = False
    """Some messages have waited in the topic for more than ten seconds."""
    spark_ui: str | None = None
    topic: str = ""
    bootstrap_servers: str = ""
    alarms_away: str | None = None
    """Why changes of alarms cannot be sent to their topic; None while they can."""
    alerts_away: str | None = None
    """Why alerts cannot be read; None while they can."""
    database: str | None = None
    """Why results cannot be written; None while they can."""
    notifications: list[tuple[str, str, int]] = []
    """(receiver, result, number of deliveries), since the notifier started."""
    timings: Timings | None = None
    database_bytes: int | None = None
    """The size of the results database; None while it is not known."""
    checkpoint_bytes: dict[str, int] = {}
    """The size of each query's checkpoint, by the name of the query; without those that are not known."""


class LatestValue(NamedTuple):
    """The latest reading of one sensor and type; ``alert`` is true if it breaks a rule."""

    sensor_id: str
    sensor_type: str
    location: str
    value: float
    unit: str
    time_us: int
    alert: bool


class AlarmCount(NamedTuple):
    """Active alarms of one state, severity and sensor type."""

    state: AlarmState
    severity: Severity
    sensor_type: str
    number: int


class Window(msgspec.Struct, frozen=True):
    """A window of one sensor type that ends at ``end_s``; ``avg`` is None if the sum overflowed."""

    end_s: int
    sensor_type: str
    unit: str
    count: int
    avg: float | None
    min: float
    max: float


class State(msgspec.Struct):
    """All results at one moment, except windows and older alerts; the defaults are the state of an empty database."""

    version: int = 0
    messages: int = 0
    """Valid readings."""
    rejected: int = 0
    rejections: dict[str, int] = {}
    """Rejected messages by the kind of their reason; without those that an earlier version counted."""
    late: int = 0
    total_alerts: int = 0
    totals: dict[str, Total] = {}
    """By sensor type; ``total`` is NaN if the sum overflowed."""
    sensors: int = 0
    """Number of sensors that have a latest reading."""
    active_sensors: int = 0
    """Sensors heard from in the last 60 s."""
    active_alerts: int = 0
    """Active sensors whose latest reading, of any of their types, breaks a rule."""
    latest: list[LatestValue] = []
    """At most ``MAX_LATEST``: active sensors in alert first, then those heard from most recently."""
    rate_10s: float = 0.0
    """Readings processed per second over the last ten seconds."""
    rate_history: list[tuple[int, float]] = []
    """(end of a step in seconds, readings processed per second in it) over 24 h, oldest first, at most 300."""
    alert_history: list[tuple[int, str, int]] = []
    """(start of a step in seconds, alert type, count) over 24 h of event time, oldest first."""
    recent_alerts: list[Alert] = []
    """The newest by event time, at most ``RECENT_ALERTS``."""
    sensor_types: list[str] = []
    """Those with rows of their own."""
    locations: list[str] = []
    """Those with rows of their own."""
    offsets: dict[int, int] = {}
    """The offset after the last processed message, by partition that had any."""
    processed_s: float | None = None
    """When messages were last processed."""
    retention_s: float | None = None
    alarms: list[AlarmCount] = []
    """Active alarms; none with a count of 0."""
    silent_sensors: int = 0
    """Sensors about which a SENSOR_SILENT fires."""
    status: Status | None = None
    """None if no processing has reported yet."""


class NotActive(ValueError):  # noqa: N818  # a state, not only an error
    """The alarm is over, so it cannot be acknowledged."""


class InvalidCursor(ValueError):  # noqa: N818  # it says what is wrong
    """The cursor is not one that a page named as its next."""


class AlarmFilter(msgspec.Struct, frozen=True):
    """Which alarms a page is about; None means any."""

    states: Sequence[AlarmState] = ACTIVE
    severity: Severity | None = None
    sensor_type: str | None = None
    sensor_id: str | None = None
    acknowledged: bool | None = None


ANY_ACTIVE = AlarmFilter()


class AlarmPage(msgspec.Struct, frozen=True):
    """Some of the alarms that a filter finds, how many it finds in all, and the cursor of the next page."""

    alarms: list[Alarm]
    total: int
    next: str | None


class AlarmChange(msgspec.Struct, frozen=True):
    """A change that is not in the topic of alarms yet; ``body`` is the alarm as JSON, None once it is forgotten."""

    number: int
    alarm_id: str
    body: bytes | None
