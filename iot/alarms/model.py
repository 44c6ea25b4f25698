"""An alarm as the API, the topic ``iot-alarms`` and a receiver of notifications see it, and the silences.

Times are ISO 8601 in UTC with six digits, as in alerts.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from iot.alerts import Severity

State = Literal["pending", "firing", "resolved"]

ACTIVE: tuple[State, ...] = ("pending", "firing")
SENSOR_SILENT = "SENSOR_SILENT"
"""The rule of an alarm about a sensor that sends nothing any more."""


class Acknowledgement(msgspec.Struct, frozen=True):
    """Somebody has seen the alarm, and takes care of it. It ends with the alarm."""

    at: str
    by: str
    comment: str


class Alarm(msgspec.Struct, frozen=True):
    """A problem of one sensor, from its beginning to its end.

    ``rule`` is ``HIGH_`` or ``LOW_`` and the sensor type in capitals, or ``SENSOR_SILENT``. ``peak`` is the value
    farthest beyond ``threshold``, ``alerts`` the number of readings beyond it. ``started`` is the time of the first of
    these, ``fired`` when the rule's ``for`` was over, ``updated`` when the alarm last looked at a reading: event times.
    ``silenced_by`` has the ids of the silences that keep it from being notified.
    """

    alarm_id: str
    rule: str
    severity: Severity
    state: State
    sensor_id: str
    sensor_type: str
    location: str
    unit: str
    threshold: float
    value: float
    peak: float
    alerts: int
    started: str
    fired: str | None
    updated: str
    resolved: str | None
    acknowledged: Acknowledgement | None = None
    silenced_by: list[str] = []


class Matcher(msgspec.Struct, frozen=True, rename="camel"):
    """Whether the field ``name`` of an alarm is, or is not, ``value``; Alertmanager's ``matcher``."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True


class Silence(msgspec.Struct, frozen=True, rename="camel"):
    """Alarms that all matchers match are not notified from ``starts_at`` until ``ends_at``."""

    id: str
    matchers: list[Matcher]
    starts_at: str
    ends_at: str
    created_by: str
    comment: str
    updated_at: str
