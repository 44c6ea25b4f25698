"""``Store`` reads and writes the results database; the only module that other folders open it with.

Each batch is one transaction, which also stores the batch's id, so a repeated batch changes nothing. The size is
bounded: old windows and alerts are deleted, and every table has a maximum number of rows.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from sqlalchemy import delete, insert, select

from iot.alerts import Alert, Delivered, Rules
from iot.batches import Identity, Offsets
from iot.owner import Held, Owner
from iot.results import aside, names, retention, timeline
from iot.results.active_alarms import ActiveAlarms
from iot.results.alarm_writes import forget_alarms, put_changes
from iot.results.alarms import Alarms, Notifications, Silences
from iot.results.database import Database
from iot.results.errors import BatchesMissing, StoreUnavailable
from iot.results.model import Batch, State, Status, Window
from iot.results.names import choose
from iot.results.queries import RATE_S, read_alerts, read_key_values, read_state, read_windows
from iot.results.tables import SCHEMA_VERSION, metadata, notifications, summary
from iot.results.transactions import Transactions
from iot.results.upgrade import upgrade
from iot.results.upsert import upsert
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

__all__ = ["DATABASE_URL", "BatchesMissing", "Store", "StoreUnavailable", "choose"]


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
        self.alarms = Alarms(self._transactions)
        self.silences = Silences(self._transactions)
        self.notifications = Notifications(self._transactions)
        # What was told to receivers when tables were set aside, for the reset after it.
        self._told: dict[tuple[str, str], bytes] = {}

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
        self._told = self.notifications.read()
        with self._database.writing() as connection:
            self._transactions.require_owner(connection)
            schema = aside.move_tables(connection, f"before_{stamp}", self.name)
        self._transactions.forget_tables()
        return f"the schema {schema} (remove it with: {aside.how_to_remove_schema(self._database, schema)})"

    def reset(self, identity: Identity, state_id: str, checkpoint_dir: str = "") -> None:
        """Create the file and the tables if they are missing, and delete all results.

        What was told to receivers of notifications stays, so that they hear the end of alarms that are forgotten, and
        of no alarm twice if its readings are processed again.

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
                upgrade(connection)
                ended = forget_alarms(connection)
                for table in metadata.sorted_tables:
                    if table is not notifications:
                        connection.execute(delete(table))
                put_changes(connection, ended)
            else:
                metadata.create_all(connection)
            upsert(connection, notifications, [(*key, body) for key, body in self._told.items()])
            self._told = {}
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
        """Return the offset up to which everything has been processed, at least by partition that had messages.

        Raises: see ``Store``.
        """
        with self._transactions.reading() as opened:
            return read_key_values(opened[0]).offsets if opened else {}

    def active_alarms(self, rules: Rules, topic: str) -> ActiveAlarms:
        """Return the alarms that are pending or firing, for ``write_batch``. They are not read yet."""
        return ActiveAlarms(self._transactions, rules, topic)

    def write_batch(self, batch: Batch, rules: Rules, now_s: float, active: ActiveAlarms | None = None) -> bool:
        """Write a batch in one transaction.

        Args:
            rules: Decide which of the latest readings are in alert.
            now_s: The time that counts for retention and for the rate.
            active: The alarms that the batch may change; None for results without alarms.

        Returns:
            False if this batch, or a later one of the same query, was written before; then nothing is changed.

        Raises: see ``Store``; and
            BatchesMissing: The batch before this one is not in the database.
        """
        report = batch.report
        moving = active.moving() if active else nullcontext()
        with moving, self._transactions.writing() as (connection, current):
            next_id = current.batch_id + 1 if current.query_id == batch.query_id else 0
            if next_id > batch.batch_id:
                return False
            if next_id < batch.batch_id:
                raise BatchesMissing(
                    f"{self.name} lacks the batches {next_id} to {batch.batch_id - 1}, which Spark does not process "
                    "again: an older copy was restored, or a standby that lacked them took over"
                )
            if active:
                active.write_batch(connection, report, int(now_s * 1_000_000))
            units = add_totals(connection, report.totals)
            upsert_windows(connection, batch.windows, units, now_s)
            forgotten = upsert_latest(connection, report.latest, rules)
            if active and forgotten:
                active.forget(connection, forgotten, int(now_s * 1_000_000))
            timeline.count_readings(connection, now_s, report.messages)
            stored = read_key_values(connection)
            recent = [entry for entry in stored.recent if now_s - RATE_S < entry[0] <= now_s]
            put_key_values(
                connection,
                locations=report.locations or stored.locations,
                offsets=stored.offsets | report.next_offsets,
                recent=[*recent, (now_s, report.messages)],
            )
            if report.rejections:
                put_key_values(connection, rejections=dict(Counter(stored.rejections) + Counter(report.rejections)))
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
        """Delete windows last written, alerts raised and alarms resolved ``retention_s`` ago, and those in excess.

        The clock counts, not event time: replayed readings of last year are kept as long as any others.

        Raises: see ``Store``.
        """
        retention.prune(self._transactions, self._database, now_s, retention_s)

    def size_bytes(self) -> int:
        """Return how much space the results take: the files of SQLite, or the tables in PostgreSQL with their indexes.

        Raises: see ``Store``.
        """
        return self._database.size_bytes()

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
