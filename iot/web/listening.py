"""The socket that the dashboard listens on.

It is opened before anything is started, so that a port that cannot be used is reported at once. The web server's
process inherits it. Nobody else can take the port in between, and what answers there is this dashboard.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

from iot.settings import UserError, reason

# Maximum number of connections that wait to be accepted.
BACKLOG = 256
# Where all addresses of this machine are reached by a program on it. Not every system connects to 0.0.0.0 and ::.
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# The addresses of a page that users open as http://localhost.
LOCALHOST = {"127.0.0.1", "::1", *LOOPBACK}
# How long a program on this machine may take to accept a connection.
CONNECT_S = 0.5
# The header of /healthz by which iot_streaming_app.py recognises the web server that it started.
INSTANCE_HEADER = "X-Dashboard-Instance"


def listen(host: str, port: int, port_flag: str = "--port") -> socket.socket:
    """Listen on an address; ``port_flag`` is the flag that chooses another port.

    Raises:
        UserError: the port is in use, also on another address that ``localhost`` may lead to; or this machine does not
            have the address, or does not allow the port.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host} cannot be resolved: {reason(error)}; use an address of this machine") from error
    failure: OSError | None = None
    for family, _, _, _, address in found:
        try:
            listening = _listen(family, address)
        except OSError as error:
            # A name may have addresses that this machine lacks. The others are tried only then: a port that is in use
            # on one address of a name is no place for a page with that name.
            failure = failure if failure and failure.errno != errno.EADDRNOTAVAIL else error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
            continue
        try:
            if listening.getsockname()[0] in LOCALHOST:
                _require_localhost_free(listening, port_flag)
        except UserError:
            listening.close()
            raise
        return listening
    raise UserError(_why(host, port, port_flag, failure))


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of an earlier run that are still closing do not count.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address[0] == "::":
            with suppress(OSError):
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _require_localhost_free(listening: socket.socket, port_flag: str) -> None:
    """Check that no other program answers where ``http://localhost`` may lead.

    A program that listens on ::1 or on all addresses does not always keep us from listening on 127.0.0.1, but a browser
    that opens localhost may reach it instead of the page.
    """
    own, port = listening.getsockname()[:2]
    ours = {"0.0.0.0": {"127.0.0.1"}, "::": {"127.0.0.1", "::1"}}.get(own, {own})
    for other in {"127.0.0.1", "::1"} - ours:
        with suppress(OSError), socket.create_connection((other, port), CONNECT_S):
            raise UserError(
                f"port {port} is already in use: another program listens on [{other}], where localhost may lead; "
                f"choose another with {port_flag}"
            )


def _why(host: str, port: int, port_flag: str, error: OSError | None) -> str:
    what = f"cannot serve at {host} port {port}: "
    number = error.errno if error else None
    if number == errno.EADDRINUSE:
        return f"{what}the port is already in use; choose another with {port_flag}"
    if number in (errno.EACCES, errno.EPERM):
        # Ports below 1024 need a right of their own. Another refusal may hold for the address, too.
        fix = f"a port above 1023 with {port_flag}" if port < 1024 else f"another with --host or {port_flag}"
        return f"{what}{reason(error or OSError())}; choose {fix}"
    if number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return f"{what}this machine does not have that address; choose another with --host"
    return f"{what}{reason(error or OSError())}; choose another with --host or {port_flag}"
