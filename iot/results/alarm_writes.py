"""The statements that write alarms, and their changes into ``alarm_changes``: the outbox of the topic of alarms.

Each runs in a transaction that has locked the summary row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Row, case, delete, func, null, select, tuple_

from iot.alarms.machine import Active, Change, Sensor, Step, to_alarm
from iot.alarms.model import ACTIVE, Acknowledgement, Alarm, Matcher, Silence
from iot.alarms.silences import silenced_by
from iot.alarms.silent import Heard, Span
from iot.readings import format_timestamp, parse_timestamp
from iot.results.queries import read_key_values
from iot.results.tables import alarm_changes, alarms, latest, silences
from iot.results.upsert import upsert
from iot.results.writes import put_key_values

# Where an alarm that did not fire stands in the order of pages: behind all others.
NOT_FIRED_US = -(1 << 62)
# Maximum numbers of values in the IN clause of one statement.
MAX_IDS = 5_000
MAX_SENSORS = 2_000
# Maximum number of changes that wait before those are deleted that a newer one of the same alarm supersedes.
MAX_WAITING = 100_000
# After how many changes to look whether so many wait.
THIN_EVERY = 10_000
ACKNOWLEDGED = ("acknowledged_us", "acknowledged_by", "acknowledged_comment")
COLUMNS_OF_ACTIVE = [alarms.c[name] for name in Active.__struct_fields__]

T = TypeVar("T")

encode = msgspec.json.Encoder().encode
decode_ids = msgspec.json.Decoder(list[str]).decode
decode_matchers = msgspec.json.Decoder(list[Matcher]).decode


def read_active(connection: Connection) -> list[Active]:
    """Return all alarms that are pending or firing."""
    query = select(*COLUMNS_OF_ACTIVE).where(alarms.c.state.in_(ACTIVE))
    return [Active(*row) for row in connection.execute(query)]


def read_active_of(connection: Connection, sensors: Collection[Sensor]) -> list[Active]:
    """Return the alarms of these sensors and types that are pending or firing."""
    found = []
    for some in in_parts(sorted({sensor_id for sensor_id, _ in sensors})):
        query = select(*COLUMNS_OF_ACTIVE).where(alarms.c.state.in_(ACTIVE), alarms.c.sensor_id.in_(some))
        found += [Active(*row) for row in connection.execute(query)]
    return [one for one in found if one.sensor in sensors]


def read_newest(connection: Connection, sensors: Iterable[Sensor]) -> dict[Sensor, int]:
    """Return the newest event time of each of these sensors and types that has a latest reading."""
    wanted = list(sensors)
    newest: dict[Sensor, int] = {}
    columns = (latest.c.sensor_id, latest.c.sensor_type, latest.c.time_us)
    for at in range(0, len(wanted), MAX_SENSORS):
        some = tuple_(latest.c.sensor_id, latest.c.sensor_type).in_(wanted[at : at + MAX_SENSORS])
        for sensor_id, sensor_type, time_us in connection.execute(select(*columns).where(some)):
            newest[sensor_id, sensor_type] = time_us
    return newest


def find_silent(connection: Connection, sensor_type: str, spans: Iterable[Span], not_before_ms: int) -> Iterator[Heard]:
    """Yield the sensors of a type that were last heard from in one of these spans of time.

    Args:
        not_before_ms: sensors that were last heard from before are gone for good.
    """
    columns = [latest.c[name] for name in Heard._fields]
    for span in spans:
        query = select(*columns).where(latest.c.sensor_type == sensor_type, latest.c.heard_ms < span.to_ms)
        query = query.where(latest.c.partition == span.partition)
        query = query.where(latest.c.heard_ms >= max(span.from_ms or 0, not_before_ms))
        for row in connection.execute(query):
            yield Heard(*row)


def active_of(row: Row[Any]) -> Active:
    return Active(*(getattr(row, name) for name in Active.__struct_fields__))


def alarm_of(row: Row[Any]) -> Alarm:
    """Return the alarm that a row of ``alarms`` holds."""
    return to_alarm(active_of(row), acknowledgement_of(row), decode_ids(row.silenced_by))


def acknowledgement_of(row: Row[Any]) -> Acknowledgement | None:
    if row.acknowledged_us is None:
        return None
    at = format_timestamp(row.acknowledged_us)
    return Acknowledgement(at, row.acknowledged_by or "", row.acknowledged_comment or "")


def write_step(connection: Connection, step: Step, now_us: int) -> None:
    """Write the alarms that a step has touched, and its changes.

    Args:
        now_us: the clock, which decides which silences are in effect, and when what is resolved will be deleted.
    """
    after = _after(step)
    if not after:
        return
    known = dict(_known(connection, list(after)))
    alive = [one for one in after.values() if one is not None]
    ids_of = dict(
        zip((one.alarm_id for one in alive), silenced_by(read_silences(connection, now_us), alive), strict=True)
    )
    upsert(connection, alarms, [_row(one, ids_of[one.alarm_id], now_us) for one in alive], _keep_acknowledgement)
    delete_alarms(connection, [alarm_id for alarm_id, one in after.items() if one is None])
    bodies = [_change(change, known.get(change.active.alarm_id), ids_of) for change in step.changes]
    changed = {alarm_id for alarm_id, _ in bodies}
    for one in alive:
        row = known.get(one.alarm_id)
        if row is not None and one.alarm_id not in changed and decode_ids(row.silenced_by) != ids_of[one.alarm_id]:
            alarm = to_alarm(one, acknowledgement_of(row), ids_of[one.alarm_id])
            bodies.append((one.alarm_id, encode(alarm)))
    put_changes(connection, bodies)


def refresh_silenced(connection: Connection, now_us: int) -> None:
    """Find out which silences match each active alarm now, and write those that have changed."""
    rows = connection.execute(select(alarms).where(alarms.c.state.in_(ACTIVE))).all()
    ids = silenced_by(read_silences(connection, now_us), rows)
    changed = [(row, of) for row, of in zip(rows, ids, strict=True) if decode_ids(row.silenced_by) != of]
    upsert(
        connection,
        alarms,
        [_row(active_of(row), of, now_us) for row, of in changed],
        _keep_acknowledgement,
    )
    bodies = [(row.alarm_id, encode(to_alarm(active_of(row), acknowledgement_of(row), of))) for row, of in changed]
    put_changes(connection, bodies)


def put_changes(connection: Connection, bodies: Iterable[tuple[str, bytes | None]]) -> None:
    """Add changes to the outbox, in order: alarm ids, and the alarm as JSON or None.

    If very many wait, because the topic of alarms takes none, only the newest change of each alarm stays.
    """
    last = read_key_values(connection).last_change
    rows = [(number, *body) for number, body in enumerate(bodies, last + 1)]
    if rows:
        upsert(connection, alarm_changes, rows)
        put_key_values(connection, last_change=rows[-1][0])
        if rows[-1][0] // THIN_EVERY > last // THIN_EVERY:
            _delete_superseded(connection)


def _delete_superseded(connection: Connection) -> None:
    if (connection.scalar(select(func.count()).select_from(alarm_changes)) or 0) <= MAX_WAITING:
        return
    newest: dict[str, int] = {}
    superseded = []
    query = select(alarm_changes.c.number, alarm_changes.c.alarm_id).order_by(alarm_changes.c.number)
    for number, alarm_id in connection.execute(query):
        if alarm_id in newest:
            superseded.append(newest[alarm_id])
        newest[alarm_id] = number
    for some in in_parts(superseded):
        connection.execute(delete(alarm_changes).where(alarm_changes.c.number.in_(some)))


def forget_alarms(connection: Connection) -> list[tuple[str, None]]:
    """Return changes that say of every alarm in the database that it is forgotten."""
    return [(alarm_id, None) for alarm_id in connection.scalars(select(alarms.c.alarm_id))]


def delete_alarms(connection: Connection, alarm_ids: Sequence[str]) -> None:
    for some in in_parts(alarm_ids):
        connection.execute(delete(alarms).where(alarms.c.alarm_id.in_(some)))


def read_silences(connection: Connection, now_us: int) -> list[Silence]:
    """Return the silences that are in effect."""
    in_effect = (silences.c.starts_us <= now_us) & (silences.c.ends_us > now_us)
    return [silence_of(row) for row in connection.execute(select(silences).where(in_effect).order_by(silences.c.id))]


def silence_of(row: Row[Any]) -> Silence:
    times = (format_timestamp(at_us) for at_us in (row.starts_us, row.ends_us, row.updated_us))
    starts_at, ends_at, updated_at = times
    return Silence(row.id, decode_matchers(row.matchers), starts_at, ends_at, row.created_by, row.comment, updated_at)


def put_silences(connection: Connection, changed: Iterable[Silence]) -> None:
    rows = []
    for one in changed:
        starts_us, ends_us, updated_us = (parse_timestamp(at) for at in (one.starts_at, one.ends_at, one.updated_at))
        rows.append((one.id, encode(one.matchers), starts_us, ends_us, one.created_by, one.comment, updated_us))
    upsert(connection, silences, rows)


def _after(step: Step) -> dict[str, Active | None]:
    """The alarms that a step has touched, as they are afterwards; None for those that are forgotten."""
    after: dict[str, Active | None] = {}
    for change in step.changes:
        after[change.active.alarm_id] = None if change.forgotten else change.active
    for one in step.touched.values():
        if one is not None:
            after[one.alarm_id] = one
    return after


def _known(connection: Connection, alarm_ids: Sequence[str]) -> Iterator[tuple[str, Row[Any]]]:
    columns = [alarms.c[name] for name in ("alarm_id", "state", "silenced_by", *ACKNOWLEDGED)]
    for some in in_parts(alarm_ids):
        for row in connection.execute(select(*columns).where(alarms.c.alarm_id.in_(some))):
            yield row.alarm_id, row


def in_parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the values in parts that are small enough for the IN clause of a statement."""
    for at in range(0, len(values), MAX_IDS):
        yield values[at : at + MAX_IDS]


def _change(change: Change, known: Row[Any] | None, ids_of: dict[str, list[str]]) -> tuple[str, bytes | None]:
    one = change.active
    if change.forgotten:
        return one.alarm_id, None
    is_again = known is not None and known.state == "resolved"
    acknowledged = None if known is None or is_again else acknowledgement_of(known)
    return one.alarm_id, encode(to_alarm(one, acknowledged, ids_of[one.alarm_id]))


def _row(one: Active, silenced: list[str], now_us: int) -> tuple[Any, ...]:
    order_us = NOT_FIRED_US if one.fired_us is None else one.fired_us
    ended_ms = now_us // 1_000 if one.state == "resolved" else None
    return (*msgspec.structs.astuple(one), order_us, ended_ms, encode(silenced), None, None, None)


def _keep_acknowledgement(old: Any, new: Any) -> dict[str, Any]:
    """Everything of the new row but the acknowledgement; that of an alarm which was over ended with it.

    An alarm begins a second time if a sensor was silent twice, and sent only readings that were not its latest between.
    """
    values = {column.name: new[column.name] for column in alarms.c if not column.primary_key}
    for name in ACKNOWLEDGED:
        values[name] = case((old.resolved_us.is_not(None), null()), else_=old[name])
    return values
