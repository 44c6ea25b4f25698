"""Try addresses without a Kafka client: does the name resolve, is the connection accepted, is Kafka's protocol spoken?

Everything here has a time limit. Threads are daemons, because a lookup that hangs cannot be stopped.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from iot.addresses import LOOPBACK, Address, parse_addresses
from iot.settings import reason

# How long an address may take to accept a connection.
CONNECT_S = 1.5
# How long to wait for other servers once one has accepted a connection.
OTHERS_S = 0.1
# How long to wait for a thread that should have ended: the machine may be busy.
GRACE_S = 0.5
# Kafka's request ApiVersions in version 0, which every broker answers before a login: length, key, version,
# correlation id, length of the client's name, and the name.
_CORRELATION = 0x696F7421
_API_VERSIONS = struct.pack("!hhih3s", 18, 0, _CORRELATION, 3, b"iot")
REFUSES = "refuses connections"
CLOSES = "accepts connections, but does not answer as Kafka does"

T = TypeVar("T")
R = TypeVar("R")


def resolve(host: str) -> set[str]:
    """Return the IP addresses of a host name; none if it does not resolve."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return set()


def servers_to_dial(servers: str) -> list[Address]:
    """Return the addresses to give to a client.

    ``localhost`` is this machine, also where its name does not resolve, or where 127.0.0.1 is not among its addresses.
    """
    addresses = []
    for address in parse_addresses(servers):
        if address.host.lower() == "localhost" and "127.0.0.1" not in (found := resolve(address.host)):
            literal = [Address(host, address.port) for host in LOOPBACK if host not in found]
            addresses += [address, *literal] if found else literal
        else:
            addresses.append(address)
    return list(dict.fromkeys(addresses))


def live_servers(servers: str, timeout_s: float = CONNECT_S) -> list[Address]:
    """Return the servers that accept a connection now; all of them if none does, or if there is only one.

    Some clients try their servers one by one, and would wait seconds for each that is dead.
    """
    addresses = servers_to_dial(servers)
    if len(addresses) == 1:
        return addresses
    failures = dial(addresses, timeout_s)
    return [address for address in addresses if not failures[address]] or addresses


def dial(addresses: Sequence[Address], timeout_s: float = CONNECT_S, others_s: float = OTHERS_S) -> dict[Address, str]:
    """Connect to all addresses at the same time.

    Args:
        others_s: how long to wait for the rest once one has accepted.

    Returns:
        What is wrong with each address, as the end of a sentence about it; empty if it accepts connections.
    """
    # A thread that does not even report a failure may still wait for the name.
    late = f"does not resolve, or accepts no connection, within {timeout_s:.2g} s"
    found = in_parallel(
        lambda address: _connect(address, timeout_s),
        addresses,
        timeout_s,
        enough=lambda failure: not failure,
        others_s=others_s,
    )
    return {address: found.get(address, late) for address in addresses}


def in_parallel(
    function: Callable[[T], R],
    items: Sequence[T],
    timeout_s: float,
    *,
    enough: Callable[[R], bool] = lambda result: False,
    others_s: float = OTHERS_S,
) -> dict[T, R]:
    """Call a function for all items at the same time.

    Args:
        enough: whether a result makes it unnecessary to wait longer than ``others_s`` for the rest.

    Returns:
        The results that came in time.
    """
    results: queue.SimpleQueue[tuple[T, R]] = queue.SimpleQueue()

    def call(item: T) -> None:
        results.put((item, function(item)))

    for item in items:
        threading.Thread(target=call, args=(item,), daemon=True).start()
    found: dict[T, R] = {}
    deadline_s = time.monotonic() + timeout_s + GRACE_S
    while len(found) < len(set(items)):
        try:
            item, result = results.get(timeout=max(0.0, deadline_s - time.monotonic()))
        except queue.Empty:
            break
        found[item] = result
        if enough(result):
            deadline_s = min(deadline_s, time.monotonic() + others_s)
    return found


def _connect(address: Address, timeout_s: float) -> str:
    """Return what is wrong with an address; empty if one of its IP addresses accepts a connection."""
    deadline_s = time.monotonic() + timeout_s
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return "does not resolve"
    refused, other = "", ""
    for family, kind, protocol, _, target in found:
        try:
            with socket.socket(family, kind, protocol) as connection:
                connection.settimeout(max(0.01, deadline_s - time.monotonic()))
                connection.connect(target)
                return ""
        except ConnectionRefusedError:
            refused = REFUSES
        except TimeoutError:
            other = f"accepts no connection within {timeout_s:.2g} s"
        except OSError as error:
            only_ipv6 = all(each[0] == socket.AF_INET6 for each in found)
            what = "is an IPv6 address that this machine cannot reach" if only_ipv6 else "cannot be reached from here"
            other = other or f"{what} ({reason(error)})"
    return other or refused or "does not resolve"


def protocol_of(address: Address, timeout_s: float = CONNECT_S) -> str | None:
    """Find out what speaks at an address.

    Returns:
        ``plain`` for Kafka without TLS, ``tls`` for anything with TLS, ``other`` for what answers in another way or
        hangs up, None if it does not answer.
    """
    deadline_s = time.monotonic() + timeout_s
    answers: list[str | None] = []
    for request, judge in ((_request(), _is_kafka), (_client_hello(address.host), _is_tls)):
        answer = _ask(address, request, max(0.05, deadline_s - time.monotonic()))
        if answer is not None and (spoken := judge(answer)):
            return spoken
        answers.append(None if answer is None else "other")
    return next(filter(None, answers), None)


def _request() -> bytes:
    return struct.pack("!i", len(_API_VERSIONS)) + _API_VERSIONS


def _is_kafka(answer: bytes) -> str:
    return "plain" if answer[4:8] == struct.pack("!i", _CORRELATION) else ""


def _is_tls(answer: bytes) -> str:
    # A TLS record: a handshake message or an alert, and the version.
    return "tls" if answer[:1] in (b"\x16", b"\x15") and answer[1:2] == b"\x03" else ""


def _client_hello(host: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    # Only the start of the handshake is sent, so nothing is trusted or revealed.
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def _ask(address: Address, request: bytes, timeout_s: float) -> bytes | None:
    """Return the first bytes of the answer, none if the connection is closed; None if nothing comes in time."""
    deadline_s = time.monotonic() + timeout_s
    answer = b""
    try:
        with socket.create_connection((address.host, address.port), timeout_s) as connection:
            connection.sendall(request)
            while len(answer) < 8:
                connection.settimeout(max(0.01, deadline_s - time.monotonic()))
                if not (part := connection.recv(8 - len(answer))):
                    break
                answer += part
    except ConnectionError:
        return answer
    except OSError:
        return answer or None
    return answer


def same_place(one: Address, other: Address) -> bool:
    """Whether two addresses lead to the same socket: the ports are equal, and the hosts share an IP address."""
    return one.port == other.port and bool({one.host, *resolve(one.host)} & {other.host, *resolve(other.host)})


def text(failures: Mapping[Address, str]) -> str:
    """Write addresses and what is wrong with each: ``kafka:9092 (it does not resolve)``, with commas between them."""
    return ", ".join(f"{address} (it {failure})" if failure else str(address) for address, failure in failures.items())
