"""Alarms, silences and the notifier's log in the results database, for everyone but the batches.

Results of an earlier version have none of them until their owner upgrades the database.
"""

from __future__ import annotations

import base64
from binascii import Error as Base64Error
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, literal, select, tuple_, update

from iot.alarms.model import ACTIVE, Alarm, Silence
from iot.alarms.silences import PostedSilence, expire, put
from iot.results.alarm_writes import (
    alarm_of,
    encode,
    in_parts,
    put_changes,
    put_silences,
    refresh_silenced,
    silence_of,
)
from iot.results.model import ANY_ACTIVE, AlarmChange, AlarmFilter, AlarmPage, InvalidCursor, NotActive
from iot.results.tables import SCHEMA_VERSION, alarm_changes, alarms, notifications, silences
from iot.results.transactions import Transactions
from iot.results.upsert import upsert
from iot.results.writes import update_summary

Number = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
# Maximum length of what somebody writes about an alarm, in characters.
MAX_COMMENT = 1_000


class Alarms:
    """The alarms of a ``Store``; safe to use from several threads and processes. For the errors see there."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def page(self, which: AlarmFilter = ANY_ACTIVE, limit: int = 100, after: str | None = None) -> AlarmPage:
        """Return at most ``limit`` alarms, those that fired last first, then those that started last.

        Args:
            after: ``next`` of a page with the same filter.

        Raises:
            InvalidCursor: ``after`` is something else.
        """
        found = _condition(which)
        place = None if after is None else _decode_cursor(after)
        order = [alarms.c.order_us, alarms.c.started_us, alarms.c.alarm_id]
        with _reading(self._transactions) as connection:
            if connection is None:
                return AlarmPage([], 0, None)
            total = connection.scalar(select(func.count()).select_from(alarms).where(*found)) or 0
            query = select(alarms).where(*found)
            if place is not None:
                typed = (literal(value, column.type) for value, column in zip(place, order, strict=True))
                query = query.where(tuple_(*order) < tuple_(*typed))
            # One more than asked for, to find out whether there is a next page.
            rows = connection.execute(query.order_by(*(column.desc() for column in order)).limit(limit + 1)).all()
        shown = rows[:limit]
        last = _encode_cursor(*(getattr(shown[-1], column.name) for column in order)) if len(rows) > limit else None
        return AlarmPage([alarm_of(row) for row in shown], total, last)

    def get(self, alarm_id: str) -> Alarm | None:
        """Return an alarm; None if there is none with this id."""
        with _reading(self._transactions) as connection:
            return None if connection is None else _read(connection, alarm_id)

    def recent(self, since_ms: int) -> list[Alarm]:
        """Return all alarms that are pending or firing, and those that were written as resolved since a moment."""
        with _reading(self._transactions) as connection:
            if connection is None:
                return []
            found = alarms.c.state.in_(ACTIVE) | (alarms.c.ended_ms >= since_ms)
            return [alarm_of(row) for row in connection.execute(select(alarms).where(found))]

    def find(self, alarm_ids: Collection[str]) -> list[Alarm]:
        """Return those of these alarms that are in the database, also if they were resolved long ago."""
        with _reading(self._transactions) as connection:
            if connection is None:
                return []
            return [
                alarm_of(row)
                for some in in_parts(sorted(alarm_ids))
                for row in connection.execute(select(alarms).where(alarms.c.alarm_id.in_(some)))
            ]

    def acknowledge(self, alarm_id: str, by: str, comment: str, now_us: int) -> Alarm | None:
        """Note that somebody takes care of an alarm; returns the alarm, None if there is none with this id.

        Raises:
            NotActive: it is over.
        """
        return self._set_acknowledgement(alarm_id, (now_us, by[:MAX_COMMENT], comment[:MAX_COMMENT]))

    def unacknowledge(self, alarm_id: str) -> Alarm | None:
        """Take the acknowledgement of an alarm back; see ``acknowledge``."""
        return self._set_acknowledgement(alarm_id, (None, None, None))

    def _set_acknowledgement(self, alarm_id: str, values: tuple[int | None, str | None, str | None]) -> Alarm | None:
        with _writing(self._transactions) as connection:
            before = None if connection is None else _read(connection, alarm_id)
            if connection is None or before is None:
                return None
            if before.state not in ACTIVE:
                raise NotActive(f"the alarm {alarm_id} is {before.state}")
            if values[0] is None and before.acknowledged is None:
                return before
            names = ("acknowledged_us", "acknowledged_by", "acknowledged_comment")
            of_alarm = alarms.c.alarm_id == alarm_id
            connection.execute(update(alarms).where(of_alarm).values(dict(zip(names, values, strict=True))))
            after = _read(connection, alarm_id)
            put_changes(connection, [(alarm_id, encode(after))])
            return after

    def changes(self, limit: int = 1_000) -> list[AlarmChange]:
        """Return the oldest changes that are not in the topic of alarms yet."""
        with _reading(self._transactions) as connection:
            if connection is None:
                return []
            query = select(alarm_changes).order_by(alarm_changes.c.number).limit(limit)
            return [AlarmChange(*row) for row in connection.execute(query)]

    def delete_changes(self, until: int) -> None:
        """Delete the changes up to this number, because the topic of alarms has them."""
        with self._transactions.writing() as (connection, _):
            connection.execute(delete(alarm_changes).where(alarm_changes.c.number <= until))


class Silences:
    """The silences of a ``Store``; safe to use from several threads and processes. For the errors see there."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def all(self) -> list[Silence]:
        """Return all silences, those that are over included, the last to end first."""
        with _reading(self._transactions) as connection:
            if connection is None:
                return []
            query = select(silences).order_by(silences.c.ends_us.desc(), silences.c.id)
            return [silence_of(row) for row in connection.execute(query)]

    def get(self, silence_id: str) -> Silence | None:
        """Return a silence; None if there is none with this id."""
        with _reading(self._transactions) as connection:
            return None if connection is None else _read_silence(connection, silence_id)

    def put(self, posted: PostedSilence, now_us: int) -> Silence | None:
        """Create a silence, or change the one that is named; returns None if it names one that does not exist.

        Raises:
            InvalidSilence: something is wrong with it.
        """
        with _writing(self._transactions) as connection:
            if connection is None:
                return None
            before = _read_silence(connection, posted.id) if posted.id else None
            if posted.id and before is None:
                return None
            written = put(posted, before, now_us)
            put_silences(connection, written)
            refresh_silenced(connection, now_us)
            return written[0]

    def expire(self, silence_id: str, now_us: int) -> Silence | None:
        """End a silence; returns None if there is none with this id."""
        with _writing(self._transactions) as connection:
            before = None if connection is None else _read_silence(connection, silence_id)
            if connection is None or before is None:
                return None
            after = expire(before, now_us)
            if after != before:
                put_silences(connection, [after])
                refresh_silenced(connection, now_us)
            return after


class Notifications:
    """What each receiver was told about each group of alarms, as bytes that only the notifier understands."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def read(self) -> dict[tuple[str, str], bytes]:
        """Return all entries by receiver and group key."""
        with _reading(self._transactions) as connection:
            if connection is None:
                return {}
            return {(row.receiver, row.group_key): row.body for row in connection.execute(select(notifications))}

    def save(self, receiver: str, bodies: Mapping[str, bytes | None]) -> None:
        """Write entries of a receiver by group key, None to delete one, in one transaction."""
        with self._transactions.writing() as (connection, _):
            kept = [(receiver, key, body) for key, body in bodies.items() if body is not None]
            upsert(connection, notifications, kept)
            gone = [{"gone": key} for key, body in bodies.items() if body is None]
            if gone:
                of_group = (notifications.c.receiver == receiver) & (notifications.c.group_key == bindparam("gone"))
                connection.execute(delete(notifications).where(of_group), gone)


@contextmanager
def _reading(transactions: Transactions) -> Iterator[Connection | None]:
    """A transaction that reads; None if there are no results, or none with alarms."""
    with transactions.reading() as opened:
        yield opened[0] if opened and opened[1].schema_version == SCHEMA_VERSION else None


@contextmanager
def _writing(transactions: Transactions) -> Iterator[Connection | None]:
    """A transaction that writes what readers see; None if there are no results with alarms."""
    with transactions.reading() as opened:
        has_alarms = bool(opened and opened[1].schema_version == SCHEMA_VERSION)
    if not has_alarms:
        yield None
        return
    with transactions.writing() as (connection, current):
        yield connection
        update_summary(connection, current)


def _read(connection: Connection, alarm_id: str) -> Alarm | None:
    row = connection.execute(select(alarms).where(alarms.c.alarm_id == alarm_id)).one_or_none()
    return None if row is None else alarm_of(row)


def _read_silence(connection: Connection, silence_id: str) -> Silence | None:
    row = connection.execute(select(silences).where(silences.c.id == silence_id)).one_or_none()
    return None if row is None else silence_of(row)


def _condition(which: AlarmFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [alarms.c.state.in_(which.states)]
    for name in ("severity", "sensor_type", "sensor_id"):
        if (value := getattr(which, name)) is not None:
            found.append(alarms.c[name] == value)
    if which.acknowledged is not None:
        at = alarms.c.acknowledged_us
        found.append(at.is_not(None) if which.acknowledged else at.is_(None))
    return found


def _encode_cursor(*place: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


def _decode_cursor(text: str) -> tuple[int, int, str]:
    try:
        decoded = base64.urlsafe_b64decode(text.encode())
        return msgspec.json.decode(decoded, type=tuple[Number, Number, str])
    except (Base64Error, ValueError):
        raise InvalidCursor("after: expected the value of next, as a page of alarms has it") from None
