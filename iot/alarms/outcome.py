"""How one delivery ended."""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal, NamedTuple

Result = Literal["delivered", "failed", "rejected"]
RESULTS: tuple[Result, ...] = ("delivered", "failed", "rejected")


class Outcome(NamedTuple):
    """The result of one delivery.

    ``failed`` is tried again soon, ``rejected`` only with the group's next message. ``reason`` has no secret in it.
    ``is_unsure`` tells that the receiver may have taken the message although it ``failed``. ``pause_s`` is how long the
    receiver asked to be left alone.
    """

    result: Result
    reason: str = ""
    is_unsure: bool = False
    pause_s: float = 0.0


DELIVERED = Outcome("delivered")


def of_status(status: int, pause_s: float = 0.0) -> Outcome:
    """Return what an HTTP status means. Most 4xx will not go away by themselves; 408 and 429 are about the moment."""
    if 200 <= status < 300:
        return DELIVERED
    try:
        phrase = f" {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    answer = f"it answered {status}{phrase}"
    if 300 <= status < 400:
        return Outcome("rejected", f"{answer}: redirects are not followed, so give the final URL")
    if 400 <= status < 500 and status not in (408, 429):
        return Outcome("rejected", f"{answer}: check its URL and headers")
    return Outcome("failed", answer, pause_s=pause_s)
