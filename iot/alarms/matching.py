"""Matchers as in Alertmanager: which alarms a silence covers, and which a receiver of notifications gets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from iot.alarms.model import Matcher

FIELDS = ("rule", "severity", "sensor_id", "sensor_type", "location")
"""The fields of an alarm that a matcher can name."""

OPERATORS = {"=": (False, True), "!=": (False, False), "=~": (True, True), "!~": (True, False)}


class Labelled(Protocol):
    """What a matcher looks at."""

    @property
    def rule(self) -> str: ...
    @property
    def severity(self) -> str: ...
    @property
    def sensor_id(self) -> str: ...
    @property
    def sensor_type(self) -> str: ...
    @property
    def location(self) -> str: ...


class Labels:
    """Alarms as columns, to be matched together."""

    def __init__(self, alarms: Sequence[Labelled]) -> None:
        self._columns = {name: pa.array([getattr(alarm, name) for alarm in alarms], pa.string()) for name in FIELDS}
        self._empty = pa.array([""] * len(alarms), pa.string())

    def matching(self, matchers: Iterable[Matcher]) -> list[int]:
        """Return the positions of the alarms that all matchers match. A field that alarms do not have is empty."""
        matches = pc.equal(self._empty, "")
        for matcher in matchers:
            matches = pc.and_(matches, _matches(matcher, self._columns.get(matcher.name, self._empty)))
        positions: list[int] = pc.indices_nonzero(matches).to_pylist()
        return positions


def matches_empty(matcher: Matcher) -> bool:
    """Whether a matcher matches an empty text."""
    return bool(_matches(matcher, pa.array([""], pa.string()))[0].as_py())


def require_pattern(matcher: Matcher) -> None:
    """Raises ``ValueError`` if the value should be a regular expression, and is none."""
    try:
        matches_empty(matcher)
    except (pa.ArrowInvalid, UnicodeEncodeError) as error:
        raise ValueError(f"{matcher.value!r} is not a regular expression ({error})") from None


def _matches(matcher: Matcher, values: pa.Array) -> pa.Array:
    if matcher.is_regex:
        # Arrow uses RE2, whose syntax is that of Alertmanager, and which takes linear time for any pattern. The whole
        # text has to match, as in Alertmanager.
        equal = pc.match_substring_regex(values, f"^(?:{matcher.value})$")
    else:
        equal = pc.equal(values, matcher.value)
    return equal if matcher.is_equal else pc.invert(equal)


def parse_matcher(text: str) -> Matcher:
    """Return the matcher that a text such as ``location = "lab"`` or ``rule =~ HIGH_.*`` stands for.

    Raises:
        ValueError: it is no matcher, names no field of an alarm, or has a wrong regular expression.
    """
    found = re.fullmatch(r'\s*(\w+)\s*(=~|!~|!=|=)\s*(?:"([^"]*)"|([^\s"](?:[^"]*[^\s"])?))\s*', text)
    if not found:
        raise ValueError('expected a matcher such as location = "lab" or rule =~ "HIGH_.*"')
    name, operator, value = found[1], found[2], found[3] if found[3] is not None else found[4]
    if name not in FIELDS:
        raise ValueError(f"unknown field {name!r}; expected {', '.join(FIELDS[:-1])} or {FIELDS[-1]}")
    matcher = Matcher(name, value, *OPERATORS[operator])
    require_pattern(matcher)
    return matcher
