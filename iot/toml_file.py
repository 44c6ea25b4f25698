"""Parse a TOML file of ``[[tables]]``, and find the lines that error messages name, because tomllib keeps none."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from iot.settings import UserError, reason


def parse(path: Path, text: str) -> dict[str, Any]:
    """Return the document.

    Raises:
        UserError: the text is not TOML. The message names file and line.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(_syntax_error(path, text, error)) from error


def shown(value: Any) -> str:
    """Return a value for an error message: as TOML writes it, and cut if it is long."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


class Places:
    """Where the tables ``[[name]]`` of a file and their keys are, as ``FILE, line N``."""

    def __init__(self, path: Path, text: str, name: str) -> None:
        self._path = path
        self._name = name
        # Not splitlines(), which also splits at characters that do not end a line in TOML.
        self._lines = text.split("\n")
        header = re.compile(rf"\s*\[\[\s*[\"']?{re.escape(name)}[\"']?\s*\]\]")
        self._headers = [number for number, line in enumerate(self._lines) if header.match(line)]

    def top_level(self, key: str) -> str:
        """Return file and line of a key outside the tables."""
        return self._find(key, 0, len(self._lines), 0)

    def table(self, number: int, key: str | None = None) -> str:
        """Return file and line of a table, counted from 0, or of a key in it."""
        if number >= len(self._headers):  # written as rule = [{…}]
            return f"{self._path}, {self._name} {number + 1}"
        first = self._headers[number]
        following = self._headers[number + 1] if number + 1 < len(self._headers) else len(self._lines)
        return self._find(key, first, following, first)

    def _find(self, key: str | None, first: int, following: int, otherwise: int) -> str:
        found = otherwise
        if key is not None:
            pattern = re.compile(rf"[\s\[]*(?:{re.escape(self._name)}\.)?[\"']?{re.escape(key)}[\"']?\s*[.=\]]")
            matches = (number for number in range(first, following) if pattern.match(self._lines[number]))
            found = next(matches, otherwise)
        return f"{self._path}, line {found + 1}"


def _syntax_error(path: Path, text: str, error: Exception) -> str:
    found = re.search(r"^(.*?) \(at (?:line (\d+), column \d+|end of document)\)$", str(error), re.DOTALL)
    if not found:
        return f"{path}: not TOML: {reason(error)}"
    line_number = found[2] or text.rstrip("\n").count("\n") + 1
    return f"{path}, line {line_number}: not TOML: {' '.join(found[1].split())}"
