"""What a server answers when a request fails: one text for the client, and a line for whoever runs the server."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol, cast

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, InternalServerError

from iot import settings
from iot.terminal import printable


class Answer(Protocol):
    """Makes the response of a status, a text and more headers."""

    def __call__(self, status: int, text: str, headers: Mapping[str, str] | None = None, /) -> Response: ...


def handle(app: Flask, answer: Answer) -> None:
    """Answer HTTP errors with their text. Any other exception is printed, and the client learns nothing of it."""

    def http(error: HTTPException) -> Response:
        if error.response is not None:
            return cast(Response, error.response)
        headers = {name: value for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")}
        if error.code == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return answer(error.code or 500, error.description or error.name, headers)

    def unexpected(error: Exception) -> Response:
        what = f"{request.method} {request.path}: {type(error).__name__}: {settings.reason(error)}"
        print(f"error: {printable(what)}", file=sys.stderr, flush=True)
        return answer(500, InternalServerError.description)

    app.register_error_handler(HTTPException, http)
    app.register_error_handler(Exception, unexpected)
