"""Read the client properties file that Kafka's own tools use."""

from __future__ import annotations

import re
from pathlib import Path

from iot.settings import UserError, reason


def read_properties(path: Path) -> dict[str, str]:
    """Read a Java properties file: ``key=value``, ``key: value`` or ``key value``, with Java's comments and escapes.

    Raises:
        UserError: the file cannot be read, or a line has no key and value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    properties: dict[str, str] = {}
    continued = ""
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = continued + line.strip()
        if not continued and line[:1] in ("", "#", "!"):
            continue
        # An odd number of backslashes at the end continues the line.
        continued = line[:-1] if (len(line) - len(line.rstrip("\\"))) % 2 else ""
        if continued:
            continue
        match = re.fullmatch(r"((?:[^\\=:\s]|\\.)+)(?:\s*[=:]\s*|\s+)(.*)", line)
        if not match:
            raise UserError(f"{path}, line {number}: expected key=value")
        properties[_unescape(match[1])] = _unescape(match[2])
    return properties


def _unescape(text: str) -> str:
    controls = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
    return re.sub(
        r"\\(?:u([0-9a-fA-F]{4})|(.))",
        lambda found: chr(int(found[1], 16)) if found[1] else controls.get(found[2], found[2]),
        text,
    )
