"""The file of ``--tokens``: which token stands for which device."""

from __future__ import annotations

import hmac
import tomllib
from pathlib import Path
from typing import Any

from iot.inputs import name_of, read_text
from iot.readings import MAX_STRING
from iot.settings import UserError, reason

TABLE = "tokens"


class Tokens:
    """Tokens, and the device of each."""

    def __init__(self, devices: dict[str, str]) -> None:
        self._devices = {token.encode(): device for token, device in devices.items()}

    def device(self, token: str) -> str | None:
        """Return the device of a token; None if nobody has it. How long this takes tells nothing about the tokens."""
        given, found = token.encode(errors="replace"), None
        for known, device in self._devices.items():
            if hmac.compare_digest(known, given):
                found = device
        return found


def load_tokens(path: Path) -> Tokens:
    """Read a TOML file with a line ``token = "device"`` for each token; a heading ``[tokens]`` may stand above them.

    Raises:
        UserError: the file cannot be read or is wrong. The text never contains a token.
    """
    name = f"the tokens {name_of(path)}"
    try:
        document = tomllib.loads(read_text(path, name))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f'{name}: not TOML ({reason(error)}); write lines such as "TOKEN" = "device"') from error
    table: Any = document.get(TABLE, document)
    if not isinstance(table, dict) or not table or (table is not document and len(document) > 1):
        raise UserError(f'{name}: expected lines such as "TOKEN" = "device" and nothing else')
    for number, (token, device) in enumerate(table.items(), 1):
        if not token.strip():
            raise UserError(f"{name}: token {number} is empty")
        if not isinstance(device, str) or not 1 <= len(device) <= MAX_STRING:
            raise UserError(f"{name}: token {number} needs the name of a device of 1 to {MAX_STRING} characters")
    return Tokens(table)
