"""Validates the parameters of a request to the API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from werkzeug.datastructures import MultiDict

from iot.readings import MAX_STRING, Rejected, parse_timestamp


class ParameterError(ValueError):
    """A wrong parameter; the text names it and says what is expected."""


class Parameters:
    """Typed access to a query string. An empty parameter counts as absent; all methods raise ``ParameterError``."""

    def __init__(self, query: MultiDict[str, str]) -> None:
        self._query = query

    def _text(self, name: str) -> str | None:
        values = self._query.getlist(name)
        if len(values) > 1:
            raise ParameterError(f"{name} is given {len(values)} times; expected once")
        return values[0] or None if values else None

    def has(self, name: str) -> bool:
        return self._text(name) is not None

    def whole(self, name: str, otherwise: int, least: int, most: int) -> int:
        """A whole number from ``least`` to ``most``."""
        text = self._text(name)
        if text is None:
            return otherwise
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ParameterError(f"{name}: expected a whole number from {least} to {most}")
        return int(text)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """One of the choices; the first is the default."""
        text = self._text(name) or choices[0]
        if text not in choices:
            raise ParameterError(f"{name}: expected {' or '.join(choices)}")
        return text

    def one_of(self, name: str, choices: Sequence[str]) -> Any:
        """One of the choices; None if absent."""
        text = self._text(name)
        if text is not None and text not in choices:
            raise ParameterError(f"{name}: expected {' or '.join(choices)}")
        return text

    def choices(self, name: str, choices: Sequence[str], otherwise: Sequence[str]) -> tuple[Any, ...]:
        """Some of the choices, with commas between them, in their order."""
        text = self._text(name)
        given = otherwise if text is None else text.split(",")
        if set(given) - set(choices):
            raise ParameterError(f"{name}: expected one or more of {', '.join(choices)}, with commas between them")
        return tuple(choice for choice in choices if choice in given)

    def boolean(self, name: str) -> bool | None:
        """True or false; None if absent."""
        text = self._text(name)
        if text not in (None, "true", "false"):
            raise ParameterError(f"{name}: expected true or false")
        return None if text is None else text == "true"

    def string(self, name: str, most: int = MAX_STRING) -> str | None:
        """A string, by default no longer than a reading may have; None if absent."""
        text = self._text(name)
        if text is not None and len(text) > most:
            raise ParameterError(f"{name}: expected at most {most} characters")
        return text

    def moment_us(self, name: str) -> int | None:
        """A timestamp, written as in a reading, in microseconds since the epoch; None if absent."""
        text = self._text(name)
        if text is None:
            return None
        try:
            # In a query string, a plus sign that was not escaped means a space.
            return parse_timestamp(text.replace(" ", "+"))
        except Rejected as error:
            raise ParameterError(f"{name}: {str(error).removeprefix('timestamp: ')}") from None
