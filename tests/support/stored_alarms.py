"""Alarms for tests, written into the results database without a batch that raises them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import delete

from iot.alarms.model import Acknowledgement, Alarm
from iot.readings import parse_timestamp
from iot.results.alarm_writes import NOT_FIRED_US
from iot.results.store import Store
from iot.results.tables import alarms
from iot.results.upsert import upsert
from iot.results.writes import update_summary
from tests.support.alarms import alarm

STARTED = "2026-11-24T02:15:07.000000+00:00"


def an_alarm(number: int, **changes: Any) -> Alarm:
    """An alarm that the reading at this offset of the first partition has started, and that fires."""
    of_number: dict[str, Any] = {
        "alarm_id": f"iot-sensors-0-{number}-warning",
        "sensor_id": f"sensor_{number}",
        "location": "hall",
        "alerts": 12,
        **dict.fromkeys(("started", "fired", "updated"), STARTED),
    }
    return alarm(**of_number | changes)


def put_alarms(store: Store, wanted: Iterable[Alarm], replace: bool = False) -> None:
    """Write alarms into a database that was reset; ``replace`` removes all others."""
    with store._transactions.writing() as (connection, current):
        if replace:
            connection.execute(delete(alarms))
        upsert(connection, alarms, [_row(one) for one in wanted])
        update_summary(connection, current)


def _row(one: Alarm) -> tuple[Any, ...]:
    ack = one.acknowledged or Acknowledgement("", "", "")
    known = msgspec.structs.asdict(one) | {
        "started_us": parse_timestamp(one.started),
        "fired_us": _us(one.fired),
        "updated_us": parse_timestamp(one.updated),
        "resolved_us": _us(one.resolved),
        "order_us": _us(one.fired) or NOT_FIRED_US,
        "ended_ms": (_us(one.resolved) or 0) // 1_000 or None,
        "silenced_by": msgspec.json.encode(one.silenced_by),
        "acknowledged_us": _us(ack.at or None),
        "acknowledged_by": ack.by if one.acknowledged else None,
        "acknowledged_comment": ack.comment if one.acknowledged else None,
    }
    return tuple(known.get(column.name) for column in alarms.columns)


def _us(moment: str | None) -> int | None:
    return None if moment is None else parse_timestamp(moment)
