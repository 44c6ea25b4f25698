"""Who may read the dashboard, and what the answers forbid the browser.

On loopback nobody needs a token, and a ``Host`` that is not this machine is turned away, because a page elsewhere could
have its name point here (DNS rebinding). Beyond loopback a token is needed, which then protects against that too.
"""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Callable
from ipaddress import ip_address

from flask import Flask, Request, Response, abort, redirect, request

from iot.settings import UserError

COOKIE = "iot-dashboard-{port}"
OPEN_PATHS = ("/healthz",)
# Code and style of the page, and nothing of the data.
OPEN_FOLDER = "/static/"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": (
        "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), microphone=(), payment=(), "
        "usb=()"
    ),
}

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:/@\[\]]+))(?::[0-9]+)?")


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a server that listens at ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def require_token(host: str, token: str | None, insecure: bool) -> None:
    """Raises ``UserError`` when others could reach ``host`` and nothing keeps them out."""
    if not (token or insecure or is_loopback(host)):
        raise UserError(
            f"--host {host} can be reached from other machines: give a token in IOT_TOKEN (or --token), "
            "or say --insecure to let everyone read"
        )


def protect(app: Flask, host: str, port: int, token: str | None) -> None:
    """Have the application turn away whom it must, and send the headers above with every answer."""
    is_allowed = _hosts(host, token)
    cookie = COOKIE.format(port=port)

    @app.before_request
    def check() -> Response | None:
        if not is_allowed(request.headers.get("Host")):
            abort(403, "this server is not known by that name; open it by localhost or by the address it listens at")
        if not token or request.path in OPEN_PATHS or request.path.startswith(OPEN_FOLDER):
            return None
        given = request.args.get("token")
        if request.path == "/" and given is not None and _same(given, token):
            entry = redirect("./", 303)
            # Closed with the browser; no script and no other site can use it, and the token cannot be had from it.
            entry.set_cookie(cookie, _derived(token), httponly=True, samesite="Strict", secure=request.is_secure)
            return entry  # type: ignore[return-value]
        if not _authorised(request, token, cookie):
            abort(401, "a token is needed: open /?token=… once, or send it as Authorization: Bearer …")
        return None

    @app.after_request
    def forbid(response: Response) -> Response:
        response.headers.update(HEADERS)
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        return response


def _authorised(request: Request, token: str, cookie: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and _same(given.strip(), token):
        return True
    return _same(request.cookies.get(cookie, ""), _derived(token))


def _derived(token: str) -> str:
    return hmac.digest(token.encode(), b"the dashboard's cookie", "sha256").hex()


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode(errors="replace"))


def _hosts(host: str, token: str | None) -> Callable[[str | None], bool]:
    """Which ``Host`` headers name this server. The port is any: it may be forwarded."""
    names = {"localhost", "127.0.0.1", "::1", host.lower()}
    beyond = not is_loopback(host)
    if beyond:
        names.add(socket.gethostname().lower())

    def is_allowed(header: str | None) -> bool:
        # A browser always sends one.
        if header is None or (beyond and token):
            return True
        found = _HOST.fullmatch(header.lower())
        name = found[1] or found[2] if found else ""
        return name in names or (beyond and _is_address(name))

    return is_allowed


def _is_address(name: str) -> bool:
    # Nobody can have an address, unlike a name, point elsewhere.
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
