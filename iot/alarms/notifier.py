"""Notify receivers of alarms: one thread for each, so that one that hangs delays no other."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from iot.alarms.lane import Lane
from iot.alarms.notify_file import Notify
from iot.alarms.outcome import RESULTS, Result
from iot.alarms.receivers import deliver_to
from iot.alarms.shared import Find, NotificationLog, SharedLog, SharedSource, Source

# How often to look at the alarms.
POLL_S = 1.0
# How long to wait for a delivery under way when the program stops.
STOP_S = 1.5


class Notifier:
    """Sends notifications from ``start`` until ``stop``."""

    def __init__(
        self,
        notify: Notify,
        source: Source,
        log: NotificationLog,
        *,
        report: Callable[[str], None],
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        poll_s: float = POLL_S,
        find: Find = lambda _: [],
    ) -> None:
        """Take the alarms from ``source``.

        Args:
            report: takes one line for the operator, such as that a receiver fails or works again.
            stop: ends all threads when it is set; ``stop`` sets it.
            clock: the time in seconds since the epoch.
            jitter: returns a number from 0 to 1, by which pauses differ.
            find: tells the end of an alarm that was told and that ``source`` has no more; without it, the end is the
                moment at which that is noticed.
        """
        self._stop = stop or threading.Event()
        self._poll_s = poll_s
        self._report = report
        source = SharedSource(source, poll_s)
        shared = SharedLog(log, {receiver.name for receiver in notify.receivers})
        self._log = shared
        self._lanes = [
            Lane(
                receiver,
                deliver_to(receiver, notify.external_url, clock),
                source,
                shared,
                report,
                clock,
                jitter,
                self._stop.is_set,
                find,
            )
            for receiver in notify.receivers
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"notify-{number}", daemon=True)
            for number, lane in enumerate(self._lanes)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Stop, within ``timeout_s`` also while receivers hang; from then on the log is not used any more.

        A message of which it is not known whether it arrived is sent again after the next start.
        """
        self._stop.set()
        ends_s = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, ends_s - time.monotonic()))
        self._log.close()

    def results(self) -> dict[tuple[str, Result], int]:
        """Return the number of deliveries by receiver and result, for ``iot_notifications_total``."""
        return {(lane.name, result): lane.counts[result] for lane in self._lanes for result in RESULTS}

    def _run(self, lane: Lane) -> None:
        while not self._stop.is_set():
            try:
                has_delivered = lane.step()
            except Exception as error:  # an error in this program must not silence a receiver for ever
                has_delivered = False
                lane.report_once(f"internal error {type(error).__name__}; trying again")
            if not has_delivered:
                self._stop.wait(self._poll_s)
