"""Read the client properties file that Kafka's own tools use."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from iot.inputs import name_of, read_text
from iot.settings import UserError


def read_properties(path: Path) -> dict[str, str]:
    """Read a Java properties file: ``key=value``, ``key: value`` or ``key value``, with Java's comments and escapes.

    Raises:
        UserError: the file cannot be read, or a line has no key and value.
    """
    text = read_text(path)
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
            raise UserError(f"{name_of(path)}, line {number}: expected key=value")
        properties[_unescape(match[1])] = _unescape(match[2])
    return properties


@contextmanager
def handed_on(properties: Mapping[str, str]) -> Iterator[tuple[list[str], list[int]]]:
    """Make these properties readable for a child that is started in the ``with`` block.

    Yields the flags for the child, and the file descriptors that it must inherit. Their file has no name, so nobody
    else can read it, and it is gone with the last process that has it open.
    """
    if not properties:
        yield [], []
        return
    with tempfile.TemporaryFile() as file:
        file.write(to_text(properties).encode())
        file.flush()
        file.seek(0)
        yield ["--kafka-config", f"/dev/fd/{file.fileno()}"], [file.fileno()]


def to_text(properties: Mapping[str, str]) -> str:
    """Return the text of a properties file, for ``read_properties``."""
    return "".join(f"{_escape(key)}={_escape(value)}\n" for key, value in properties.items())


def _escape(text: str) -> str:
    # An escape has four digits, so characters beyond those stand for themselves.
    return "".join(c if c.isalnum() or c in "._-" or ord(c) > 0xFFFF else f"\\u{ord(c):04x}" for c in text)


def _unescape(text: str) -> str:
    controls = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
    return re.sub(
        r"\\(?:u([0-9a-fA-F]{4})|(.))",
        lambda found: chr(int(found[1], 16)) if found[1] else controls.get(found[2], found[2]),
        text,
    )
