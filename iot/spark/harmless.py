"""A regular expression that recognises messages that raise no alert, without parsing them.

Most readings are in the usual form and break no rule. The alerts query skips those, and parses only the rest. A pattern
compares numbers digit by digit, so it decides by the whole part of a value; a value near a bound is left to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from math import ceil, floor

from iot.alerts import Rule, Rules
from iot.readings import CONVERSIONS, STANDARD_UNITS, UNKNOWN

# Without backslashes, a string is everything between two quotes.
PLAIN_STRING = r'"[^"\\]*"'
PLAIN_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
# Maximum whole part of a value that the pattern recognises where a rule has no bound.
UNBOUNDED = 10**9


def harmless_pattern(rules: Rules) -> str:
    """Return a pattern that matches only messages that raise no alert; malformed messages may match too.

    It recognises readings of plain strings and numbers in which type, value and unit occur once each, in this order.
    It tries three forms: that of the simulator, which is the fastest to match; the same with spaces; and one with any
    other fields before, between and after. Readings in other forms do not match, and have to be parsed.
    """
    forms = [_in_the_contracts_order(rules, ""), _in_the_contracts_order(rules, " "), _in_some_order(rules)]
    return rf"\A\{{(?:{'|'.join(forms)})\}}\z"


def _in_the_contracts_order(rules: Rules, space: str) -> str:
    def field(name: str, pattern: str = PLAIN_STRING) -> str:
        return f',{space}"{name}":{space}{pattern}'

    before = field("sensor_id").removeprefix(f",{space}") + f",{space}"
    rest = f"{field('timestamp')}(?:{field('quality')})?(?:{field('run_id')})?(?:{field('sequence', PLAIN_NUMBER)})?"
    unwatched = field("location") + field("value", PLAIN_NUMBER) + field("unit") + rest
    return _form(
        rules,
        space,
        before=before,
        after_type=field("location"),
        after_value="",
        after_unit=rest,
        after_unwatched=unwatched,
    )


def _in_some_order(rules: Rules) -> str:
    def field_except(*names: str) -> str:
        return rf'"(?!(?:{"|".join(names)})")[^"\\]*": ?(?:{PLAIN_STRING}|{PLAIN_NUMBER}|null)'

    other = field_except("sensor_type", "value", "unit")
    others = f"(?:, ?{other})*+"
    return _form(
        rules,
        " ?",
        before=f"(?:{other}, ?)*+",
        after_type=others,
        after_value=others,
        after_unit=others,
        after_unwatched=f"(?:, ?{field_except('sensor_type')})*+",
    )


def _form(
    rules: Rules, space: str, *, before: str, after_type: str, after_value: str, after_unit: str, after_unwatched: str
) -> str:
    """Return a pattern of readings, given the patterns of the fields around type, value and unit.

    Args:
        space: the pattern of what follows a comma or colon.
        after_unwatched: the pattern of everything after a type that no rule watches.
    """
    cases = []
    for rule in rules.bounds.values():
        for units, subtract, divide in _spellings(rule):
            in_bounds = f',{space}"value":{space}{_decimals(rule, subtract, divide)}{after_value}'
            names = "|".join(re.escape(unit) for unit in units if unit is not None)
            unit = f'(?:,{space}"unit":{space}"(?:{names})"{after_unit}){"?" if None in units else ""}'
            cases.append(f'{re.escape(rule.sensor_type)}"{after_type}{in_bounds}{unit}')
    watched = "|".join(sorted({re.escape(rule.sensor_type) for rule in rules.bounds.values()}))
    cases.append(rf'(?!(?:{watched})")[^"\\]*"{after_unwatched}')
    return f'{before}"sensor_type":{space}"(?:{"|".join(cases)})'


def _spellings(rule: Rule) -> Iterator[tuple[list[str | None], float, float]]:
    """Yield the units that readings of a rule may have, with ``subtract`` and ``divide`` of their conversion.

    The unit None stands for a reading without one.
    """
    if (rule.sensor_type, rule.unit) in CONVERSIONS:
        return  # No reading has this unit once it is normalised.
    found: dict[tuple[float, float], list[str | None]] = {(0.0, 1.0): [rule.unit]}
    if STANDARD_UNITS.get(rule.sensor_type, UNKNOWN) == rule.unit:
        found[0.0, 1.0].append(None)
    for (sensor_type, unit), (standard, subtract, divide) in CONVERSIONS.items():
        if (sensor_type, standard) == (rule.sensor_type, rule.unit):
            found.setdefault((subtract, divide), []).append(unit)
    for (subtract, divide), units in found.items():
        yield units, subtract, divide


def _decimals(rule: Rule, subtract: float, divide: float) -> str:
    """Return a pattern of decimals whose whole part alone tells that they are within the rule's bounds."""
    low, high = -UNBOUNDED, UNBOUNDED
    if rule.min is not None:
        low = max(low, ceil(Fraction(rule.min) * Fraction(divide) + Fraction(subtract)))
    if rule.max is not None:
        high = min(high, floor(Fraction(rule.max) * Fraction(divide) + Fraction(subtract)))
    patterns = _whole_numbers(max(low, 0), high - 1)
    patterns += ["-" + pattern for pattern in _whole_numbers(max(-high, 0), -low - 1)]
    return rf"(?:{'|'.join(patterns)})(?:\.[0-9]+)?" if patterns else "(?!)"


def _whole_numbers(first: int, last: int) -> list[str]:
    """Return patterns that together match the whole numbers from ``first`` to ``last``, both at least 0."""
    if first > last:
        return []
    if first // 10 == last // 10:
        return [f"{first // 10 or ''}[{first % 10}-{last % 10}]"]
    # The range of tens of which every number is included.
    ten, last_ten = max(1, -(-first // 10)), (last + 1) // 10 - 1
    complete = [pattern + "[0-9]" for pattern in _whole_numbers(ten, last_ten)]
    return [*_whole_numbers(first, 10 * ten - 1), *complete, *_whole_numbers(max(first, 10 * last_ten + 10), last)]
