"""Tokens of clients: one of all, and the file of ``--tokens`` that says which token stands for which device."""

from __future__ import annotations

import hmac
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iot.inputs import name_of, read_text
from iot.readings import MAX_STRING
from iot.settings import UserError, reason
from iot.web.access import is_same

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


class Unauthorised(Exception):  # noqa: N818  # as HTTP calls it
    """A request without a valid token. The text says what to do."""


@dataclass(frozen=True)
class Clients:
    """Who may send readings.

    Attributes:
        token: the token of all clients, if there is one.
        tokens: those of devices, if there are any.
    """

    token: str | None = None
    tokens: Tokens | None = None

    @property
    def need_a_token(self) -> bool:
        return bool(self.token or self.tokens)

    def device(self, authorization: str, name: str | None = None) -> str | None:
        """Return the device that sends a request; None if it presents the token of all, or needs none.

        Args:
            authorization: the header, empty if there is none.
            name: what the path says about the client: the token of its device, or only a name if there are no tokens
                of devices.

        Raises:
            Unauthorised: the request needs a token, and has none that is valid.
        """
        if name is not None and self.tokens:
            if (device := self.tokens.device(name)) is None:
                raise Unauthorised("no device has this token: add it to the file of --tokens")
            return device
        # A name without a file of tokens proves nothing.
        return self._of_header(authorization) or name

    def _of_header(self, authorization: str) -> str | None:
        if not self.need_a_token:
            return None
        scheme, _, given = authorization.partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else ""
        if self.token and is_same(given, self.token):
            return None
        device = self.tokens.device(given) if self.tokens and given else None
        if device is None:
            raise Unauthorised("a token is required: send the header Authorization: Bearer …")
        return device


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
