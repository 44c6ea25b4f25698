"""Addresses of Kafka servers, in every form that Kafka's own tools take."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

# As Kafka's clients read an address. A protocol in front is allowed there and means nothing.
_FORM = re.compile(r"(?:[0-9a-zA-Z\-%._]*://)?\[?([0-9a-zA-Z\-%._:]*)\]?:([0-9]+)")
LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True, order=True)
class Address:
    """A host, without the brackets of an IPv6 address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_this_machine(self) -> bool:
        """Whether the host is one of the usual names of this machine."""
        return self.host.lower() == "localhost" or self.host in LOOPBACK


def parse_addresses(text: str) -> list[Address]:
    """Read ``host:port`` addresses with commas between them; each is listed once, in the order given.

    As in Kafka's tools, blanks around a comma and a protocol in front are ignored; so is one comma at the end.

    Raises:
        ValueError: an entry is no address, or there is none. The text names the entry and what is wrong with it.
    """
    entries = [entry.strip() for entry in text.strip().removesuffix(",").split(",")]
    if "" in entries:
        raise ValueError(f"{text!r} has an empty entry; for example localhost:9092")
    return list(dict.fromkeys(map(_parse, entries)))


def join(addresses: Sequence[Address]) -> str:
    """Write addresses as all clients take them: with commas, and with brackets around IPv6 addresses."""
    return ",".join(map(str, addresses))


def _parse(entry: str) -> Address:
    found = _FORM.fullmatch(entry)
    if not found:
        raise ValueError(f"{entry!r} is not host:port, for example localhost:9092")
    host, port = found[1], int(found[2])
    if not host:
        raise ValueError(f"{entry!r} has no host; for example localhost:9092")
    if ":" in host and not _is_ipv6(host):
        raise ValueError(f"{entry!r} is not host:port: write an IPv6 address in brackets, such as [::1]:9092")
    if not 0 < port < 65_536:
        raise ValueError(f"{entry!r} has no port from 1 to 65535")
    return Address(host, port)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
