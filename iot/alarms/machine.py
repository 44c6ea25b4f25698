"""The state machine of alarms: from the readings that may matter, in order, to alarms that begin, change and end.

``step`` moves one alarm by one reading. ``Machine`` knows all active alarms and moves them by the candidates of a
batch. Both are pure: ``Machine.advance`` changes nothing until ``Machine.keep`` is called, so that a batch whose
transaction failed can be tried again. Times are in microseconds since the epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy

import msgspec

from iot.alarms.model import SENSOR_SILENT, Acknowledgement, Alarm, State
from iot.alerts import Rule, Rules, Severity, alert_id
from iot.batches import Candidate as Candidate  # what the machine takes
from iot.readings import format_timestamp

Key = tuple[str, str, str, str, str]
"""Sensor id, sensor type, unit, rule and severity. At most one alarm of a key is active."""
Sensor = tuple[str, str]
"""Sensor id and sensor type."""


class Side(msgspec.Struct, frozen=True):
    """One bound of a rule."""

    sensor_type: str
    unit: str
    rule: str
    """Such as ``HIGH_TEMPERATURE``."""
    severity: Severity
    is_high: bool
    bound: float
    clear: float
    """A value up to here is clear: at most this if ``is_high``, otherwise at least this."""
    for_us: int
    keep_firing_for_us: int


class Active(msgspec.Struct, gc=False):
    """The state of an alarm. ``step`` never changes one; it returns another.

    ``clearing_us`` is the time of the first of the clear readings that came last, None after one that is not clear.
    The other fields are those of ``iot.alarms.model.Alarm``.
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
    started_us: int
    fired_us: int | None
    updated_us: int
    resolved_us: int | None
    clearing_us: int | None

    @property
    def key(self) -> Key:
        return self.sensor_id, self.sensor_type, self.unit, self.rule, self.severity

    @property
    def sensor(self) -> Sensor:
        return self.sensor_id, self.sensor_type


class Change(msgspec.Struct, frozen=True, gc=False):
    """A change that others must hear of: a new state, or a new peak."""

    active: Active
    """The alarm after the change; before it, if the alarm was forgotten."""
    forgotten: bool = False
    """Whether this pending alarm ended before it fired."""


class Step(msgspec.Struct, frozen=True):
    """What a batch does to the alarms."""

    changes: list[Change]
    """At most one for each alarm and state, those of an alarm in order."""
    touched: dict[Key, Active | None]
    """Every alarm that looked at a reading, as it is after the batch; None if none is active any more."""
    newest_us: dict[Sensor, int]
    """The newest event time of each sensor that has candidates."""


def sides_of(rules: Iterable[Rule]) -> list[Side]:
    """Return the bounds of these rules as the machine needs them."""
    return [
        Side(
            rule.sensor_type,
            rule.unit,
            f"{name}_{rule.sensor_type.upper()}",
            rule.severity,
            name == "HIGH",
            bound,
            bound if clear is None else clear,
            round(rule.for_s * 1_000_000),
            round(rule.keep_firing_for_s * 1_000_000),
        )
        for rule in rules
        for name, bound, clear in (("HIGH", rule.max, rule.clear_max), ("LOW", rule.min, rule.clear_min))
        if bound is not None
    ]


def step(side: Side, active: Active | None, reading: Candidate, topic: str) -> Active | None:
    """Return the alarm of one sensor and side after a reading, None if there is none.

    Args:
        active: the alarm before the reading: pending, firing, or None.
        reading: in the rule's unit, and not older than any reading before it.
        topic: of the readings, for the id of an alarm that begins.
    """
    value, time_us = reading.value, reading.time_us
    is_broken = value > side.bound if side.is_high else value < side.bound
    if active is None:
        return _begin(side, reading, topic) if is_broken else None
    if not is_broken and active.state == "pending":
        return None
    after = copy(active)
    after.location, after.threshold = reading.location, side.bound
    after.value, after.updated_us = value, time_us
    if is_broken:
        after.alerts += 1
        after.peak = max(value, after.peak) if side.is_high else min(value, after.peak)
        after.clearing_us = None
        if after.state == "pending" and time_us - after.started_us >= side.for_us:
            after.state, after.fired_us = "firing", time_us
        return after
    if not (value <= side.clear if side.is_high else value >= side.clear):
        after.clearing_us = None
        return after
    if after.clearing_us is None:
        after.clearing_us = time_us
    if time_us - after.clearing_us >= side.keep_firing_for_us:
        after.state, after.resolved_us = "resolved", time_us
    return after


def _begin(side: Side, reading: Candidate, topic: str) -> Active:
    fires = side.for_us <= 0
    return Active(
        alarm_id=f"{alert_id(topic, reading.partition, reading.offset)}-{side.severity}",
        rule=side.rule,
        severity=side.severity,
        state="firing" if fires else "pending",
        sensor_id=reading.sensor_id,
        sensor_type=reading.sensor_type,
        location=reading.location,
        unit=reading.unit,
        threshold=side.bound,
        value=reading.value,
        peak=reading.value,
        alerts=1,
        started_us=reading.time_us,
        fired_us=reading.time_us if fires else None,
        updated_us=reading.time_us,
        resolved_us=None,
        clearing_us=None,
    )


class Machine:
    """All active alarms about bounds, moved by the candidates of one batch after another."""

    def __init__(
        self, rules: Rules, topic: str, active: Iterable[Active], newest_us: Mapping[Sensor, int] | None = None
    ) -> None:
        """
        Args:
            topic: of the readings.
            active: the alarms that the batches so far left pending or firing. Those about silence are left out.
            newest_us: the newest event times of their sensors. They may be newer than the alarms, because a reading
                in a unit without a rule changes no alarm.
        """
        self._topic = topic
        self._sides: dict[tuple[str, str], list[Side]] = defaultdict(list)
        for side in sides_of(rules.rules):
            self._sides[side.sensor_type, side.unit].append(side)
        self._active = {one.key: one for one in active if one.rule != SENSOR_SILENT}
        self._newest_us = dict(newest_us or {})
        self._forget_sensors_without_alarms()

    def advance(self, candidates: Iterable[Candidate], newest_us: Mapping[Sensor, int]) -> Step:
        """Return what a batch does to the alarms. Nothing changes before ``keep``.

        Args:
            candidates: of the batch, in order.
            newest_us: the newest event times before the batch, at least of the sensors of the candidates that have
                one. A reading that is older changes nothing.
        """
        touched: dict[Key, Active | None] = {}
        newest: dict[Sensor, int] = {}
        changes: dict[tuple[str, State], Change] = {}
        for reading in candidates:
            sensor = reading.sensor_id, reading.sensor_type
            known_us = newest.get(sensor)
            if known_us is None:
                known_us = max(newest_us.get(sensor, _BEFORE_ALL), self._newest_us.get(sensor, _BEFORE_ALL))
            if reading.time_us < known_us:
                continue
            newest[sensor] = reading.time_us
            for side in self._sides.get((reading.sensor_type, reading.unit), ()):
                key = (reading.sensor_id, reading.sensor_type, reading.unit, side.rule, side.severity)
                before = touched[key] if key in touched else self._active.get(key)
                after = step(side, before, reading, self._topic)
                if before is None and after is None:
                    continue
                touched[key] = None if after is None or after.state == "resolved" else after
                self._note(changes, before, after)
        return Step(list(changes.values()), touched, newest)

    def _note(self, changes: dict[tuple[str, State], Change], before: Active | None, after: Active | None) -> None:
        """Add what a reading did to an alarm to the changes of the batch."""
        if after is not None:
            name = after.alarm_id, after.state
            if before is None or before.state != after.state or before.peak != after.peak or name in changes:
                changes[name] = Change(after)
        elif before is not None:
            known = self._active.get(before.key)
            if known is not None and known.alarm_id == before.alarm_id:
                changes[before.alarm_id, before.state] = Change(before, forgotten=True)
            else:
                # It began in this batch, so nobody has heard of it.
                changes.pop((before.alarm_id, before.state), None)

    def without_rule(self) -> Step:
        """Return the end of all alarms whose rule is gone: they are resolved, or forgotten, at their ``updated``."""
        known = {(side.sensor_type, side.unit, side.rule, side.severity) for of in self._sides.values() for side in of}
        return end_of([one for key, one in self._active.items() if key[1:] not in known])

    def keep(self, step: Step) -> None:
        """Make what ``advance`` or ``without_rule`` returned the current state."""
        for key, active in step.touched.items():
            if active is None:
                self._active.pop(key, None)
            else:
                self._active[key] = active
        self._newest_us |= step.newest_us
        self._forget_sensors_without_alarms()

    def _forget_sensors_without_alarms(self) -> None:
        self._newest_us = {
            one.sensor: max(one.updated_us, self._newest_us.get(one.sensor, _BEFORE_ALL))
            for one in self._active.values()
        }

    def active(self) -> list[Active]:
        """All alarms that are pending or firing."""
        return list(self._active.values())

    def watched(self) -> dict[Sensor, int]:
        """The newest event time of each sensor with an active alarm."""
        return dict(self._newest_us)


def end_of(gone: Sequence[Active]) -> Step:
    """Return the end of alarms that look at nothing any more: resolved, or forgotten, at their ``updated``."""
    changes = []
    for one in gone:
        if one.state == "pending":
            changes.append(Change(one, forgotten=True))
        else:
            ended = copy(one)
            ended.state, ended.resolved_us = "resolved", one.updated_us
            changes.append(Change(ended))
    return Step(changes, {one.key: None for one in gone}, {})


# Before every event time.
_BEFORE_ALL = -(1 << 63)


def to_alarm(active: Active, acknowledged: Acknowledgement | None = None, silenced_by: Iterable[str] = ()) -> Alarm:
    """Return an alarm as the API has it."""
    return Alarm(
        active.alarm_id,
        active.rule,
        active.severity,
        active.state,
        active.sensor_id,
        active.sensor_type,
        active.location,
        active.unit,
        active.threshold,
        active.value,
        active.peak,
        active.alerts,
        format_timestamp(active.started_us),
        None if active.fired_us is None else format_timestamp(active.fired_us),
        format_timestamp(active.updated_us),
        None if active.resolved_us is None else format_timestamp(active.resolved_us),
        acknowledged,
        list(silenced_by),
    )
