"""HTTP requests to a running dashboard."""

from __future__ import annotations

import base64
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from iot.settings import UserError, reason

# How long to wait for an answer of the dashboard.
ANSWER_S = 10.0
# The line of /metrics about the query that counts readings.
RUNS = re.compile(r'^iot_query_up\{query="windows"\} 1(\.0)?$', re.MULTILINE)


class DashboardClient:
    """HTTP requests to a running dashboard."""

    def __init__(self, url: str, token: str | None) -> None:
        """
        Args:
            url: may hold a token, as the page's address does (``?token=``), or user and password for a proxy.
            token: replaces that of the URL.
        """
        parts = urllib.parse.urlsplit(url)
        login, _, place = parts.netloc.rpartition("@")
        token = token or next(iter(urllib.parse.parse_qs(parts.query).get("token", [])), None)
        self.url = f"{parts.scheme}://{place}{parts.path.rstrip('/')}"
        """Without secrets, for messages too."""
        self._headers: dict[str, str] = {}
        if token:
            self._headers = {"Authorization": f"Bearer {token}"}
        elif login:
            encoded = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
            self._headers = {"Authorization": f"Basic {encoded}"}

    def open(self, path: str, timeout_s: float, **headers: str) -> http.client.HTTPResponse:
        """Send a GET request.

        Raises:
            OSError: the dashboard does not answer, or it refuses.
        """
        request = urllib.request.Request(self.url + path, headers=self._headers | headers)
        # The dashboard is on this machine or network, so no proxy is used.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        response: http.client.HTTPResponse = opener.open(request, timeout=timeout_s)
        return response

    def get(self, path: str) -> Any:
        """The JSON at a path.

        Raises:
            OSError: the dashboard does not answer, or it refuses.
            ValueError: the answer is not JSON.
        """
        with self.open(path, ANSWER_S) as response:
            return json.load(response)

    def require(self) -> None:
        """Check that a dashboard answers.

        Raises:
            UserError: none does; the message says how to start one.
        """
        fix = "start one in another terminal with python iot_streaming_app.py, or use --dashboard-url URL"
        try:
            found = self.get("/api/metrics")
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (401, 403):
                    raise UserError(
                        f"what answers at {self.url} refuses (HTTP {error.code}): if it is a dashboard that needs a "
                        "token, set IOT_TOKEN"
                    ) from error
                raise UserError(
                    f"what answers at {self.url} has no figures of a dashboard (HTTP {error.code}); {fix}"
                ) from error
        except (OSError, http.client.HTTPException) as error:
            why = reason(getattr(error, "reason", None) or error) if isinstance(error, OSError) else reason(error)
            raise UserError(f"no dashboard answers at {self.url} ({why}); {fix}") from error
        except ValueError:
            found = None
        if not isinstance(found, dict) or "total_messages" not in found:
            raise UserError(f"what answers at {self.url} is no dashboard; {fix}")

    def metrics(self) -> dict[str, Any] | None:
        """The figures of ``/api/metrics``; None if the dashboard does not answer."""
        try:
            found: dict[str, Any] = self.get("/api/metrics")
        except (OSError, ValueError, http.client.HTTPException):
            return None
        return found

    def is_processing(self) -> bool:
        """Whether Spark's query over the readings runs, as ``/metrics`` says."""
        try:
            with self.open("/metrics", ANSWER_S) as response:
                return bool(RUNS.search(response.read().decode()))
        except (OSError, ValueError, http.client.HTTPException):
            return False
