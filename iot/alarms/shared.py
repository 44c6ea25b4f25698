"""What the receivers of notifications share: the alarms, and the log of what each was told."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import msgspec

from iot.alarms.grouping import Entry, decode_entry, encode_entry
from iot.alarms.model import Alarm

# How long to keep what a receiver was told that is no longer in the file, as in Alertmanager.
KEPT_S = 5 * 86_400.0

Source = Callable[[], list[Alarm]]
"""Returns all active alarms, and those resolved lately, as of one moment. Several threads call it.

It raises an error while it does not know them: an alarm that was told and is missing counts as resolved.
"""
Find = Callable[[Collection[str]], list[Alarm]]
"""Returns those of the alarms with these ids that are still known, also if they were resolved long ago."""


class NotificationLog(Protocol):
    """What was delivered, as bytes by receiver and group key. It survives a restart. One call at a time is made."""

    def read(self) -> Mapping[tuple[str, str], bytes]: ...

    def save(self, receiver: str, contents: Mapping[str, bytes | None], /) -> None:
        """Write entries of a receiver by group key, None to delete one: all of them or none."""


class SharedSource:
    """Reads the alarms once for all receivers that look within ``keep_s``: 10,000 alarms take a fifth of a second.

    An error is not kept.
    """

    def __init__(self, source: Source, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._source, self._keep_s, self._clock = source, keep_s, clock
        self._lock = threading.Lock()
        self._alarms: list[Alarm] = []
        self._until_s = -math.inf

    def __call__(self) -> list[Alarm]:
        with self._lock:
            begun_s = self._clock()
            if begun_s >= self._until_s:
                self._alarms = self._source()
                self._until_s = begun_s + self._keep_s
            return self._alarms


class SharedLog:
    """Lets one thread at a time use the log, and none after ``close``."""

    def __init__(self, log: NotificationLog, receivers: set[str]) -> None:
        self._log, self._receivers = log, receivers
        self._lock = threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        # Not under the lock: a database that hangs may hold it.
        self._is_closed = True

    def read(self, receiver: str, now_s: float) -> dict[str, bytes]:
        """Return the receiver's entries by group key, and forget old ones of receivers that are gone."""
        with self._lock:
            self._check()
            found: dict[str, bytes] = {}
            gone: dict[str, dict[str, None]] = {}
            for (name, key), content in self._log.read().items():
                if name == receiver:
                    found[key] = content
                elif name not in self._receivers and _is_old(content, now_s):
                    gone.setdefault(name, {})[key] = None
            for name, keys in gone.items():
                self._log.save(name, keys)
            return found

    def save(self, receiver: str, entries: Mapping[str, Entry | None]) -> None:
        with self._lock:
            self._check()
            self._log.save(
                receiver, {key: None if entry is None else encode_entry(entry) for key, entry in entries.items()}
            )

    def _check(self) -> None:
        if self._is_closed:
            raise ClosedError


class ClosedError(Exception):
    """The program stops."""


def _is_old(content: bytes, now_s: float) -> bool:
    try:
        entry = decode_entry(content)
    except msgspec.MsgspecError:
        return True
    return (entry.sent_s or entry.due_s or 0.0) < now_s - KEPT_S
