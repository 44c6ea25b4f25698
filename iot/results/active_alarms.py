"""The alarms that are pending or firing, in memory as in the database. Only the owner of the results has them.

The database changes first. What is in memory follows once the transaction is committed, so after a failure both are as
they were.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, select

from iot.alarms.machine import Machine, Sensor, Step, end_of
from iot.alarms.model import SENSOR_SILENT
from iot.alarms.silent import Observation, SilentSensors
from iot.alerts import Rules
from iot.batches import BatchReport
from iot.results.alarm_writes import find_silent, read_active, read_active_of, read_newest, refresh_silenced, write_step
from iot.results.tables import silences
from iot.results.transactions import Transactions
from iot.results.writes import update_summary

# Maximum number of alarms about silence that one transaction begins or ends. The next one does the others.
MAX_FIRED = 5_000


class ActiveAlarms:
    """All active alarms of a ``Store``; safe to use from several threads. For the errors see there."""

    def __init__(self, transactions: Transactions, rules: Rules, topic: str) -> None:
        """Call ``read`` before anything else.

        Args:
            topic: of the readings.
        """
        self._transactions = transactions
        self._rules, self._topic = rules, topic
        self._machine, self._silent = Machine(rules, topic, []), SilentSensors(rules, topic, [])
        self._lock = threading.Lock()
        self._is_read = False
        # Whether a transaction failed that may have been committed.
        self._is_in_doubt = False
        self._written: list[tuple[Machine | SilentSensors, Step]] = []
        # The silences that were in effect when they were last looked for; None before.
        self._in_effect: frozenset[tuple[str, int]] | None = None

    def read(self) -> None:
        """Read the active alarms."""
        with self._lock:
            self._read()

    def _read(self) -> None:
        with self._transactions.reading() as opened:
            active = read_active(opened[0]) if opened else []
            newest_us = read_newest(opened[0], {one.sensor for one in active}) if opened else {}
        self._machine = Machine(self._rules, self._topic, active, newest_us)
        self._silent = SilentSensors(self._rules, self._topic, active)
        self._is_read, self._is_in_doubt = True, False

    def watched(self) -> dict[Sensor, int]:
        """Return the newest event time of each sensor with an alarm about a bound."""
        with self._lock:
            return self._machine.watched()

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Around each transaction that changes alarms: what it wrote counts once the block has ended without error.

        After an error it may have been committed in spite of it, so the next block begins with what the database has.
        """
        with self._lock:
            if self._is_in_doubt:
                self._read()
            self._written = []
            try:
                yield
            except BaseException:
                self._is_in_doubt = bool(self._written)
                raise
            for those, step in self._written:
                those.keep(step)

    def write_batch(self, connection: Connection, report: BatchReport, now_us: int) -> None:
        """Write what a batch does to the alarms. The table of latest readings must be as it was before the batch."""
        watched = self._machine.watched()
        unknown = {(one.sensor_id, one.sensor_type) for one in report.candidates} - watched.keys()
        newest_us = read_newest(connection, sorted(unknown))
        self._write(connection, self._machine, self._machine.advance(report.candidates, newest_us), now_us)
        self._write(connection, self._silent, self._silent.hear(report.latest), now_us)

    def forget(self, connection: Connection, sensors: Collection[Sensor], now_us: int) -> None:
        """In the transaction of a batch, after its alarms: end those of sensors whose latest reading was deleted.

        Otherwise sensors that are heard from once, each with a new name, would leave alarms without number.
        """
        gone = read_active_of(connection, sensors)
        silent = [one for one in gone if one.rule == SENSOR_SILENT]
        self._write(connection, self._machine, end_of([one for one in gone if one.rule != SENSOR_SILENT]), now_us)
        self._write(connection, self._silent, end_of(silent), now_us)

    def apply_rules(self, now_us: int) -> None:
        """End the alarms whose rule is gone, and those about a silence that is not too long by the present rules."""
        with self.moving():
            steps: list[tuple[Machine | SilentSensors, Step]] = [
                (self._machine, self._machine.without_rule()),
                (self._silent, self._silent.by_rules(now_us)),
            ]
            if any(step.touched for _, step in steps):
                with self._transactions.writing() as (connection, current):
                    for those, step in steps:
                        self._write(connection, those, step, now_us)
                    update_summary(connection, current)

    def judge_silence(self, observation: Observation, now_us: int) -> None:
        """Find sensors that have become silent, and write alarms about them; end those about sensors gone for good.

        Args:
            observation: after its last look; it learns what has been judged.
        """
        due = [(limit, spans) for limit in self._silent.limits if (spans := observation.due(limit))]
        all_known_ms = observation.all_known_until_ms
        if not self._is_read or (not due and all_known_ms is None):
            return
        complete = []
        with self.moving():
            # No batch can be written between these two transactions, because it waits for the lock.
            with self._transactions.reading() as opened:
                if not opened:
                    return
                # Nobody waits for a sensor of which nothing else is kept any more.
                kept_s = opened[1].retention_s
                kept_ms = None if kept_s is None else int(1_000 * kept_s)
                not_before_ms = 0 if kept_ms is None else now_us // 1_000 - kept_ms
                steps: list[Step] = []
                if kept_ms is not None and all_known_ms is not None:
                    steps.append(self._silent.forget(all_known_ms, kept_ms, MAX_FIRED))
                for limit, spans in due:
                    room = MAX_FIRED - sum(len(step.touched) for step in steps)
                    heard = find_silent(opened[0], limit.sensor_type, spans, not_before_ms)
                    step, is_all = self._silent.fire(limit, heard, observation.known_until_ms, room)
                    steps.append(step)
                    if is_all:
                        complete.append(limit)
            if any(step.touched for step in steps):
                with self._transactions.writing() as (connection, current):
                    for step in steps:
                        self._write(connection, self._silent, step, now_us)
                    update_summary(connection, current)
        for limit in complete:
            observation.judged(limit)

    def refresh_silences(self, now_us: int) -> None:
        """Where a silence has begun or ended since the last call, write which alarms it silences."""
        in_effect = (silences.c.starts_us <= now_us) & (silences.c.ends_us > now_us)
        with self._lock:
            with self._transactions.reading() as opened:
                if not opened:
                    return
                rows = opened[0].execute(select(silences.c.id, silences.c.updated_us).where(in_effect))
                found = frozenset((row.id, row.updated_us) for row in rows)
            if found != self._in_effect:
                with self._transactions.writing() as (connection, current):
                    refresh_silenced(connection, now_us)
                    update_summary(connection, current)
                self._in_effect = found

    def _write(self, connection: Connection, those: Machine | SilentSensors, step: Step, now_us: int) -> None:
        write_step(connection, step, now_us)
        self._written.append((those, step))
