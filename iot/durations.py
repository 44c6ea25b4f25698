"""Durations as people write them: ``30s``, ``500ms``, ``1h30m``."""

from __future__ import annotations

import re

# Longer ones are mistakes, and a time so far away has no date.
MAX_S = 36_500 * 86_400
EXAMPLES = "30s, 5m or 1h30m"

_UNITS_S = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 0.001}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = re.compile("".join(f"(?:({_NUMBER}){unit})?" for unit in _UNITS_S))


def seconds(text: str) -> float:
    """Return the seconds of a duration: numbers with the units w, d, h, m, s and ms, each at most once, in this order.

    Raises:
        ValueError: the text is no duration, or it is longer than 36500d.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found or not any(found.groups()):
        raise ValueError(f"{text!r} is not a duration")
    total = sum(float(number) * unit for number, unit in zip(found.groups("0"), _UNITS_S.values(), strict=True))
    if total > MAX_S:
        raise ValueError(f"{text!r} is longer than 36500d")
    return total
