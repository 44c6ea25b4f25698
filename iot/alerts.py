"""The alert rules, and the alert that a reading raises when it breaks one.

A rule watches one sensor type in one unit. It has a lower bound, an upper bound, or both. A value equal to a bound does
not break it. ``broken_bound`` checks a reading in Python; Spark builds its condition from the same bounds. The rest of
a rule says when alerts become an alarm: see ``iot.alarms``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from iot.readings import Reading, format_timestamp
from iot.terminal import printable

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


@dataclass(frozen=True)
class Rule:
    """What is wrong with the sensors of one type, in its standard unit. None means that there is no such limit.

    Alerts look at ``min`` and ``max`` only. The rest is about alarms, with times in seconds: the bound must be broken
    for ``for_s``. The alarm is over after ``keep_firing_for_s`` within ``clear_min`` and ``clear_max``, which are the
    bounds if None. A sensor that sends nothing for ``max_silence_s`` is silent.
    """

    sensor_type: str
    unit: str
    min: float | None = None
    max: float | None = None
    severity: Severity = "warning"
    for_s: float = 0.0
    clear_min: float | None = None
    clear_max: float | None = None
    keep_firing_for_s: float = 0.0
    max_silence_s: float | None = None


@dataclass(frozen=True)
class Rules:
    """All rules, at most one for each sensor type, unit and severity."""

    rules: tuple[Rule, ...]
    bounds: Mapping[tuple[str, str], Rule] = field(init=False, repr=False, compare=False)
    """What a reading must break to raise an alert: the tightest bounds of any severity, by sensor type and unit."""

    def __post_init__(self) -> None:
        bounds: dict[tuple[str, str], Rule] = {}
        for rule in self.rules:
            if rule.min is None and rule.max is None:
                continue
            key = rule.sensor_type, rule.unit
            others = bounds.get(key, Rule(*key))
            lows = [low for low in (rule.min, others.min) if low is not None]
            highs = [high for high in (rule.max, others.max) if high is not None]
            bounds[key] = Rule(*key, max(lows, default=None), min(highs, default=None))
        object.__setattr__(self, "bounds", bounds)


DEFAULT_RULES = Rules(
    (
        Rule("temperature", "celsius", 15.0, 30.0, clear_min=16.0, clear_max=29.0, max_silence_s=300.0),
        Rule("humidity", "percent", 30.0, 70.0, clear_min=32.0, clear_max=68.0, max_silence_s=300.0),
        Rule("pressure", "hPa", 1000.0, 1030.0, clear_min=1002.0, clear_max=1028.0, max_silence_s=300.0),
    )
)


class Alert(msgspec.Struct, frozen=True):
    """A reading that broke a rule.

    ``threshold`` is the bound that it broke. ``timestamp`` is ISO 8601 in UTC, with six digits.
    """

    alert_id: str
    type: str
    sensor_id: str
    sensor_type: str
    location: str
    value: float
    unit: str
    threshold: float
    timestamp: str


encode = msgspec.json.Encoder().encode
"""Encode an ``Alert`` as JSON bytes for the alerts topic."""


def alert_id(topic: str, partition: int, offset: int) -> str:
    """Return the id of the alert that this Kafka record raises. Repeated deliveries give the same id."""
    return f"{topic}-{partition}-{offset}"


def broken_bound(reading: Reading, rules: Rules) -> tuple[str, float] | None:
    """Return ``("HIGH" or "LOW", bound)`` if the reading breaks the rule for its type and unit, else None."""
    rule = rules.bounds.get((reading.sensor_type, reading.unit))  # type: ignore[arg-type]  # a Reading always has a unit
    if rule is None:
        return None
    if rule.max is not None and reading.value > rule.max:
        return "HIGH", rule.max
    if rule.min is not None and reading.value < rule.min:
        return "LOW", rule.min
    return None


def make_alert(reading: Reading, side: str, threshold: float, alert_id: str) -> Alert:
    """Return the alert for a reading that broke ``threshold`` on ``side``, which is ``HIGH`` or ``LOW``."""
    return Alert(
        alert_id,
        f"{side}_{reading.sensor_type.upper()}",
        reading.sensor_id,
        reading.sensor_type,
        reading.location or "",
        reading.value,
        reading.unit or "",
        threshold,
        format_timestamp(reading.time_us),
    )


def line(alert: Alert) -> str:
    """Return the alert as a line to print: ``ALERT HIGH_TEMPERATURE sensor_0 31.7 celsius > 30.0, building_a, …``."""
    sign = ">" if alert.value > alert.threshold else "<"
    return printable(
        f"ALERT {alert.type} {alert.sensor_id} {alert.value} {alert.unit} {sign} {alert.threshold}, "
        f"{alert.location}, {alert.timestamp}"
    )


class Delivered(NamedTuple):
    """An alert read from the alerts topic, and Kafka's timestamp of its record in ms."""

    alert: Alert
    raised_ms: int
