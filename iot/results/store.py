"""The results database: what the processing found, written batch by batch, and read by the page.

Each batch is one transaction that also keeps the batch's id, so a batch that comes again changes nothing. Nothing grows
with time: windows and alerts go when they are old, and of everything there is a most.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection, Row, delete, insert, inspect, select, update

from iot.alerts import Alert, Rules
from iot.batches import Context, Identity, Report
from iot.readings import Rejected, parse_timestamp
from iot.results import retention, timeline
from iot.results.database import Database, StoreUnavailable, upsert
from iot.results.model import QueryStatus, State, Status, Window
from iot.results.queries import RATE_S, read_alerts, read_notes, read_state, read_windows
from iot.results.tables import SCHEMA_VERSION, alerts, metadata, notes, results
from iot.results.writes import merge_latest, merge_totals, merge_windows
from iot.settings import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from iot.alerts import Delivered
    from iot.batches import Offsets

DATABASE_URL = "sqlite:////tmp/dashboard-results.db"
LOCK_WAIT_S = 5.0
ALERTS_AT_ONCE = 5_000
# Deleting takes no longer at once; what is left is deleted the next time.
PRUNE_S = 5.0

__all__ = ["DATABASE_URL", "QueryStatus", "State", "Status", "Store", "StoreUnavailable", "Window"]


class Store:
    """The results database; for several threads, and several processes.

    Every method raises ``StoreUnavailable`` when the database cannot be used now, and then nothing was
    changed; ``UserError`` when it is damaged, another program's or another version's.
    """

    def __init__(self, url: str = DATABASE_URL, wait_s: float = LOCK_WAIT_S) -> None:
        """Nothing is opened yet, and only ``begin`` makes the file and the tables.

        Args:
            wait_s: how long to wait for a lock that another process holds.

        Raises:
            UserError: the URL is malformed, or its driver is not installed.
        """
        self._database = Database(url, wait_s)
        self.name = self._database.name
        # Of which the tables were looked at.
        self._known_generation: int | None = None

    def close(self) -> None:
        self._database.close()

    # Written by the processing.

    def identity(self) -> tuple[Identity, str] | None:
        """The topic that the results are about and the id of the state they belong to; None in a new database."""
        with self._reading() as found:
            if not found:
                return None
            _, kept = found
            return Identity(kept.topic, kept.topic_id), kept.state_id

    def begin(self, identity: Identity, state_id: str) -> None:
        """Forget everything, and start afresh."""
        self._database.create()
        with self._database.writing() as connection:
            version = 0
            if self._is_ours(connection):
                version = connection.scalar(select(results.c.version).with_for_update()) or 0
                for table in metadata.sorted_tables:
                    connection.execute(delete(table))
            else:
                metadata.create_all(connection)
            none = dict.fromkeys(("messages", "rejected", "late", "total_alerts", "alerts_from_ms"), 0)
            connection.execute(
                insert(results).values(
                    id=1,
                    schema_version=SCHEMA_VERSION,
                    version=version + 1,
                    topic=identity.topic,
                    topic_id=identity.topic_id,
                    state_id=state_id,
                    **none,
                )
            )

    def contexts(self) -> dict[int, Context]:
        """What was kept of the last batch and the one after it; empty in a new database."""
        with self._reading() as found:
            return read_notes(found[0]).contexts if found else {}

    def offsets(self) -> Offsets:
        """The offset after the last message processed, by partition that had any; empty in a new database."""
        with self._reading() as found:
            return read_notes(found[0]).offsets if found else {}

    def keep_batch(
        self,
        query_id: str,
        batch_id: int,
        changed: pa.Table,
        report: Report,
        contexts: dict[int, Context],
        rules: Rules,
        now_s: float,
    ) -> bool:
        """Keep what a batch found, in one transaction.

        Args:
            changed: the windows by location that the batch changed, as they are now; with the columns ``end``,
                ``sensor_type``, ``location``, ``unit``, ``count``, ``total``, ``min`` and ``max``.
            contexts: see ``iot.spark.checkpoints.contexts_after``.
            rules: say which of the latest readings are in alert.

        Returns:
            False when this batch, or a later one of the query, was kept before; then nothing is changed.
        """
        with self._writing() as (connection, kept):
            if kept.query_id == query_id and kept.batch_id >= batch_id:
                return False
            units = merge_totals(connection, report.totals)
            merge_windows(connection, changed, units, now_s)
            merge_latest(connection, report.latest, rules)
            timeline.count_readings(connection, now_s, report.messages)
            known = read_notes(connection)
            recent = [entry for entry in known.recent if now_s - RATE_S < entry[0] <= now_s]
            _note(
                connection,
                contexts=contexts,
                offsets=known.offsets | report.next_offsets,
                recent=[*recent, (now_s, report.messages)],
            )
            _change(
                connection,
                kept,
                query_id=query_id,
                batch_id=batch_id,
                messages=kept.messages + report.messages,
                rejected=kept.rejected + report.rejected,
                late=kept.late + report.late,
                processed_s=now_s if report.messages or report.rejected else kept.processed_s,
            )
        return True

    def keep_alerts(self, delivered: list[Delivered], offsets: Offsets, topic_id: str) -> list[Alert]:
        """Keep alerts, and where to go on reading them, in one transaction.

        Args:
            topic_id: Kafka's, of the topic of readings that the alerts are about.

        Returns:
            The alerts that were not kept before.
        """
        with self._writing() as (connection, kept):
            known = _known_alerts(connection, [one.alert.alert_id for one in delivered], topic_id)
            new: dict[str, Alert] = {}
            rows = []
            counts: Counter[tuple[str, int]] = Counter()
            for alert, raised_ms in delivered:
                if alert.alert_id in known or alert.alert_id in new:
                    continue
                time_us = _time_us(alert)
                if time_us is None:
                    continue
                new[alert.alert_id] = alert
                *fields, _ = msgspec.structs.astuple(alert)
                rows.append((kept.total_alerts + len(new), topic_id, raised_ms, time_us, *fields))
                if time_us // 1_000 > raised_ms - timeline.DAY_S * 1_000:
                    counts[alert.type, time_us // 1_000_000] += 1
            upsert(connection, alerts, rows)
            timeline.count_alerts(connection, counts)
            _note(connection, alert_offsets=offsets)
            _change(connection, kept, total_alerts=kept.total_alerts + len(rows))
        return list(new.values())

    def alert_offsets(self) -> Offsets | None:
        """Where to go on reading alerts; None before ``keep_alerts`` was called."""
        with self._reading() as found:
            return read_notes(found[0]).alert_offsets if found else None

    def heartbeat(self, status: Status) -> None:
        """Say how the processing fares; every second or so, because silence means that it is gone."""
        with self._writing() as (connection, kept):
            _note(connection, status=status)
            timeline.count_readings(connection, status.at_s, 0)
            _change(connection, kept)

    def prune(self, now_s: float, retention_s: float) -> None:
        """Delete windows and alerts that were last written, or raised, longer ago than that, and those too many.

        By the clock, not by event time: the readings of last year, replayed, are kept as long as any.
        """
        with self._writing() as (connection, kept):
            timeline.forget(connection, now_s)
            _change(connection, kept, retention_s=retention_s, alerts_from_ms=int((now_s - retention_s) * 1_000))

        def alerts_left() -> bool:
            with self._writing() as (connection, kept):
                _change(connection, kept)
                return retention.delete_alerts(connection, kept)

        def windows_left() -> bool:
            with self._writing() as (connection, kept):
                _change(connection, kept)
                return retention.delete_windows(connection, read_notes(connection), now_s - retention_s)

        until_s = time.monotonic() + PRUNE_S
        for left in (alerts_left, windows_left, self._database.give_back):
            while left() and time.monotonic() < until_s:
                pass

    # Read by the page; nothing in a new database.

    def version(self) -> int:
        """A number that changes with every write."""
        with self._reading() as found:
            return found[1].version if found else 0

    def read(self, now_s: float) -> State:
        """All but windows and the alerts of old, as of one moment."""
        with self._reading() as found:
            return read_state(*found, now_s) if found else State()

    def alerts(
        self,
        limit: int = 100,
        sensor_type: str | None = None,
        sensor_id: str | None = None,
        since_us: int | None = None,
    ) -> list[Alert]:
        """Alerts from ``since_us`` on by event time, newest first."""
        with self._reading() as found:
            return read_alerts(*found, limit, sensor_type, sensor_id, since_us) if found else []

    def windows(
        self,
        since_s: float | None = None,
        until_s: float | None = None,
        sensor_type: str | None = None,
        location: str | None = None,
        limit: int | None = None,
    ) -> list[Window]:
        """Windows that end within these bounds, both inclusive, of one location or over all; oldest first."""
        with self._reading() as found:
            return read_windows(found[0], since_s, until_s, sensor_type, location, limit) if found else []

    @contextmanager
    def _reading(self) -> Iterator[tuple[Connection, Row[Any]] | None]:
        """A transaction that reads, with the row of ``iot_results``; None in a new database."""
        if not self._database.exists():
            yield None
            return
        with self._database.reading() as connection:
            generation = self._database.generation
            if self._known_generation != generation and self._is_ours(connection):
                self._known_generation = generation
            known = self._known_generation == generation
            yield (connection, connection.execute(select(results)).one()) if known else None

    @contextmanager
    def _writing(self) -> Iterator[tuple[Connection, Row[Any]]]:
        """A transaction that writes, with the row of ``iot_results``, which all writers lock."""
        with self._database.writing() as connection:
            yield connection, connection.execute(select(results).with_for_update()).one()

    def _is_ours(self, connection: Connection) -> bool:
        """Whether results are in the database; False when it is new.

        Raises:
            UserError: it is another program's, or of another version.
        """
        cure = "choose another with --database-url"
        found = set(inspect(connection).get_table_names())
        if results.name in found:
            if connection.scalar(select(results.c.schema_version)) != SCHEMA_VERSION:
                raise UserError(f"{self.name} was written by another version of this program; {cure}")
            return True
        if found & metadata.tables.keys() or (found and connection.dialect.name == "sqlite"):
            raise UserError(f"{self.name} is the database of another program; {cure}")
        return False


def _change(connection: Connection, kept: Row[Any], **values: Any) -> None:
    connection.execute(update(results).values(version=kept.version + 1, **values))


def _note(connection: Connection, **values: Any) -> None:
    upsert(connection, notes, [(name, msgspec.json.encode(value)) for name, value in values.items()])


def _known_alerts(connection: Connection, alert_ids: list[str], topic_id: str) -> set[str]:
    """Those of the ids that were kept before."""
    known: set[str] = set()
    for at in range(0, len(alert_ids), ALERTS_AT_ONCE):
        some = alerts.c.alert_id.in_(alert_ids[at : at + ALERTS_AT_ONCE])
        known.update(connection.scalars(select(alerts.c.alert_id).where(some, alerts.c.topic_id == topic_id)))
    return known


def _time_us(alert: Alert) -> int | None:
    """The event time of an alert; None where it has none, which no alert of ours is."""
    try:
        return parse_timestamp(alert.timestamp)
    except Rejected:
        return None
