"""Send a text by the apprise library, and keep its addresses out of all logs.

The library tells only whether a message was delivered. Its log has the reason, but also parts of addresses. So the log
is read for the HTTP status, and goes nowhere else.
"""

from __future__ import annotations

import logging
import re
import threading

import apprise

from iot.alarms.outcome import DELIVERED, Outcome, of_status

# Maximum number of characters in a message, for services that allow more.
MAX_CHARACTERS = 4000
# The library sends in the thread that asks: its own threads would hold up the end of the program. It follows no
# redirect, which might lead elsewhere with secrets.
ASSET = apprise.AppriseAsset(app_id="iot-alarms", async_mode=False, service_timeout=0, http_redirects=False)


class _Statuses(logging.Filter):
    """Lets nothing of the library's log through, but remembers the last HTTP status in it, for each thread."""

    def __init__(self) -> None:
        super().__init__()
        self._last = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if found := re.search(r"\berror=([1-5]\d\d)\b", record.getMessage()):
            self._last.status = int(found[1])
        return False

    def take(self) -> int | None:
        """Return the last status, and forget it."""
        status: int | None = getattr(self._last, "status", None)
        self._last.status = None
        return status


_statuses = _Statuses()
logging.getLogger("apprise").addFilter(_statuses)
# At the level DEBUG the library beneath it logs the path of each request.
logging.getLogger("urllib3").setLevel(logging.INFO)


def is_known(url: str) -> bool:
    """Whether the library knows the service that a URL names, and the URL has all that this service needs."""
    return _instance(url) is not None


def _instance(url: str) -> apprise.NotifyBase | None:
    return apprise.Apprise.instantiate(url, asset=ASSET)


def most_characters(url: str) -> int:
    """Return how many characters a message to this service may have."""
    service = _instance(url)
    return min(MAX_CHARACTERS, service.body_maxlen) if service else MAX_CHARACTERS


def send(url: str, title: str, body: str, is_firing: bool) -> Outcome:
    """Send a text, and tell how that went. It raises nothing."""
    kind = apprise.NotifyType.FAILURE if is_firing else apprise.NotifyType.SUCCESS
    _statuses.take()
    try:
        sender = apprise.Apprise(asset=ASSET)
        service = _instance(url)
        if service is None:
            return Outcome("rejected", "the apprise library does not know its URL")
        sender.add(service)
        if sender.notify(body=body, title=title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT):
            return DELIVERED
    except Exception as error:  # of any of the library's services, with any text
        return Outcome("failed", f"the apprise library raised {type(error).__name__}", is_unsure=True)
    status = _statuses.take()
    if status is not None and (outcome := of_status(status)) != DELIVERED:
        return outcome
    return Outcome("failed", "the apprise library could not deliver it", is_unsure=True)
