"""Sensors that send nothing any more: when one counts as silent, and the alarm about it.

``Observation`` knows since when each partition is observed: Kafka answers, and nothing waits in it unprocessed for
long. Only that time counts as silence, so an outage of the application, of Kafka or of Spark makes no sensor silent.
``SilentSensors`` knows the alarms that are firing. Everything here is pure: the clock is handed in, in milliseconds
since the epoch. Kafka's timestamps come from the clock of the broker; ``iot.alarms.clocks`` finds one that is wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping
from copy import copy
from itertools import islice
from typing import NamedTuple

from iot.alarms.machine import Active, Change, Key, Step
from iot.alarms.model import SENSOR_SILENT
from iot.alerts import Rules, Severity, alert_id
from iot.batches import Latest, Offsets

# Maximum time between two looks. After a longer pause this process was suspended, and Kafka perhaps too.
MAX_PAUSE_MS = 15_000
# Maximum time for which something may wait unprocessed: the time of two batches of readings, also of slow ones. A lag
# delays the judgement, but cannot make it wrong, because only what came before the known moment is judged.
MAX_LAG_MS = 60_000


class Limit(NamedTuple):
    """How long the sensors of one type may send nothing."""

    sensor_type: str
    severity: Severity
    max_silence_ms: int


class Span(NamedTuple):
    """Sensors of one partition that were last heard from in this span of time, its end excluded."""

    partition: int
    from_ms: int | None
    """None: however long ago."""
    to_ms: int


class Heard(NamedTuple):
    """The latest reading of a sensor and type, and when it was last heard from."""

    sensor_id: str
    sensor_type: str
    location: str
    partition: int
    offset: int
    heard_ms: int


class Observation:
    """Since when each partition is observed, and until when everything is known that came to it.

    If Kafka said at some moment where a partition ends, and everything before that end has been processed, then all is
    known that came before that moment. A partition is observed while this moment is at most ``MAX_LAG_MS`` ago, and
    Kafka answers at every look.
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[int, Offsets]] = deque()
        self.since_ms: dict[int, int] = {}
        """By partition that is observed now."""
        self.known_until_ms: dict[int, int] = {}
        """By partition that is observed now."""
        self._judged: dict[tuple[int, Limit], int] = {}

    def look(
        self, at_ms: int, ends: Offsets | None, processed: Mapping[int, int], distrusted: Container[int] = ()
    ) -> None:
        """Look at the topic.

        Args:
            at_ms: a moment before Kafka was asked.
            ends: the end of each partition, or None if Kafka does not answer.
            processed: the offset up to which everything is processed; 0 counts for a partition that is not there.
            distrusted: partitions whose broker has another time.
        """
        if ends is None or (self._looks and not 0 <= at_ms - self._looks[-1][0] <= MAX_PAUSE_MS):
            self._looks.clear()
            self.since_ms = {}
        if ends is not None:
            self._looks.append((at_ms, ends))
        while self._looks and self._looks[0][0] < at_ms - MAX_LAG_MS:
            self._looks.popleft()
        # Later looks overwrite earlier ones.
        self.known_until_ms = {
            partition: then_ms
            for then_ms, then in self._looks
            for partition, end in then.items()
            if processed.get(partition, 0) >= end and partition not in distrusted
        }
        self.since_ms = {
            partition: self.since_ms.get(partition, known_ms) for partition, known_ms in self.known_until_ms.items()
        }
        self._judged = {key: to_ms for key, to_ms in self._judged.items() if key[0] in self.since_ms}

    @property
    def all_known_until_ms(self) -> int | None:
        """The moment until which everything is known that came to the topic; None if a partition is not observed."""
        if not self._looks or self._looks[-1][1].keys() - self.known_until_ms.keys():
            return None
        return min(self.known_until_ms.values(), default=None)

    def due(self, limit: Limit) -> list[Span]:
        """Return which sensors are silent and have not been judged yet."""
        return [
            Span(partition, self._judged.get((partition, limit)), to_ms)
            for partition, known_ms in self.known_until_ms.items()
            if self.since_ms[partition] < (to_ms := known_ms - limit.max_silence_ms)
        ]

    def judged(self, limit: Limit) -> None:
        """Take note that the sensors of ``due`` have been judged, so that the next call leaves them out."""
        for span in self.due(limit):
            self._judged[span.partition, limit] = span.to_ms


def limits_of(rules: Rules) -> list[Limit]:
    """Return how long sensors may be silent: the shortest time of the rules for each type and severity."""
    found: dict[tuple[str, Severity], int] = {}
    for rule in rules.rules:
        if rule.max_silence_s is not None:
            key, max_silence_ms = (rule.sensor_type, rule.severity), round(rule.max_silence_s * 1_000)
            found[key] = min(max_silence_ms, found.get(key, max_silence_ms))
    return [Limit(*key, max_silence_ms) for key, max_silence_ms in found.items()]


class SilentSensors:
    """The alarms about silence that are firing. Nothing changes before ``keep``."""

    def __init__(self, rules: Rules, topic: str, active: Iterable[Active]) -> None:
        """
        Args:
            topic: of the readings.
            active: alarms; those about bounds are left out.
        """
        self.limits = limits_of(rules)
        self._topic = topic
        self._firing = {one.key: one for one in active if one.rule == SENSOR_SILENT}

    def fire(
        self, limit: Limit, heard: Iterable[Heard], until_ms: Mapping[int, int], most: int | None = None
    ) -> tuple[Step, bool]:
        """Return the alarms about sensors that have become silent, and whether these are all.

        Args:
            heard: sensors that are silent by this limit, those with an alarm included.
            until_ms: by partition, the moment until which everything is known: that of the judgement.
            most: maximum number of alarms.
        """
        touched: dict[Key, Active | None] = {}
        for sensor in heard:
            key = (sensor.sensor_id, sensor.sensor_type, "s", SENSOR_SILENT, limit.severity)
            if key in self._firing:
                continue
            if most is not None and len(touched) == most:
                return _fired(touched), False
            at_ms = until_ms[sensor.partition]
            silence_s = (at_ms - sensor.heard_ms) / 1_000
            touched[key] = Active(
                alarm_id=f"{alert_id(self._topic, sensor.partition, sensor.offset)}-silent-{limit.severity}",
                rule=SENSOR_SILENT,
                severity=limit.severity,
                state="firing",
                sensor_id=sensor.sensor_id,
                sensor_type=sensor.sensor_type,
                location=sensor.location,
                unit="s",
                threshold=limit.max_silence_ms / 1_000,
                value=silence_s,
                peak=silence_s,
                alerts=0,
                started_us=sensor.heard_ms * 1_000,
                fired_us=at_ms * 1_000,
                updated_us=at_ms * 1_000,
                resolved_us=None,
                clearing_us=None,
            )
        return _fired(touched), True

    def hear(self, latest: Iterable[Latest]) -> Step:
        """Return the end of the alarms about sensors that have sent something."""
        ended: list[Active] = []
        if self._firing:
            severities = {limit.severity for limit in self.limits}
            for entry in latest:
                for severity in severities:
                    one = self._firing.get((entry.sensor_id, entry.sensor_type, "s", SENSOR_SILENT, severity))
                    if one is not None:
                        ended.append(_ended(one, entry.first_heard_ms * 1_000, entry.location))
        return _over(ended)

    def forget(self, until_ms: int, retention_ms: int, most: int) -> Step:
        """Return the end of alarms about sensors that are gone for good: they are resolved when that time was over.

        Args:
            until_ms: the moment until which everything is known that came to the topic.
            retention_ms: how long a sensor is waited for.
            most: maximum number of alarms.
        """
        before_us = (until_ms - retention_ms) * 1_000
        gone = (one for one in self._firing.values() if one.started_us < before_us)
        return _over(
            [
                _ended(one, max(one.started_us + retention_ms * 1_000, one.updated_us), one.location)
                for one in islice(gone, most)
            ]
        )

    def by_rules(self, now_us: int) -> Step:
        """Judge the alarms by the present rules, which may have changed since they fired.

        Where the rule is gone, or allows a longer silence than there was, the alarm is resolved at its ``updated``.
        Otherwise it has the rule's present threshold.

        Args:
            now_us: a moment after which no reading has been processed. What waits ends the alarm when it is processed.
        """
        limits = {(limit.sensor_type, limit.severity): limit.max_silence_ms / 1_000 for limit in self.limits}
        ended: list[Active] = []
        other: list[Active] = []
        for one in self._firing.values():
            limit_s = limits.get((one.sensor_type, one.severity))
            if limit_s == one.threshold:
                continue
            if limit_s is None or (now_us - one.started_us) / 1_000_000 <= limit_s:
                ended.append(_ended(one, one.updated_us, one.location))
            else:
                changed = copy(one)
                changed.threshold = limit_s
                other.append(changed)
        touched: dict[Key, Active | None] = {one.key: one for one in other}
        over = _over(ended)
        return Step([*over.changes, *map(Change, other)], over.touched | touched, {})

    def keep(self, step: Step) -> None:
        """Make a step the current state."""
        for key, active in step.touched.items():
            if active is None:
                self._firing.pop(key, None)
            else:
                self._firing[key] = active

    def active(self) -> list[Active]:
        """All alarms that are firing."""
        return list(self._firing.values())


def _fired(touched: dict[Key, Active | None]) -> Step:
    return Step([Change(one) for one in touched.values() if one is not None], touched, {})


def _over(ended: list[Active]) -> Step:
    return Step([Change(one) for one in ended], {one.key: None for one in ended}, {})


def _ended(one: Active, at_us: int, location: str) -> Active:
    ended = copy(one)
    # Another machine's clock may be behind the one that fired.
    ended.resolved_us = ended.updated_us = max(at_us, one.started_us)
    ended.value = ended.peak = (ended.resolved_us - one.started_us) / 1_000_000
    ended.state, ended.location = "resolved", location
    return ended
