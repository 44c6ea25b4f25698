"""Which requests may change something, and how their bodies are read.

Another page in the same browser must not be able to acknowledge an alarm. Three checks keep it out: a page cannot send
JSON to another origin without asking first, which is never allowed; the browser says in ``Sec-Fetch-Site`` whose page
sends the request; and in ``Origin`` the address of that page. A program that is no browser sends neither header.
"""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from flask import Flask, Request, abort, request

from iot.web.server import MAX_BODY_BYTES

READING = ("GET", "HEAD", "OPTIONS")
# "none" is a request that the user starts, not a page.
OWN_SITES = ("same-origin", "none")
DEFAULT_PORTS = {"http": 80, "https": 443}

T = TypeVar("T")


def protect(app: Flask) -> None:
    """Make the application refuse requests that may change something, but come from elsewhere or are not JSON."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    @app.before_request
    def check() -> None:
        # A request that no endpoint takes is refused for that.
        if request.method in READING or request.routing_exception:
            return
        if problem := foreign(request):
            abort(403, problem)
        if request.mimetype != "application/json":
            abort(415, "a request that changes something needs the header Content-Type: application/json")


def foreign(request: Request) -> str | None:
    """Return why a request does not count as one of the dashboard's own page or of a program; None if it does."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if origin == "null" or (site is not None and site not in OWN_SITES):
        return "this request comes from another page: only the dashboard's own page may change something"
    # The browser has compared the origins itself. Behind a proxy, the server may not know its own name.
    if origin is None or site == "same-origin" or _is_own(request, origin):
        return None
    return (
        f"this request comes from a page at {origin}, and not from this server: behind a proxy with another name, have "
        "the proxy say that name in the header X-Forwarded-Host"
    )


def _is_own(request: Request, origin: str) -> bool:
    """Whether an origin has a name and port under which the browser may know this server."""
    scheme, address = origin.partition(":")[0], _address(origin)
    # A page of another origin cannot set this header without asking first.
    forwarded = request.headers.get("X-Forwarded-Host", "").split(",")[0].strip()
    names = (request.headers.get("Host"), forwarded)
    return address is not None and address in [_address(f"{scheme}://{name}") for name in names if name]


def _address(origin: str) -> tuple[str, int] | None:
    """Name and port of an origin; None if it is not one."""
    try:
        parts = urlsplit(origin)
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.hostname.rstrip("."), port) if parts.hostname else None


class BodyError(ValueError):
    """A body that cannot be used; the text says why."""


def body(request: Request, kind: type[T]) -> T:
    """Decode the JSON of a request.

    Raises:
        BodyError: it is no JSON, or not of this kind.
    """
    try:
        return msgspec.json.decode(request.get_data(), type=kind)
    except UnicodeDecodeError:
        raise BodyError("the body: it is not UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BodyError(f"the body: {error}") from None
