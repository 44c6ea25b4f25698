"""What the results database tells the page: the results, and how the processing fares."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from iot.alerts import Alert
from iot.batches import Total

STARTING = "starting"
"""The reason why a query that never ran is not active: it is no failure."""


class QueryStatus(msgspec.Struct):
    """One of Spark's streaming queries, as it was found when it was last asked."""

    name: str
    active: bool
    reason: str | None = None
    """Why it is not active."""
    polled_s: float = 0.0
    """When it was asked; seconds since the epoch, as all clocks here."""
    mode: str = ""


class Status(msgspec.Struct):
    """How the processing fares; it says so every second, and silence says that it is gone."""

    at_s: float
    started_s: float
    queries: list[QueryStatus] = []
    kafka: str | None = None
    """Why Kafka does not answer; None while it does."""
    end_offsets: dict[int, int] = {}
    """Where the topic of readings ends, by partition."""
    read_offsets: dict[int, int] = {}
    """How far Spark has read, by partition; for partitions that no message was processed of."""
    lag_10s: bool = False
    """What was in the topic ten seconds ago is not all processed."""
    spark_ui: str | None = None
    topic: str = ""
    bootstrap_servers: str = ""
    alerts_away: str | None = None
    """Why alerts cannot be read."""
    database: str | None = None
    """Why results cannot be written."""


class LatestValue(NamedTuple):
    """The latest reading of one sensor and type; ``alert``: it breaks a rule."""

    sensor_id: str
    sensor_type: str
    location: str
    value: float
    unit: str
    time_us: int
    alert: bool


class Window(msgspec.Struct, frozen=True):
    """A window of one sensor type that ends at ``end_s``; ``avg`` is None where the sum overflowed."""

    end_s: int
    sensor_type: str
    unit: str
    count: int
    avg: float | None
    min: float
    max: float


class State(msgspec.Struct):
    """All results but windows and the alerts of old, as of one moment; as it is here, nothing was ever processed."""

    version: int = 0
    messages: int = 0
    """Valid readings."""
    rejected: int = 0
    late: int = 0
    total_alerts: int = 0
    totals: dict[str, Total] = {}
    """By sensor type; ``total`` is NaN where the sum overflowed."""
    sensors: int = 0
    """How many are remembered."""
    active_sensors: int = 0
    """Those heard from in the last 60 s."""
    active_alerts: int = 0
    """Those heard from in the last 60 s whose latest reading, of any of their types, breaks a rule."""
    latest: list[LatestValue] = []
    """At most ``MAX_LATEST``: those in alert first, then those heard from most recently."""
    rate_10s: float = 0.0
    """Readings processed per second over the last ten."""
    rate_history: list[tuple[int, float]] = []
    """(end of a step in seconds, readings processed per second in it) over 24 h, oldest first, at most 300."""
    alert_history: list[tuple[int, str, int]] = []
    """(start of a step in seconds, type of alert, count) over 24 h of event time, oldest first."""
    recent_alerts: list[Alert] = []
    """The newest by event time, at most ``RECENT_ALERTS``."""
    sensor_types: list[str] = []
    """Those with rows of their own."""
    locations: list[str] = []
    offsets: dict[int, int] = {}
    """The offset after the last message processed, by partition that had any."""
    processed_s: float | None = None
    """When messages were last processed."""
    retention_s: float | None = None
    status: Status | None = None
    """None: the processing never said anything."""
