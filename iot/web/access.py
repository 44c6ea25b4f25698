"""Who may use the dashboard, and what its answers forbid the browser; ``writing`` has more checks for changes.

A server that listens on loopback needs no token. It refuses a ``Host`` that does not name this machine, because another
site could point its own name here (DNS rebinding). Beyond loopback, a token is required unless ``--insecure`` is given.
A token also protects against DNS rebinding, so with a token any ``Host`` is allowed, such as that of a proxy.
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
# The code and style of the page, without any data.
OPEN_FOLDER = "/static/"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'self'; "
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
    """Whether only this machine can reach a server that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def require_token(host: str, token: str | None, insecure: bool) -> None:
    """Raises ``UserError`` if other machines can reach ``host`` and no token is set."""
    if not (token or insecure or is_loopback(host)):
        raise UserError(
            f"--host {host} can be reached from other machines: set a token in IOT_TOKEN (or --token), "
            "or use --insecure to let everyone in"
        )


def protect(app: Flask, host: str, port: int, token: str | None) -> None:
    """Make the application check ``Host`` and token, and send ``HEADERS`` with every answer."""
    is_allowed = allowed_hosts(host, bool(token))
    cookie = COOKIE.format(port=port)

    @app.before_request
    def check() -> Response | None:
        if not is_allowed(request.headers.get("Host")):
            abort(
                403,
                "this server does not have that name: use localhost or the address that it listens on; behind a proxy "
                "with another name, set a token",
            )
        if not token or request.path in OPEN_PATHS or request.path.startswith(OPEN_FOLDER):
            return None
        given = request.args.get("token")
        if request.path == "/" and given is not None and is_same(given, token):
            entry = redirect(f"{request.script_root}/" if request.script_root else "./", 303)
            # It ends with the browser session. Scripts and other sites cannot use it, and it does not reveal the token.
            entry.set_cookie(cookie, _derived(token), httponly=True, samesite="Strict", secure=request.is_secure)
            return entry  # type: ignore[return-value]
        if not _authorised(request, token, cookie):
            abort(401, "a token is required: open /?token=… once, or send the header Authorization: Bearer …")
        return None

    @app.after_request
    def forbid(response: Response) -> Response:
        response.headers.update(HEADERS)
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        return response


def _authorised(request: Request, token: str, cookie: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and is_same(given.strip(), token):
        return True
    return is_same(request.cookies.get(cookie, ""), _derived(token))


def _derived(token: str) -> str:
    return hmac.digest(token.encode(), b"the dashboard's cookie", "sha256").hex()


def is_same(given: str, expected: str) -> bool:
    """Whether two secrets are the same. How long this takes tells nothing about them."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode(errors="replace"))


def allowed_hosts(host: str, has_token: bool) -> Callable[[str | None], bool]:
    """Return what tells whether a ``Host`` header is allowed. Any port is, because it may be forwarded."""
    names = {"localhost", "127.0.0.1", "::1", host.lower()}
    beyond = not is_loopback(host)
    if beyond:
        names.add(socket.gethostname().lower())

    def is_allowed(header: str | None) -> bool:
        # A browser always sends the header.
        if header is None or has_token:
            return True
        found = _HOST.fullmatch(header.lower())
        name = found[1] or found[2] if found else ""
        return name in names or (beyond and _is_address(name))

    return is_allowed


def _is_address(name: str) -> bool:
    # Unlike a name, an address cannot be pointed elsewhere.
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
