"""Silences as in Alertmanager: which alarms they match, and what creating, changing and expiring one means.

Everything here is pure. Times are in microseconds since the epoch, but for those in a ``Silence``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from iot.alarms.matching import Labelled, Labels, matches_empty, require_pattern
from iot.alarms.model import Matcher, Silence
from iot.readings import Rejected, format_timestamp, parse_timestamp

# Maximum length of a matcher's name and value, and of the texts of a silence.
MAX_TEXT = 1_000
MAX_MATCHERS = 50


class InvalidSilence(ValueError):  # noqa: N818  # it says what is wrong
    """A silence that cannot be created; the text says why."""


class PostedSilence(msgspec.Struct, frozen=True, rename="camel"):
    """The body of a request that creates a silence, or changes the one with this id."""

    matchers: list[Matcher]
    starts_at: str
    ends_at: str
    created_by: str
    comment: str
    id: str | None = None


def state_of(silence: Silence, now_us: int) -> Literal["pending", "active", "expired"]:
    """Return the state of a silence as Alertmanager names it."""
    if now_us < parse_timestamp(silence.starts_at):
        return "pending"
    return "active" if now_us < parse_timestamp(silence.ends_at) else "expired"


def silenced_by(silences: Sequence[Silence], alarms: Sequence[Labelled]) -> list[list[str]]:
    """Return for each alarm the ids of those silences that match it, sorted."""
    found: list[list[str]] = [[] for _ in alarms]
    if not silences:
        return found
    labels = Labels(alarms)
    for silence in sorted(silences, key=lambda one: one.id):
        for number in labels.matching(silence.matchers):
            found[number].append(silence.id)
    return found


def put(
    posted: PostedSilence,
    before: Silence | None,
    now_us: int,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> list[Silence]:
    """Return what a request writes: the silence first, and the one that it replaces if there is one.

    A silence keeps its id if only its end or its texts change, or if it has not started. Any other change makes a new
    silence, and the old one expires.

    Args:
        before: the silence with the id of ``posted``, if it has one.

    Raises:
        InvalidSilence: something is wrong with it.
    """
    starts_us, ends_us = _check(posted, now_us)
    if before and _may_change(before, posted, starts_us, now_us):
        return [_made(before.id, posted, starts_us, ends_us, now_us)]
    new = _made(new_id(), posted, max(starts_us, now_us), ends_us, now_us)
    return [new, expire(before, now_us)] if before and state_of(before, now_us) != "expired" else [new]


def expire(silence: Silence, now_us: int) -> Silence:
    """Return the silence as it is once it has been ended. One that is over does not change."""
    state = state_of(silence, now_us)
    if state == "expired":
        return silence
    now = format_timestamp(now_us)
    ended = msgspec.structs.replace(silence, ends_at=now, updated_at=now)
    return msgspec.structs.replace(ended, starts_at=now) if state == "pending" else ended


def _check(posted: PostedSilence, now_us: int) -> tuple[int, int]:
    """Return start and end."""
    if not posted.matchers:
        raise InvalidSilence("matchers: at least one is needed")
    if len(posted.matchers) > MAX_MATCHERS:
        raise InvalidSilence(f"matchers: at most {MAX_MATCHERS} are possible")
    texts = [posted.created_by, posted.comment, *(text for of in posted.matchers for text in (of.name, of.value))]
    if max(map(len, texts)) > MAX_TEXT:
        raise InvalidSilence(f"a text is longer than {MAX_TEXT} characters")
    for matcher in posted.matchers:
        if not matcher.name:
            raise InvalidSilence("matchers: name is empty")
        try:
            require_pattern(matcher)
        except ValueError as error:
            raise InvalidSilence(f"matchers: {error}") from None
    # As in Alertmanager, one that excludes something counts as a choice.
    if all(matcher.is_equal and matches_empty(matcher) for matcher in posted.matchers):
        raise InvalidSilence("matchers: at least one must not match an empty text, or every alarm would be silenced")
    starts_us, ends_us = _moment("startsAt", posted.starts_at), _moment("endsAt", posted.ends_at)
    if starts_us >= ends_us:
        raise InvalidSilence("endsAt: must be after startsAt")
    if ends_us < now_us:
        raise InvalidSilence("endsAt: must not be in the past")
    return starts_us, ends_us


def _moment(name: str, text: str) -> int:
    try:
        return parse_timestamp(text)
    except Rejected as error:
        raise InvalidSilence(f"{name}: {str(error).removeprefix('timestamp: ')}") from None


def _may_change(before: Silence, posted: PostedSilence, starts_us: int, now_us: int) -> bool:
    if before.matchers != posted.matchers:
        return False
    state = state_of(before, now_us)
    if state == "active":
        # Alertmanager compares whole seconds.
        return starts_us // 1_000_000 == parse_timestamp(before.starts_at) // 1_000_000
    return state == "pending" and starts_us >= now_us


def _made(silence_id: str, posted: PostedSilence, starts_us: int, ends_us: int, now_us: int) -> Silence:
    times: dict[str, Any] = {
        "starts_at": format_timestamp(starts_us),
        "ends_at": format_timestamp(ends_us),
        "updated_at": format_timestamp(now_us),
    }
    return Silence(
        id=silence_id, matchers=posted.matchers, created_by=posted.created_by, comment=posted.comment, **times
    )
