"""The tables of the results database.

One row of ``iot_results`` says whose results these are and counts; every writer locks it first, so that writers never
meet elsewhere. Everything else is keyed so that writing the same again changes nothing.
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

SCHEMA_VERSION = 1


class Text(TypeDecorator[str]):
    """A string of any characters; in PostgreSQL, which takes no NUL, that one is escaped."""

    impl = String
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        return escaped if dialect.name == "postgresql" else None

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], str | None] | None:
        return _unescaped if dialect.name == "postgresql" else None


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\0", "\\0")


def _unescaped(text: str | None) -> str | None:
    if text is None or "\\" not in text:
        return text
    return "\\".join(part.replace("\\0", "\0") for part in text.split("\\\\"))


metadata = MetaData()


def _table(name: str, *columns: Column[Any] | Index | UniqueConstraint, clustered: bool = True) -> Table:
    """A table without NULL where not said; ``clustered`` by its key where SQLite can."""
    return Table(name, metadata, *columns, sqlite_with_rowid=not clustered)


def _key(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _column(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, nullable=False)


results = _table(
    "iot_results",
    _key("id", Integer),
    _column("schema_version", Integer),
    _column("topic", Text),
    _column("topic_id", Text),
    _column("state_id", Text),
    # One more with every write.
    _column("version", BigInteger),
    # The batch that was kept last; null before the first.
    Column("query_id", Text),
    Column("batch_id", BigInteger),
    _column("messages", BigInteger),
    _column("rejected", BigInteger),
    _column("late", BigInteger),
    _column("total_alerts", BigInteger),
    # When a batch with messages was last kept.
    Column("processed_s", Double),
    Column("retention_s", Double),
    # Alerts raised before this are only kept to know a repeat.
    _column("alerts_from_ms", BigInteger),
    clustered=False,
)

# Small things as JSON: contexts, offsets, alert_offsets, recent, status.
notes = _table("iot_notes", _key("name", Text), _column("value", LargeBinary), clustered=False)

# By sensor type; the sum is null once it overflowed.
totals = _table(
    "totals",
    _key("sensor_type", Text),
    # As in Total.
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

# The same over all locations; a row here and its rows by location are pruned together.
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
    # As in Latest.
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
    # So that SQLite need not look at the table for it.
    latest.c.alert,
    sqlite_where=latest.c.alert.is_(True),
    postgresql_where=latest.c.alert.is_(True),
)

# When a sensor was last heard from, whatever of.
sensors = _table(
    "sensors", _key("sensor_id", Text), _column("heard_ms", BigInteger), Index("sensors_heard", "heard_ms")
)

alerts = _table(
    "alerts",
    # Counts all alerts ever kept. SQLite makes only an INTEGER key the row's own number.
    _key("number", BigInteger().with_variant(Integer, "sqlite")),
    _column("topic_id", Text),
    _column("raised_ms", BigInteger),
    _column("time_us", BigInteger),
    # As in Alert.
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

# Counts in steps of time: of readings processed (series "") by the clock, of alerts (series: their type) by event time.
history = _table(
    "history", _key("series", Text), _key("step_s", BigInteger), _key("at_s", BigInteger), _column("count", BigInteger)
)
