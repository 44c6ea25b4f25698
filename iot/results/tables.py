"""The tables of the results database.

``iot_results`` has one row, the summary: it identifies the results and holds the counts. Every writer locks it first,
so writers cannot deadlock. All other tables have keys, so writing the same row again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)

SCHEMA_VERSION = 2
WITHOUT_ALARMS = 1
"""The earlier version, which lacks the tables of alarms and an index. Its owner upgrades it."""


class Text(TypeDecorator[str]):
    """A string of any characters. PostgreSQL takes no NUL, so there it is escaped."""

    impl = String
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        return _escape_nul if dialect.name == "postgresql" else None

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], str | None] | None:
        return _unescape_nul if dialect.name == "postgresql" else None


def escape_nul(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\0", "\\0")


def _escape_nul(text: str | None) -> str | None:
    return None if text is None else escape_nul(text)


def _unescape_nul(text: str | None) -> str | None:
    if text is None or "\\" not in text:
        return text
    return "\\".join(part.replace("\\0", "\0") for part in text.split("\\\\"))


metadata = MetaData()


def _table(name: str, *columns: Column[Any] | Index | UniqueConstraint, clustered: bool = True) -> Table:
    """A table; ``clustered`` stores its rows in the order of the key, which only SQLite can."""
    return Table(name, metadata, *columns, sqlite_with_rowid=not clustered)


def _key(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _column(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, nullable=False)


summary = _table(
    "iot_results",
    _key("id", Integer),
    _column("schema_version", Integer),
    _column("topic", Text),
    _column("topic_id", Text),
    _column("state_id", Text),
    # Grows by one with every write.
    _column("version", BigInteger),
    # The last batch written; null before the first.
    Column("query_id", Text),
    Column("batch_id", BigInteger),
    _column("messages", BigInteger),
    _column("rejected", BigInteger),
    _column("late", BigInteger),
    _column("total_alerts", BigInteger),
    # When a batch with messages was last written.
    Column("processed_s", Double),
    Column("retention_s", Double),
    # Older alerts are hidden; they remain only to recognise repeated deliveries.
    _column("alerts_from_ms", BigInteger),
    clustered=False,
)

# Small values as JSON; their names are the fields of KeyValues.
key_values = _table("iot_notes", _key("name", Text), _column("value", LargeBinary), clustered=False)

# By sensor type; the sum is null if it overflowed.
totals = _table(
    "totals",
    _key("sensor_type", Text),
    # The fields of Total.
    _column("count", BigInteger),
    Column("total", Double),
    _column("min", Double),
    _column("max", Double),
    _column("newest_us", BigInteger),
    _column("unit", Text),
)

windows_by_location = _table(
    "windows_by_location",
    _key("location", Text),
    _key("end_s", BigInteger),
    _key("sensor_type", Text),
    _column("unit", Text),
    _column("count", BigInteger),
    Column("total", Double),
    _column("min", Double),
    _column("max", Double),
    Index("windows_by_location_end", "end_s", "sensor_type"),
)

# The same over all locations. A row here and its rows by location are deleted together.
windows = _table(
    "windows",
    _key("end_s", BigInteger),
    _key("sensor_type", Text),
    _column("unit", Text),
    _column("count", BigInteger),
    Column("total", Double),
    _column("min", Double),
    _column("max", Double),
    _column("locations", BigInteger),
    _column("written_s", Double),
    Index("windows_written", "written_s", "end_s"),
)

# The latest reading of each sensor and type.
latest = _table(
    "latest",
    # The fields of Latest, but for the last one.
    _column("time_us", BigInteger),
    _column("offset", BigInteger),
    _column("partition", BigInteger),
    _key("sensor_id", Text),
    _key("sensor_type", Text),
    _column("location", Text),
    _column("value", Double),
    _column("unit", Text),
    _column("heard_ms", BigInteger),
    # Whether it breaks a rule.
    _column("alert", Boolean),
)
Index(
    "latest_in_alert",
    latest.c.heard_ms,
    latest.c.sensor_id,
    # With this column in the index, SQLite need not read the table.
    latest.c.alert,
    sqlite_where=latest.c.alert.is_(True),
    postgresql_where=latest.c.alert.is_(True),
)

# Finds the sensors of a type that are silent: every second, also among 100,000.
latest_heard = Index("latest_heard", latest.c.sensor_type, latest.c.heard_ms)

# When a sensor was last heard from, whatever the type.
sensors = _table(
    "sensors", _key("sensor_id", Text), _column("heard_ms", BigInteger), Index("sensors_heard", "heard_ms")
)

alerts = _table(
    "alerts",
    # Counts all alerts ever written. SQLite uses only an INTEGER key as the row id.
    _key("number", BigInteger().with_variant(Integer, "sqlite")),
    _column("topic_id", Text),
    _column("raised_ms", BigInteger),
    _column("time_us", BigInteger),
    # The fields of Alert.
    _column("alert_id", Text),
    _column("type", Text),
    _column("sensor_id", Text),
    _column("sensor_type", Text),
    _column("location", Text),
    _column("value", Double),
    _column("unit", Text),
    _column("threshold", Double),
    UniqueConstraint("alert_id", "topic_id"),
    Index("alerts_time", "time_us"),
    Index("alerts_type_time", "sensor_type", "time_us"),
    Index("alerts_sensor_time", "sensor_id", "time_us"),
    Index("alerts_raised", "raised_ms"),
    clustered=False,
)

# Counts by step of time: readings processed (series "") by the clock, alerts (series: their type) by event time.
history = _table(
    "history", _key("series", Text), _key("step_s", BigInteger), _key("at_s", BigInteger), _column("count", BigInteger)
)

# One row for each alarm that is active or was resolved lately.
alarms = _table(
    "alarms",
    # The fields of Active.
    _key("alarm_id", Text),
    _column("rule", Text),
    _column("severity", Text),
    _column("state", Text),
    _column("sensor_id", Text),
    _column("sensor_type", Text),
    _column("location", Text),
    _column("unit", Text),
    _column("threshold", Double),
    _column("value", Double),
    _column("peak", Double),
    _column("alerts", BigInteger),
    _column("started_us", BigInteger),
    Column("fired_us", BigInteger),
    _column("updated_us", BigInteger),
    Column("resolved_us", BigInteger),
    Column("clearing_us", BigInteger),
    # When it fired, for the order of pages; an alarm that did not fire comes last.
    _column("order_us", BigInteger),
    # When it was written as resolved, by the clock.
    Column("ended_ms", BigInteger),
    # Ids of silences, as JSON.
    _column("silenced_by", LargeBinary),
    # Batches never change these.
    Column("acknowledged_us", BigInteger),
    Column("acknowledged_by", Text),
    Column("acknowledged_comment", Text),
    Index("alarms_state_order", "state", "order_us", "started_us", "alarm_id"),
    Index("alarms_sensor", "sensor_id"),
    Index("alarms_ended", "ended_ms"),
)

# Changes of alarms that are not in the topic of alarms yet. The body is the alarm as JSON; null once it is forgotten.
alarm_changes = _table(
    "alarm_changes",
    _key("number", BigInteger().with_variant(Integer, "sqlite")),
    _column("alarm_id", Text),
    Column("body", LargeBinary),
    clustered=False,
)

silences = _table(
    "silences",
    _key("id", Text),
    # A list of Matcher, as JSON.
    _column("matchers", LargeBinary),
    _column("starts_us", BigInteger),
    _column("ends_us", BigInteger),
    _column("created_by", Text),
    _column("comment", Text),
    _column("updated_us", BigInteger),
    Index("silences_ends", "ends_us"),
    clustered=False,
)

# What each receiver was told about each group of alarms; the notifier knows what the body means.
notifications = _table(
    "notifications", _key("receiver", Text), _key("group_key", Text), _column("body", LargeBinary), clustered=False
)

ALARM_TABLES = (alarms, alarm_changes, silences, notifications)
