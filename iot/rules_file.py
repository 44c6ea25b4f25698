"""Read alert rules from a TOML file, and name the line of each error in it."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

from iot.alerts import DEFAULT_RULES, Rule, Rules
from iot.inputs import name_of, read_text
from iot.readings import CONVERSIONS, MAX_STRING
from iot.settings import UserError, reason


def load_rules(path: Path | None) -> Rules:
    """Read a TOML file of ``[[rule]]`` tables: ``sensor_type``, ``unit``, and ``min``, ``max`` or both.

    None gives the built-in rules.

    Raises:
        UserError: the file cannot be read or is wrong. The text names the file, the line, the key and what is expected.
    """
    if path is None:
        return DEFAULT_RULES
    text = read_text(path, f"the rules file {name_of(path)}")
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
    """Check one ``[[rule]]`` table, and return its rule.

    Args:
        number: the position of the table in the file, from 0.
    """
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
    standard, *_ = CONVERSIONS.get((table["sensor_type"], table["unit"]), (table["unit"],))
    if standard != table["unit"]:
        raise UserError(
            f"{places.rule(number, 'unit')}: unit is {_shown(table['unit'])}, but readings are converted to "
            f"{standard!r}; expected unit {standard!r} and bounds in it"
        )
    bounds = {key: _bound(table[key], key, number, places) for key in ("min", "max") if key in table}
    if not bounds:
        raise UserError(f"{places.rule(number)}: neither min nor max; expected at least one of them")
    rule = Rule(table["sensor_type"], table["unit"], **bounds)
    if rule.min is not None and rule.max is not None and rule.min > rule.max:
        raise UserError(f"{places.rule(number, 'min')}: min {rule.min} is above max {rule.max}; expected min <= max")
    return rule


def _bound(value: Any, key: str, number: int, places: _Places) -> float:
    # In Python, a boolean is an int.
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
    """Find the line of a rule or key for error messages, because tomllib keeps no positions."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        # Not splitlines(), which also splits at characters that do not end a line in TOML.
        self._lines = text.split("\n")
        self._headers = [
            number for number, line in enumerate(self._lines) if re.match(r"\s*\[\[\s*[\"']?rule[\"']?\s*\]\]", line)
        ]

    def top_level(self, key: str) -> str:
        return self._find(key, 0, len(self._lines), 0)

    def rule(self, number: int, key: str | None = None) -> str:
        """Return file and line of a rule, counted from 0, or of a key in it."""
        if number >= len(self._headers):  # written as rule = [{…}]
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
