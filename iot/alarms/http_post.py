"""Send one HTTP POST: with time limits, without redirects, and with errors that show no part of the address.

It is built on http.client, which writes no log and reads no settings, so no address or header gets out by either.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from iot.alarms.outcome import Outcome, of_status

# How long to wait for the connection, and for the whole exchange.
CONNECT_S = 5.0
WHOLE_S = 10.0
# Maximum number of bytes to read of an answer; its status is all that counts.
MAX_ANSWER_BYTES = 64 * 1024
USER_AGENT = "iot-alarms"


class Target(NamedTuple):
    """A parsed URL. ``path`` includes the query."""

    is_secure: bool
    host: str
    port: int
    path: str
    credentials: str


def parse_url(url: str) -> Target:
    """Split a URL.

    Raises:
        ValueError: it is no URL with http or https, host and printable ASCII. The text does not show it.
    """
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ValueError("expected printable ASCII without spaces")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("expected a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("expected http:// or https:// and a host")
    credentials = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if "@" in parts.netloc else ""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    is_secure = parts.scheme == "https"
    return Target(is_secure, parts.hostname, port or (443 if is_secure else 80), path, credentials)


def post_json(url: str, headers: Mapping[str, str], body: bytes, whole_s: float = WHOLE_S) -> Outcome:
    """Send JSON, and tell how that went. It raises nothing that has to do with the network."""
    target = parse_url(url)
    exchange = _Exchange(target, whole_s)
    sent = {"User-Agent": USER_AGENT, "Content-Type": "application/json", "Connection": "close"}
    if target.credentials:
        sent["Authorization"] = "Basic " + base64.b64encode(target.credentials.encode()).decode()
    try:
        return exchange.run({**sent, **headers}, body)
    # A broken connection can show as any error of http.client, ssl and socket. Their texts may hold the address.
    except Exception as error:
        return Outcome("failed", exchange.reason(error), is_unsure=exchange.is_begun)


class _Exchange:
    """One request and its answer on a connection of its own."""

    def __init__(self, target: Target, whole_s: float) -> None:
        self._target, self._whole_s = target, whole_s
        self._ends_s = time.monotonic() + whole_s
        self._is_over = False
        self.is_begun = False
        connect_s = min(CONNECT_S, whole_s)
        if target.is_secure:
            context = ssl.create_default_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                target.host, target.port, timeout=connect_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(target.host, target.port, timeout=connect_s)

    def run(self, headers: Mapping[str, str], body: bytes) -> Outcome:
        timer = threading.Timer(self._whole_s, self._break)
        timer.daemon = True
        timer.start()
        try:
            self._connection.connect()
            if (left_s := self._ends_s - time.monotonic()) <= 0:
                raise TimeoutError
            self._connection.sock.settimeout(left_s)
            self.is_begun = True
            self._connection.request("POST", self._target.path, body, dict(headers))
            answer = self._connection.getresponse()
            with suppress(OSError, http.client.HTTPException, ValueError):
                answer.read(MAX_ANSWER_BYTES)
            return of_status(answer.status, _pause_s(answer.headers.get("Retry-After", "")))
        finally:
            timer.cancel()
            self._connection.close()

    def _break(self) -> None:
        """End an exchange that takes too long, also one whose answer comes byte by byte."""
        self._is_over = True
        if (sock := self._connection.sock) is not None:
            with suppress(OSError):
                # Not the method of the TLS socket, which forgets its state under the reader's hands.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def reason(self, error: Exception) -> str:
        if isinstance(error, socket.gaierror):
            return "its host name has no address"
        if isinstance(error, ssl.SSLCertVerificationError):
            # The rest of the text names the host.
            return f"its certificate is not accepted: {error.verify_message.split(',')[0]}"
        if self.is_begun:
            is_late = self._is_over or isinstance(error, TimeoutError)
            return f"no answer within {self._whole_s:g} s" if is_late else "the connection broke before the answer"
        if isinstance(error, TimeoutError):
            return f"no connection within {min(CONNECT_S, self._whole_s):g} s"
        if isinstance(error, ssl.SSLError):
            return "no TLS connection; check whether its URL should begin with http://"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror.lower()
        return type(error).__name__


def _pause_s(retry_after: str) -> float:
    """Return the seconds that a Retry-After header asks for; a date counts as none."""
    return float(retry_after) if re.fullmatch("[0-9]{1,6}", retry_after) else 0.0
