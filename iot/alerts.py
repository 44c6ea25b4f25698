"""The rules, once, and what an alert is.

A rule watches one sensor type in one unit and gives a lower bound, an upper bound, or both; a value equal to a bound
is fine. ``broken_bound`` judges a reading in Python; Spark builds its own condition from the same ``Rule`` objects.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from iot.readings import CONVERSIONS, MAX_STRING, Reading, format_timestamp
from iot.settings import UserError, reason
from iot.terminal import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Rule:
    """Bounds on the values of one sensor type in one normalised unit; None where there is no bound."""

    sensor_type: str
    unit: str
    min: float | None = None
    max: float | None = None


Rules = Mapping[tuple[str, str], Rule]
"""Rules by (sensor type, unit)."""


DEFAULT_RULES: Rules = {
    (rule.sensor_type, rule.unit): rule
    for rule in (
        Rule("temperature", "celsius", 15.0, 30.0),
        Rule("humidity", "percent", 30.0, 70.0),
        Rule("pressure", "hPa", 1000.0, 1030.0),
    )
}


class Alert(msgspec.Struct, frozen=True):
    """A reading that broke a rule; ``threshold`` is the bound it broke, ``timestamp`` ISO 8601 in UTC, six digits."""

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
"""An ``Alert`` as the JSON bytes that go into the topic of alerts."""


def alert_id(topic: str, partition: int, offset: int) -> str:
    """The name of the alert that the record at this place in Kafka raises: the same at every delivery."""
    return f"{topic}-{partition}-{offset}"


def broken_bound(reading: Reading, rules: Rules) -> tuple[str, float] | None:
    """``("HIGH" or "LOW", bound)`` when the reading breaks the rule on its type and unit, else None."""
    rule = rules.get((reading.sensor_type, reading.unit))  # type: ignore[arg-type]  # a Reading has a unit
    if rule is None:
        return None
    if rule.max is not None and reading.value > rule.max:
        return "HIGH", rule.max
    if rule.min is not None and reading.value < rule.min:
        return "LOW", rule.min
    return None


def make_alert(reading: Reading, side: str, threshold: float, alert_id: str) -> Alert:
    """The alert of a reading that broke ``threshold`` on the side ``HIGH`` or ``LOW``."""
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
    """The alert as one line for people: ``ALERT HIGH_TEMPERATURE sensor_0 31.7 celsius > 30.0, building_a, …``."""
    sign = ">" if alert.value > alert.threshold else "<"
    return printable(
        f"ALERT {alert.type} {alert.sensor_id} {alert.value} {alert.unit} {sign} {alert.threshold}, "
        f"{alert.location}, {alert.timestamp}"
    )


def load_rules(path: Path) -> dict[tuple[str, str], Rule]:
    """Read a TOML file of ``[[rule]]`` tables: ``sensor_type``, ``unit``, and ``min``, ``max`` or both.

    Raises:
        UserError: the file cannot be read or breaks a rule of this format; names file, line, key and what is expected.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the rules file {path}: {reason(error)}") from error
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(_syntax_error(path, text, error)) from error
    places = _Places(path, text)
    for key in document:
        if key != "rule":
            raise UserError(f"{places.top_level(key)}: unknown key {key!r}; expected only [[rule]] tables")
    tables = document.get("rule")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{places.top_level('rule')}: expected one or more [[rule]] tables")
    rules: dict[tuple[str, str], Rule] = {}
    for number, table in enumerate(tables):
        rule = _rule(table, number, places)
        if (rule.sensor_type, rule.unit) in rules:
            raise UserError(
                f"{places.rule(number, 'sensor_type')}: a second rule for {rule.sensor_type!r} in {rule.unit!r}; "
                "expected one for each sensor_type and unit"
            )
        rules[rule.sensor_type, rule.unit] = rule
    return rules


def _rule(table: dict[str, Any], number: int, places: _Places) -> Rule:
    """One ``[[rule]]`` table, checked."""
    for key in table:
        if key not in ("sensor_type", "unit", "min", "max"):
            raise UserError(f"{places.rule(number, key)}: unknown key {key!r}; expected sensor_type, unit, min or max")
    for key in ("sensor_type", "unit"):
        if key not in table:
            raise UserError(f"{places.rule(number)}: {key} is missing; expected a string")
        value = table[key]
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_STRING:
            expected = f"expected a string of 1 to {MAX_STRING} characters"
            raise UserError(f"{places.rule(number, key)}: {key} is {_shown(value)}; {expected}")
    usual, *_ = CONVERSIONS.get((table["sensor_type"], table["unit"]), (table["unit"],))
    if usual != table["unit"]:
        raise UserError(
            f"{places.rule(number, 'unit')}: unit is {_shown(table['unit'])}, which readings are converted from; "
            f"expected {usual!r} and bounds in it"
        )
    bounds = {key: _bound(table[key], key, number, places) for key in ("min", "max") if key in table}
    if not bounds:
        raise UserError(f"{places.rule(number)}: neither min nor max; expected at least one of them")
    rule = Rule(table["sensor_type"], table["unit"], **bounds)
    if rule.min is not None and rule.max is not None and rule.min > rule.max:
        raise UserError(f"{places.rule(number, 'min')}: min {rule.min} is above max {rule.max}; expected min <= max")
    return rule


def _bound(value: Any, key: str, number: int, places: _Places) -> float:
    # To Python, true is an int.
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            bound = float(value)
        except OverflowError:
            bound = math.inf
        if math.isfinite(bound):
            return bound
    raise UserError(f"{places.rule(number, key)}: {key} is {_shown(value)}; expected a finite number")


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _syntax_error(path: Path, text: str, error: Exception) -> str:
    found = re.search(r"^(.*?) \(at (?:line (\d+), column \d+|end of document)\)$", str(error), re.DOTALL)
    if not found:
        return f"{path}: not TOML: {reason(error)}"
    line_number = found[2] or text.rstrip("\n").count("\n") + 1
    return f"{path}, line {line_number}: not TOML: {' '.join(found[1].split())}"


class _Places:
    """Finds the line of a rule or key, for messages; tomllib keeps no positions."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        # Lines as TOML counts them.
        self._lines = text.split("\n")
        self._headers = [
            number for number, line in enumerate(self._lines) if re.match(r"\s*\[\[\s*[\"']?rule[\"']?\s*\]\]", line)
        ]

    def top_level(self, key: str) -> str:
        return self._find(key, 0, len(self._lines), 0)

    def rule(self, number: int, key: str | None = None) -> str:
        """The place of the n-th rule (from 0), or of a key in it."""
        if number >= len(self._headers):  # rule = [{…}]
            return f"{self._path}, rule {number + 1}"
        first = self._headers[number]
        following = self._headers[number + 1] if number + 1 < len(self._headers) else len(self._lines)
        return self._find(key, first, following, first)

    def _find(self, key: str | None, first: int, following: int, otherwise: int) -> str:
        found = otherwise
        if key is not None:
            pattern = re.compile(rf"[\s\[]*(?:rule\.)?[\"']?{re.escape(key)}[\"']?\s*[.=\]]")
            matches = (number for number in range(first, following) if pattern.match(self._lines[number]))
            found = next(matches, otherwise)
        return f"{self._path}, line {found + 1}"
