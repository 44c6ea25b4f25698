"""Alarms and a notification log for tests."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from iot.alarms.model import Alarm
from iot.readings import format_timestamp


def alarm(alarm_id: str = "a", **changes) -> Alarm:
    """An alarm that fires since the epoch."""
    made = Alarm(
        alarm_id=alarm_id,
        rule="HIGH_TEMPERATURE",
        severity="warning",
        state="firing",
        sensor_id=f"sensor_{alarm_id}",
        sensor_type="temperature",
        location="lab",
        unit="celsius",
        threshold=30.0,
        value=31.5,
        peak=33.0,
        alerts=3,
        started=at(0),
        fired=at(0),
        updated=at(0),
        resolved=None,
    )
    return msgspec.structs.replace(made, **changes)


def resolved(alarm: Alarm, resolved_s: float = 0.0, **changes) -> Alarm:
    return msgspec.structs.replace(alarm, state="resolved", resolved=at(resolved_s), **changes)


def at(time_s: float) -> str:
    return format_timestamp(round(time_s * 1e6))


class MemoryLog:
    """A ``NotificationLog`` that survives the notifier. It raises ``OSError`` while ``is_broken``."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], bytes] = {}
        self.is_broken = False
        self.saves = 0

    def read(self) -> Mapping[tuple[str, str], bytes]:
        self._check()
        return dict(self.entries)

    def save(self, receiver: str, contents: Mapping[str, bytes | None]) -> None:
        self._check()
        self.saves += 1
        for group_key, content in contents.items():
            if content is None:
                self.entries.pop((receiver, group_key), None)
            else:
                self.entries[receiver, group_key] = content

    def _check(self) -> None:
        if self.is_broken:
            raise OSError("the database is gone")
