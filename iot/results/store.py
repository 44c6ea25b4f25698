"""``Store`` reads and writes the results database; the only module that other folders open it with.

Each batch is one transaction, which also stores the batch's id, so a repeated batch changes nothing. The size is
bounded: old windows and alerts are deleted, and every table has a maximum number of rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import delete, insert, select

from iot.alerts import Alert, Delivered, Rules
from iot.batches import Identity, Offsets
from iot.owner import Held, Owner
from iot.results import aside, names, retention, timeline
from iot.results.database import Database
from iot.results.errors import StoreUnavailable
from iot.results.model import Batch, State, Status, Window
from iot.results.names import choose
from iot.results.queries import RATE_S, read_alerts, read_key_values, read_state, read_windows
from iot.results.tables import SCHEMA_VERSION, metadata, summary
from iot.results.transactions import Transactions
from iot.results.writes import (
    add_totals,
    insert_alerts,
    put_key_values,
    update_summary,
    upsert_latest,
    upsert_windows,
)
from iot.settings import UserError

DATABASE_URL = "sqlite:////tmp/dashboard-results.db"
# How long to wait for a lock that another process holds.
LOCK_WAIT_S = 5.0
# How long one call of ``prune`` deletes; the next call deletes the rest.
PRUNE_S = 5.0

__all__ = ["DATABASE_URL", "Store", "StoreUnavailable", "choose"]


class Store:
    """A results database; safe to use from several threads and processes.

    Every method but ``close`` raises ``StoreUnavailable`` if the database is locked, full or unreachable, and
    ``UserError`` if it is damaged, another program's or another version's. In both cases nothing was changed.
    Methods that write need a database that was ``reset`` once; methods that read treat any other as empty.
    """

    def __init__(self, url: str = DATABASE_URL, wait_s: float = LOCK_WAIT_S) -> None:
        """Nothing is opened yet, and only ``reset`` creates the file and the tables.

        Args:
            url: ``sqlite:////path/to/file.db`` or ``postgresql://user@host/database``.
            wait_s: How long to wait for a lock that another process holds.

        Raises:
            UserError: The URL is malformed, or its driver is not installed.
        """
        self._database = Database(url, wait_s)
        self.name = self._database.name
        self._transactions = Transactions(self._database)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def give_up_without_answer(self) -> None:
        """Before a stop: where the server of PostgreSQL does not answer for 2 s, let every call fail from now on.

        Calls that wait for the server, in other threads, fail too. Otherwise they would wait until it is back.
        """
        self._database.give_up_without_answer()

    # Used by the processing.

    @contextmanager
    def own(
        self,
        owner: Owner,
        fix: str,
        say: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
    ) -> Iterator[Held]:
        """Make this process the only one that writes the database, until the end of the block.

        From then on, everything that writes raises ``LeaseLost`` if another process has taken over.

        Args:
            fix: What to do if another process owns it, for the message.
            say: Prints a line.
            stop: Ends the wait for the end of an owner on another machine.

        Raises:
            InUse: Another process owns it. Nothing was changed.

        Raises: see ``Store``.
        """
        with self._transactions.own(owner, fix, say, stop or threading.Event()) as lease:
            yield lease

    def place_id(self) -> str:
        """Return an id of where the results are, whether or not there are any; empty if there is none.

        It does not depend on how the URL is written. A file of SQLite has none.

        Raises: see ``Store``.
        """
        if self._database.is_sqlite:
            return ""
        try:
            with self._database.reading() as connection:
                return names.place_id(connection)
        except StoreUnavailable:
            raise
        except UserError:
            # The server does not tell every user its id.
            return ""

    def is_at(self, name: str, place_id: str) -> bool:
        """Return whether this database is the one that had this name, and this ``place_id`` if it is not empty.

        Raises: see ``Store``.
        """
        ours = self.place_id() if place_id else ""
        return ours == place_id if ours else names.same_address(name, self.name)

    def identity(self) -> tuple[Identity, str] | None:
        """Return the topic that the results are about and their state id; None if there are no results yet.

        Raises: see ``Store``.
        """
        with self._transactions.reading() as opened:
            if not opened:
                return None
            _, current = opened
            return Identity(current.topic, current.topic_id), current.state_id

    def checkpoint_dir(self) -> str:
        """Return the folder of the checkpoints that belong to the results, as ``reset`` was told; empty if unknown.

        Raises: see ``Store``.
        """
        with self._transactions.reading() as opened:
            return read_key_values(opened[0]).checkpoint_dir if opened else ""

    def has_counted(self) -> bool:
        """Return whether there is anything that a reset would delete.

        Raises: see ``Store``.
        """
        with self._transactions.reading() as opened:
            return bool(opened and (opened[1].messages or opened[1].rejected or opened[1].total_alerts))

    def set_aside(self, stamp: str) -> str:
        """Keep all results under another name. In SQLite they are also still here, for ``reset`` to delete.

        Args:
            stamp: Distinguishes the name from others, such as a date.

        Returns:
            Where they are, and the command that removes them.

        Raises: see ``Store``.
        """
        self._transactions.require_lease()
        if self._database.is_sqlite:
            copy = aside.copy_file(self._database, f"before-{stamp}")
            return f"{copy} (remove it with: {aside.how_to_remove_file(copy)})"
        with self._database.writing() as connection:
            self._transactions.require_owner(connection)
            schema = aside.move_tables(connection, f"before_{stamp}", self.name)
        self._transactions.forget_tables()
        return f"the schema {schema} (remove it with: {aside.how_to_remove_schema(self._database, schema)})"

    def reset(self, identity: Identity, state_id: str, checkpoint_dir: str = "") -> None:
        """Create the file and the tables if they are missing, and delete all results.

        Args:
            identity: The topic that the new results are about.
            state_id: Ties the results to the checkpoints of the same run.
            checkpoint_dir: The folder of those checkpoints.

        Raises: see ``Store``.
        """
        self._transactions.require_lease()
        self._transactions.create()
        with self._database.writing() as connection:
            version = 0
            if self._transactions.has_results(connection):
                self._transactions.require_owner(connection)
                version = connection.scalar(select(summary.c.version).with_for_update()) or 0
                for table in metadata.sorted_tables:
                    connection.execute(delete(table))
            else:
                metadata.create_all(connection)
            put_key_values(connection, checkpoint_dir=checkpoint_dir)
            if self._transactions.owner:
                put_key_values(connection, owner=self._transactions.owner)
            zeros = dict.fromkeys(("messages", "rejected", "late", "total_alerts", "alerts_from_ms"), 0)
            connection.execute(
                insert(summary).values(
                    id=1,
                    schema_version=SCHEMA_VERSION,
                    version=version + 1,
                    topic=identity.topic,
                    topic_id=identity.topic_id,
                    state_id=state_id,
                    **zeros,
                )
            )

    def offsets(self) -> Offsets:
        """Return the offset after the last processed message, by partition that had any.

        Raises: see ``Store``.
        """
        with self._transactions.reading() as opened:
            return read_key_values(opened[0]).offsets if opened else {}

    def write_batch(self, batch: Batch, rules: Rules, now_s: float) -> bool:
        """Write a batch in one transaction.

        Args:
            rules: Decide which of the latest readings are in alert.
            now_s: The time that counts for retention and for the rate.

        Returns:
            False if this batch, or a later one of the same query, was written before; then nothing is changed.

        Raises: see ``Store``.
        """
        report = batch.report
        with self._transactions.writing() as (connection, current):
            if current.query_id == batch.query_id and current.batch_id >= batch.batch_id:
                return False
            units = add_totals(connection, report.totals)
            upsert_windows(connection, batch.windows, units, now_s)
            upsert_latest(connection, report.latest, rules)
            timeline.count_readings(connection, now_s, report.messages)
            stored = read_key_values(connection)
            recent = [entry for entry in stored.recent if now_s - RATE_S < entry[0] <= now_s]
            put_key_values(
                connection,
                locations=report.locations or stored.locations,
                offsets=stored.offsets | report.next_offsets,
                recent=[*recent, (now_s, report.messages)],
            )
            update_summary(
                connection,
                current,
                query_id=batch.query_id,
                batch_id=batch.batch_id,
                messages=current.messages + report.messages,
                rejected=current.rejected + report.rejected,
                late=current.late + report.late,
                processed_s=now_s if report.messages or report.rejected else current.processed_s,
            )
        return True

    def write_alerts(self, delivered: list[Delivered], offsets: Offsets, topic_id: str) -> list[Alert]:
        """Write alerts and the next offsets to read from their topic, in one transaction.

        Args:
            topic_id: Kafka's id of the topic of readings that the alerts are about.

        Returns:
            The alerts that were not in the database before.

        Raises: see ``Store``.
        """
        with self._transactions.writing() as (connection, current):
            new = insert_alerts(connection, delivered, topic_id, current.total_alerts)
            put_key_values(connection, alert_offsets=offsets)
            update_summary(connection, current, total_alerts=current.total_alerts + len(new))
        return new

    def alert_offsets(self) -> Offsets | None:
        """Return the next offsets to read from the topic of alerts; None before ``write_alerts`` was called.

        Raises: see ``Store``.
        """
        with self._transactions.reading() as opened:
            return read_key_values(opened[0]).alert_offsets if opened else None

    def heartbeat(self, status: Status) -> None:
        """Write the status of the processing; to be called every second, because readers notice when it gets old.

        Raises: see ``Store``.
        """
        with self._transactions.writing() as (connection, current):
            put_key_values(connection, status=status)
            timeline.count_readings(connection, status.at_s, 0)
            update_summary(connection, current)

    def prune(self, now_s: float, retention_s: float) -> None:
        """Delete windows last written, and alerts raised, more than ``retention_s`` ago, and those in excess.

        The clock counts, not event time: replayed readings of last year are kept as long as any others.

        Raises: see ``Store``.
        """
        with self._transactions.writing() as (connection, current):
            timeline.delete_old_steps(connection, now_s)
            alerts_from_ms = int((now_s - retention_s) * 1_000)
            update_summary(connection, current, retention_s=retention_s, alerts_from_ms=alerts_from_ms)

        def delete_alerts() -> bool:
            with self._transactions.writing() as (connection, current):
                update_summary(connection, current)
                return retention.delete_alerts(connection, current)

        def delete_windows() -> bool:
            with self._transactions.writing() as (connection, current):
                update_summary(connection, current)
                return retention.delete_windows(connection, now_s - retention_s)

        until_s = time.monotonic() + PRUNE_S
        for step in (delete_alerts, delete_windows, self._database.shrink):
            while step() and time.monotonic() < until_s:
                pass

    # Used by the web server.

    def version(self) -> int:
        """Return a number that changes with every write; 0 if there are no results yet.

        Raises: see ``Store``.
        """
        with self._transactions.reading() as opened:
            return opened[1].version if opened else 0

    def read(self, now_s: float) -> State:
        """Return all results except windows and older alerts, from one snapshot.

        Args:
            now_s: Decides which sensors are active.

        Raises: see ``Store``.
        """
        with self._transactions.reading() as opened:
            return read_state(*opened, now_s) if opened else State()

    def alerts(
        self,
        limit: int = 100,
        sensor_type: str | None = None,
        sensor_id: str | None = None,
        since_us: int | None = None,
    ) -> list[Alert]:
        """Return at most ``limit`` alerts from ``since_us`` on, newest first by event time.

        Raises: see ``Store``.
        """
        with self._transactions.reading() as opened:
            if not opened:
                return []
            return read_alerts(*opened, limit, sensor_type=sensor_type, sensor_id=sensor_id, since_us=since_us)

    def windows(
        self,
        since_s: float | None = None,
        until_s: float | None = None,
        sensor_type: str | None = None,
        location: str | None = None,
        limit: int | None = None,
    ) -> list[Window]:
        """Return windows that end within these bounds (inclusive), of one location or over all; oldest first.

        Raises: see ``Store``.
        """
        with self._transactions.reading() as opened:
            if not opened:
                return []
            return read_windows(
                opened[0],
                since_s=since_s,
                until_s=until_s,
                sensor_type=sensor_type,
                location=location,
                limit=limit,
            )
