"""The independent reference for alarms: simple and slow, with all readings of a topic at hand.

It takes nothing from ``iot.alarms.machine`` but the form of its result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from iot.alarms.machine import Active
from iot.alerts import Rule
from iot.batches import Candidate


class Bound(NamedTuple):
    """One bound of a rule. Values have the sign -1 for a lower bound, so that greater is always worse."""

    name: str
    sign: int
    limit: float
    clear: float


def alarms(readings: Iterable[Candidate], rules: Iterable[Rule], topic: str) -> list[Active]:
    """Return every alarm that these readings begin, except forgotten ones, as it is after the last of them.

    Args:
        readings: all readings of the topic, in the order in which they count.
    """
    newest_us: dict[tuple[str, str], int] = {}
    by_sensor: dict[tuple[str, str, str], list[Candidate]] = defaultdict(list)
    for reading in readings:
        sensor = reading.sensor_id, reading.sensor_type
        if reading.time_us >= newest_us.get(sensor, reading.time_us):
            newest_us[sensor] = reading.time_us
            by_sensor[*sensor, reading.unit].append(reading)
    return sorted(
        (
            alarm
            for (_, sensor_type, unit), of_sensor in by_sensor.items()
            for rule in rules
            if (rule.sensor_type, rule.unit) == (sensor_type, unit)
            for bound in _bounds(rule)
            for alarm in _of_bound(of_sensor, rule, bound, topic)
        ),
        key=lambda alarm: (alarm.alarm_id, alarm.rule),
    )


def _bounds(rule: Rule) -> Iterable[Bound]:
    if rule.max is not None:
        yield Bound("HIGH", 1, rule.max, rule.max if rule.clear_max is None else rule.clear_max)
    if rule.min is not None:
        yield Bound("LOW", -1, -rule.min, -(rule.min if rule.clear_min is None else rule.clear_min))


def _of_bound(readings: list[Candidate], rule: Rule, bound: Bound, topic: str) -> Iterable[Active]:
    """The alarms of one sensor and bound, from its readings in order."""
    for_us, keep_us = rule.for_s * 1e6, rule.keep_firing_for_s * 1e6
    broken = [bound.sign * reading.value > bound.limit for reading in readings]
    clear = [bound.sign * reading.value <= bound.clear for reading in readings]
    times = [reading.time_us for reading in readings]

    def clear_since(at: int) -> int | None:
        """The time from which on all readings up to this one were clear."""
        first = at + 1
        while first > 0 and clear[first - 1]:
            first -= 1
        return times[first] if first <= at else None

    begin = 0
    while begin < len(readings):
        if not broken[begin]:
            begin += 1
            continue
        unbroken = next((at for at in range(begin, len(readings)) if not broken[at]), len(readings))
        fires = next((at for at in range(begin, unbroken) if times[at] - times[begin] >= for_us), None)
        if fires is None and unbroken < len(readings):
            begin = unbroken
            continue
        ends = next(
            (
                at
                for at in range(len(readings) if fires is None else fires, len(readings))
                if (since := clear_since(at)) is not None and times[at] - since >= keep_us
            ),
            None,
        )
        last = len(readings) - 1 if ends is None else ends
        beyond = [at for at in range(begin, last + 1) if broken[at]]
        first, newest = readings[begin], readings[last]
        yield Active(
            alarm_id=f"{topic}-{first.partition}-{first.offset}-{rule.severity}",
            rule=f"{bound.name}_{rule.sensor_type.upper()}",
            severity=rule.severity,
            state="pending" if fires is None else "firing" if ends is None else "resolved",
            sensor_id=first.sensor_id,
            sensor_type=first.sensor_type,
            location=newest.location,
            unit=first.unit,
            threshold=bound.sign * bound.limit,
            value=newest.value,
            peak=bound.sign * max(bound.sign * readings[at].value for at in beyond),
            alerts=len(beyond),
            started_us=first.time_us,
            fired_us=None if fires is None else times[fires],
            updated_us=newest.time_us,
            resolved_us=None if ends is None else times[ends],
            clearing_us=clear_since(last),
        )
        begin = last + 1


def silences(
    heard_s: Iterable[float], max_silence_s: float, retention_s: float, until_s: float
) -> list[tuple[float, float | None]]:
    """Return beginning and end of every alarm about the silence of one sensor; the end is None while it fires.

    Args:
        heard_s: when it was heard from.
        until_s: the moment of the last judgement; there are judgements within each silence that is an alarm, and
            between the end of ``retention_s`` and the next reading.
    """
    times = sorted(heard_s)
    found: list[tuple[float, float | None]] = []
    for at_s, next_s in zip(times, [*times[1:], None], strict=True):
        silence_s = (until_s if next_s is None else next_s) - at_s
        if silence_s > retention_s:
            found.append((at_s, at_s + retention_s))
        elif silence_s > max_silence_s:
            found.append((at_s, next_s))
    return found


class Ledger:
    """All alarms by id, as the steps of a machine leave them in a database."""

    def __init__(self) -> None:
        self._by_id: dict[str, Active] = {}

    def write(self, changes: Iterable[tuple[Active, bool]], touched: Iterable[Active | None]) -> None:
        for active, forgotten in changes:
            if forgotten:
                del self._by_id[active.alarm_id]
            else:
                self._by_id[active.alarm_id] = active
        self._by_id |= {active.alarm_id: active for active in touched if active is not None}

    def alarms(self) -> list[Active]:
        return sorted(self._by_id.values(), key=lambda alarm: (alarm.alarm_id, alarm.rule))
