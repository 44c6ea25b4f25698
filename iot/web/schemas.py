"""The answers of the API as structs: the code fills them in, and ``openapi`` describes them.

A figure that is not known is null. Times are ISO 8601 in UTC with six digits.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from iot.alarms.model import Alarm, Matcher
from iot.alerts import Alert, Severity

MAX_ALERTS = 1_000
MAX_ALARMS = 1_000
# Maximum length of what people write, in characters.
MAX_NAME = 128
MAX_COMMENT = 1_000
MAX_EXPRESSION = 1_000
MAX_MATCHERS = 20
MAX_CURSOR = 1_000

MOMENT = {"format": "date-time", "examples": ["2026-11-24T02:15:07.123456+00:00"]}

Count = Annotated[int, Meta(ge=0)]
Moment = Annotated[str, Meta(extra_json_schema=MOMENT)]
Average = Annotated[float | None, Meta(description="null where the sum overflowed")]
PageState = Literal["no_data", "live", "stale", "failed"]
HealthLevel = Literal["Good", "Warning", "Critical"]
ActiveState = Literal["pending", "firing"]
SilenceState = Literal["expired", "active", "pending"]
Name = Annotated[str, Meta(max_length=MAX_NAME)]
Comment = Annotated[str, Meta(max_length=MAX_COMMENT)]


class SensorStats(Struct, kw_only=True):
    """One sensor type, over everything processed."""

    sensor_type: str
    unit: str
    count: Count
    avg_value: Average
    min_value: float
    max_value: float
    avg_temp: Annotated[float | None, Meta(description="avg_value of temperature, null for other types")]
    avg_humidity: Annotated[float | None, Meta(description="avg_value of humidity, null for other types")]


class Lag(Struct):
    """Readings in Kafka that are not processed yet."""

    total: Count
    partitions: Annotated[dict[str, Count], Meta(description="by number of the partition")]


class LatestReading(Struct):
    """The latest reading of one sensor and type."""

    sensor_id: str
    sensor_type: str
    location: str
    value: float
    unit: str
    timestamp: Moment
    alert: Annotated[bool, Meta(description="whether it breaks a rule")]


class AlertCount(Struct):
    """Alerts of one type within one step of the history."""

    minute: Annotated[Moment, Meta(description="the start of the step, by event time")]
    type: str
    count: Count


class AlarmCount(Struct):
    """Active alarms of one state and severity."""

    state: ActiveState
    severity: Severity
    count: Count


class Metrics(Struct, kw_only=True):
    """All figures of the page."""

    total_messages: Annotated[Count, Meta(description="valid readings processed, late ones included")]
    rejected_messages: Count
    late_messages: Annotated[Count, Meta(description="readings too late for at least one of their windows")]
    total_alerts: Count
    active_alerts: Annotated[Count | None, Meta(description="active sensors whose latest reading breaks a rule")]
    active_sensors: Annotated[Count | None, Meta(description="sensors heard from in the last 60 s")]
    system_health: HealthLevel | None
    health_reasons: list[str]
    recent_alerts: Annotated[list[Alert], Meta(max_length=10, description="newest first")]
    sensor_stats: list[SensorStats]
    messages_per_second: Annotated[float | None, Meta(description="over the last 10 s")]
    lag: Lag | None
    last_update: Moment | None
    # The contract ends here: what follows is for the page.
    active_alarms: Annotated[list[AlarmCount], Meta(description="none for a state and severity without an alarm")]
    silent_sensors: Annotated[Count, Meta(description="sensors about which a SENSOR_SILENT fires")]
    state: PageState
    state_reason: str | None
    spark_ui: Annotated[str | None, Meta(description="the address of Spark's own user interface")]
    producer_command: Annotated[str, Meta(description="a command that sends readings to this dashboard")]
    sensor_types: list[str]
    locations: list[str]
    limits_reached: Annotated[list[str], Meta(description="limits beyond which names are counted as other")]
    latest: Annotated[list[LatestReading], Meta(description="sensors in alert first, then most recently heard from")]
    rate_history: Annotated[list[tuple[Moment, float]], Meta(description="end of a step, readings per second in it")]
    alert_history: list[AlertCount]
    retention_s: Annotated[float | None, Meta(description="how long windows and alerts are kept")]


class Alerts(Struct):
    """An answer of /api/alerts."""

    alerts: Annotated[list[Alert], Meta(max_length=MAX_ALERTS, description="newest first, by event time")]
    total_alerts: Count


class Alarms(Struct):
    """An answer of /api/alarms."""

    alarms: Annotated[list[Alarm], Meta(max_length=MAX_ALARMS, description="newest first by fired, then by started")]
    total: Annotated[Count, Meta(description="how many there are on all pages")]
    next: Annotated[str | None, Meta(description="the parameter after of the next page; null on the last one")]


class AckGiven(Struct):
    """Who takes care of an alarm."""

    by: Name | None = None
    comment: Comment | None = None


class MatcherGiven(Struct, rename="camel"):
    """Whether the field of an alarm is, or is not, this text or one that the regular expression matches."""

    name: Literal["rule", "severity", "sensor_id", "sensor_type", "location"]
    value: Annotated[str, Meta(max_length=MAX_EXPRESSION, description="regular expressions: in RE2's syntax, anchored")]
    is_regex: bool = False
    is_equal: bool = True


class SilenceGiven(Struct, rename="camel"):
    """A silence to begin, or with the id of one, to change."""

    matchers: Annotated[list[MatcherGiven], Meta(min_length=1, max_length=MAX_MATCHERS)]
    starts_at: str
    ends_at: str
    created_by: Name
    comment: Comment
    id: Name | None = None


class SilenceStatus(Struct):
    """Whether a silence is still to come, holds now, or is over."""

    state: SilenceState


class SilenceShown(Struct, rename="camel", kw_only=True):
    """A silence: while it is active, alarms that all its matchers match are not notified."""

    id: str
    status: SilenceStatus
    updated_at: Moment
    matchers: list[Matcher]
    starts_at: Moment
    ends_at: Moment
    created_by: str
    comment: str


class SilenceId(Struct):
    """The answer to a silence that was posted."""

    # Alertmanager writes it so.
    silence_id: str = msgspec.field(name="silenceID")


class WindowRow(Struct, gc=False):
    """One sensor type in the 30 s from ``start`` to ``end``."""

    start: Moment
    end: Moment
    sensor_type: str
    unit: str
    count: Count
    avg: Average
    min: float
    max: float


class Windows(Struct):
    """An answer of /api/windows."""

    windows: Annotated[list[WindowRow], Meta(description="oldest first")]


class Health(Struct):
    """An answer of /healthz."""

    healthy: bool
    reason: Annotated[str | None, Meta(description="why not healthy")]


class Error(Struct):
    """What is wrong, and how to fix it."""

    error: str


SCHEMAS = (Metrics, Alerts, Alarms, Alarm, AckGiven, SilenceGiven, SilenceShown, SilenceId, Windows, Health, Error)
