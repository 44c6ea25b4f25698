"""One receiver of notifications: decide what is due, deliver it, and note in the log what the receiver was told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from iot.alarms.grouping import Entry, Notification, begun, decode_entry, delivered, known_of, plan, rejected
from iot.alarms.notify_file import Receiver
from iot.alarms.outcome import Result
from iot.alarms.receivers import Deliver
from iot.alarms.shared import ClosedError, Find, SharedLog, Source
from iot.terminal import printable

# How long messages are delivered before the alarms are looked at again.
PLANNED_S = 5.0
# How long to pause after the first failure of a receiver; each further one doubles the pause.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class Lane:
    """One receiver: what it was told, its pauses after failures, and its counts."""

    def __init__(
        self,
        receiver: Receiver,
        deliver: Deliver,
        source: Source,
        log: SharedLog,
        report: Callable[[str], None],
        clock: Callable[[], float],
        jitter: Callable[[], float],
        is_stopped: Callable[[], bool] = lambda: False,
        find: Find = lambda _: [],
    ) -> None:
        self.name = receiver.name
        self.counts: Counter[Result] = Counter()
        self._routing = receiver.routing
        self._deliver, self._source, self._log = deliver, source, log
        self._report, self._clock, self._jitter = report, clock, jitter
        self._is_stopped, self._find = is_stopped, find
        self._entries: dict[str, Entry] | None = None
        self._unsaved: set[str] = set()
        self._reported: set[tuple[str, str]] = set()
        self._failures = 0
        self._resumes_s = 0.0
        self._tried_s: dict[str, float] = {}

    def step(self) -> bool:
        """Look at the alarms, and deliver the messages that are due until one fails; return whether one succeeded."""
        now_s = self._clock()
        if not self._load(now_s) or not self._save():
            return False
        assert self._entries is not None
        try:
            alarms = self._source()
            present = {alarm.alarm_id for alarm in alarms}
            if gone := {one.alarm_id for entry in self._entries.values() for one in known_of(entry)} - present:
                alarms = [*alarms, *self._find(gone)]
        except Exception as error:  # of the database
            self.report_once(f"the alarms cannot be read ({type(error).__name__}); trying again")
            return False
        planned = plan(self._routing, alarms, self._entries, now_s)
        for key, entry in planned.entries.items():
            self._put(key, entry)
            if entry is None:
                self._tried_s.pop(key, None)
                self._reported = {reported for reported in self._reported if reported[0] != key}
        # A clock that was set back must not make the pause longer.
        self._resumes_s = min(self._resumes_s, now_s + LONGEST_PAUSE_S)
        if not self._save() or not planned.due or now_s < self._resumes_s:
            return False

        # A group that fails again and again lets the others go first.
        has_delivered = False
        for notification in sorted(planned.due, key=lambda due: self._tried_s.get(due.group_key, 0.0)):
            result = self._deliver_one(notification)
            has_delivered = has_delivered or result == "delivered"
            # What takes long is planned again, because alarms may end meanwhile.
            if result in (None, "failed") or self._is_stopped() or self._clock() > now_s + PLANNED_S:
                break
        self._save()
        return has_delivered

    def _deliver_one(self, notification: Notification) -> Result | None:
        """Deliver a message; None if it may not be sent, because the log cannot be written.

        The next call of ``_save`` writes the result: before the next message, or after the last one.
        """
        assert self._entries is not None
        key = notification.group_key
        before = self._entries[key]
        self._put(key, begun(before, notification))
        if not self._save():
            self._put(key, before)
            return None
        outcome = self._deliver(notification)
        now_s = self._clock()
        self.counts[outcome.result] += 1
        if outcome.result == "delivered":
            self._put(key, delivered(self._entries[key], notification, now_s))
            self._tried_s.pop(key, None)
            self._failures, self._resumes_s = 0, 0.0
            if self._reported and self._save():
                self._report_success(key)
        elif outcome.result == "rejected":
            self._put(key, rejected(before, self._routing, now_s))
            # A message that is never taken does not say so again whenever another one is, and stands for all others.
            if not any(reason.startswith(outcome.reason) for _, reason in self._reported):
                self.report_once(f"{outcome.reason}; the message about {key} is tried again later", key)
        else:
            if not outcome.is_unsure:
                self._put(key, before)
            self._tried_s[key] = now_s
            self._resumes_s = now_s + self._pause_s(outcome.pause_s)
            self.report_once(f"{outcome.reason}; trying again")
        return outcome.result

    def report_once(self, reason: str, key: str = "") -> None:
        """Report a reason once until a message is delivered, or one of the group ``key`` if there is one."""
        if (key, reason) not in self._reported:
            self._reported.add((key, reason))
            self._report(printable(f"warning: notifications to {self.name!r} fail: {reason}"))

    def _report_success(self, key: str) -> None:
        solved = {reported for reported in self._reported if reported[0] in ("", key)}
        if solved:
            self._reported -= solved
            self._report(f"notifications to {self.name!r} work again")

    def _pause_s(self, asked_s: float) -> float:
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures, 30), LONGEST_PAUSE_S)
        self._failures += 1
        return min(max(pause_s * (0.5 + self._jitter() / 2), asked_s), LONGEST_PAUSE_S)

    def _load(self, now_s: float) -> bool:
        if self._entries is not None:
            return True
        try:
            contents = self._log.read(self.name, now_s)
        except Exception as error:  # of the database
            self._report_log(error)
            return False
        self._entries = {}
        for key, content in contents.items():
            try:
                self._entries[key] = decode_entry(content)
            except msgspec.MsgspecError:
                self.report_once("an entry of the notification log is damaged; its alarms are told again")
        return True

    def _put(self, key: str, entry: Entry | None) -> None:
        assert self._entries is not None
        if entry is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = entry
        self._unsaved.add(key)

    def _save(self) -> bool:
        """Write what has changed; return False if the log cannot be written, so that nothing may be sent."""
        assert self._entries is not None
        if self._unsaved:
            try:
                self._log.save(self.name, {key: self._entries.get(key) for key in self._unsaved})
            except Exception as error:  # of the database
                self._report_log(error)
                return False
            self._unsaved.clear()
        return True

    def _report_log(self, error: Exception) -> None:
        if not isinstance(error, ClosedError):
            self.report_once(f"the notification log cannot be used ({type(error).__name__}); trying again")
