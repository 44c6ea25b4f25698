"""The place of the dashboard below a proxy: at the root of a host, or under a path such as ``/iot``.

All links of the page are relative, so a proxy that removes the path needs to say nothing. One that does not remove it,
or that shows the page at ``/iot`` without the slash, says the path in the header ``X-Forwarded-Prefix``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")


def mounted(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Wrap a WSGI application so that it finds its own path in PATH_INFO, and the rest in SCRIPT_NAME."""

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        prefix = environ.get("HTTP_X_FORWARDED_PREFIX", "").split(",")[0].strip().rstrip("/")
        if _PREFIX.fullmatch(prefix):
            environ["SCRIPT_NAME"] = prefix
            if f"{path}/".startswith(f"{prefix}/"):
                environ["PATH_INFO"] = path[len(prefix) :] or "/"
        return application(environ, start_response)

    return call
