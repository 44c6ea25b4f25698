"""Read alert rules from a TOML file, and name the line of each error in it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from iot import durations
from iot.alerts import DEFAULT_RULES, SEVERITIES, Rule, Rules
from iot.inputs import name_of, read_text
from iot.readings import CONVERSIONS, MAX_STRING
from iot.settings import UserError
from iot.toml_file import Places, parse, shown

NUMBERS = ("min", "max", "clear_min", "clear_max")
DURATIONS = ("for", "keep_firing_for", "max_silence")
ORDER = (
    ("min", "max"),
    ("min", "clear_min"),
    ("min", "clear_max"),
    ("clear_min", "max"),
    ("clear_max", "max"),
    ("clear_min", "clear_max"),
)
KEYS = ("sensor_type", "unit", "min", "max", "severity", "for", "clear_min", "clear_max", *DURATIONS[1:])


def load_rules(path: Path | None) -> Rules:
    """Read a TOML file of ``[[rule]]`` tables; docs/how-it-works.md describes their keys.

    None gives the built-in rules.

    Raises:
        UserError: the file cannot be read or is wrong. The text names the file, the line, the key and what is expected.
    """
    if path is None:
        return DEFAULT_RULES
    text = read_text(path, f"the rules file {name_of(path)}")
    document = parse(path, text)
    places = Places(path, text, "rule")
    for key in document:
        if key != "rule":
            raise UserError(f"{places.top_level(key)}: unknown key {key!r}; expected only [[rule]] tables")
    tables = document.get("rule")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{places.top_level('rule')}: expected one or more [[rule]] tables")
    rules: dict[tuple[str, str, str], Rule] = {}
    for number, table in enumerate(tables):
        rule = _Table(table, number, places).rule()
        same = rule.sensor_type, rule.unit, rule.severity
        if same in rules:
            raise UserError(
                f"{places.table(number, 'sensor_type')}: a second rule for {rule.sensor_type!r} in {rule.unit!r} with "
                f"severity {rule.severity!r}; expected one for each sensor_type, unit and severity"
            )
        rules[same] = rule
    return Rules(tuple(rules.values()))


class _Table:
    """One ``[[rule]]`` table, the ``number``-th of the file, counted from 0."""

    def __init__(self, table: dict[str, Any], number: int, places: Places) -> None:
        self._table = table
        self._number = number
        self._places = places

    def rule(self) -> Rule:
        """Check the table, and return its rule.

        Raises:
            UserError: something in it is wrong.
        """
        for key in self._table:
            if key not in KEYS:
                raise self._error(key, f"unknown key {key!r}; expected {', '.join(KEYS[:-1])} or {KEYS[-1]}")
        sensor_type, unit = self._string("sensor_type"), self._string("unit")
        standard, *_ = CONVERSIONS.get((sensor_type, unit), (unit,))
        if standard != unit:
            raise self._error(
                "unit",
                f"unit is {shown(unit)}, but readings are converted to {standard!r}; "
                f"expected unit {standard!r} and bounds in it",
            )
        low, high, clear_min, clear_max = (self._finite_number(key) for key in NUMBERS)
        for_s, keep_firing_for_s, max_silence_s = (self._duration(key) for key in DURATIONS)
        if low is None and high is None and max_silence_s is None:
            raise self._error(None, "neither min nor max nor max_silence; expected at least one of them")
        self._check_order(dict(zip(NUMBERS, (low, high, clear_min, clear_max), strict=True)))
        if max_silence_s == 0:
            raise self._error("max_silence", f"max_silence is {self._shown('max_silence')}; expected more than 0")
        severity = self._table.get("severity", "warning")
        if severity not in SEVERITIES:
            raise self._error("severity", f"severity is {shown(severity)}; expected 'info', 'warning' or 'critical'")
        return Rule(
            sensor_type,
            unit,
            low,
            high,
            severity,
            for_s or 0.0,
            clear_min,
            clear_max,
            keep_firing_for_s or 0.0,
            max_silence_s,
        )

    def _string(self, key: str) -> str:
        if key not in self._table:
            raise self._error(None, f"{key} is missing; expected a string")
        value = self._table[key]
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_STRING:
            raise self._error(key, f"{key} is {shown(value)}; expected a string of 1 to {MAX_STRING} characters")
        return value

    def _finite_number(self, key: str) -> float | None:
        if key not in self._table:
            return None
        number = _number(self._table[key])
        if number is None or not math.isfinite(number):
            raise self._error(key, f"{key} is {self._shown(key)}; expected a finite number")
        return number

    def _duration(self, key: str) -> float | None:
        """Return seconds: of a number as it is, of a text such as 1h30m."""
        if key not in self._table:
            return None
        value = self._table[key]
        found = _number(value)
        if isinstance(value, str):
            try:
                found = durations.seconds(value)
            except ValueError:
                found = None
        if found is None or not 0 <= found <= durations.MAX_S:
            expected = f"expected a duration such as {durations.EXAMPLES}, or seconds, of at most 36500d"
            raise self._error(key, f"{key} is {self._shown(key)}; {expected}")
        return found

    def _check_order(self, numbers: dict[str, float | None]) -> None:
        for key, bound in (("clear_min", "min"), ("clear_max", "max")):
            if numbers[key] is not None and numbers[bound] is None:
                raise self._error(key, f"{key} without {bound}; expected both")
        for lower, higher in ORDER:
            low, high = numbers[lower], numbers[higher]
            if low is not None and high is not None and low > high:
                key = higher if higher.startswith("clear") else lower
                raise self._error(key, f"{lower} {low} is above {higher} {high}; expected {lower} <= {higher}")

    def _shown(self, key: str) -> str:
        return shown(self._table[key])

    def _error(self, key: str | None, text: str) -> UserError:
        return UserError(f"{self._places.table(self._number, key)}: {text}")


def _number(value: Any) -> float | None:
    """Return a number as a float, infinite if it is too large for one; None for anything else."""
    # In Python, a boolean is an int.
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
