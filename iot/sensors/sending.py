"""Paced sending: several threads share the sensors and send each reading when it is due."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType

from iot.kafka.sender import Sender
from iot.sensors.faults import Batch, Injector
from iot.sensors.pacing import Delays, Schedule, WallClock

# How often a thread looks for due readings. Readings that become due in between are sent together.
TICK_S = 0.005
# Maximum number of readings in one call of the client.
MAX_BATCH = 2_000
# Maximum time until a waiting thread lets the client report acknowledgements again.
MAX_WAIT_S = 0.1


class SentCounts:
    """What the sender does not count: malformed and late messages, and delays. Threads may share it."""

    def __init__(self) -> None:
        self.malformed = self.late = 0
        self.last_s = 0.0
        self.delays = Delays()
        self._lock = threading.Lock()

    def add(self, batch: Batch, accepted: int, now_s: float) -> None:
        """Count the first ``accepted`` messages of a batch, which the client took at ``now_s``."""
        with self._lock:
            self.malformed += int(batch.malformed[:accepted].sum())
            self.late += int(batch.late[:accepted].sum())
            self.last_s = max(self.last_s, now_s)


@dataclass
class PacedSending:
    """What the threads of one run share.

    Args:
        limit: how many messages all threads send together; infinite: until ``stop`` is set.
        on_batch: called with each batch and the number of its messages that the client accepted.
    """

    sender: Sender
    schedule: Schedule
    limit: float
    stop: threading.Event
    on_batch: Callable[[Batch, int], None]
    counts: SentCounts = field(default_factory=SentCounts)
    wall_clock: WallClock = field(default_factory=WallClock)

    def send_share(self, injector: Injector) -> None:
        """Send one thread's readings, each when it is due, until ``limit`` is reached or ``stop`` is set."""
        source = injector.source
        sent = 0
        while not self.stop.is_set():
            due = source.count_below(int(min(self.schedule.due_by_now(), self.limit)))
            if due == sent:
                if self.limit < math.inf and sent == source.count_below(int(self.limit)):
                    break
                self.sender.poll()
                following = source.numbers(sent, sent + 1)
                self.schedule.wait_for(int(following[0]), TICK_S, MAX_WAIT_S, self.stop)
                continue
            due_s = self.schedule.due_s(source.numbers(sent, min(due, sent + MAX_BATCH)))
            batch = injector.batch(self.wall_clock.time_us(due_s))
            accepted = self.sender.send(batch.records, self.stop)
            sent += accepted
            now_s = time.monotonic()
            self.counts.add(batch, accepted, now_s)
            if accepted:
                self.counts.delays.add(now_s - due_s[:accepted])
            self.on_batch(batch, accepted)


class SendingThreads:
    """One thread per share: ``with SendingThreads(sending, injectors) as threads`` starts and joins them.

    An error in one thread sets ``stop``, which ends all threads. ``errors`` keeps every error raised.
    """

    def __init__(self, sending: PacedSending, injectors: Iterable[Injector]) -> None:
        self._sending = sending
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(injector,), daemon=True) for injector in injectors]

    def wait(self, timeout_s: float) -> bool:
        """Wait at most ``timeout_s`` for a thread to end; returns whether all have ended."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_s)
                break
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, injector: Injector) -> None:
        try:
            self._sending.send_share(injector)
        except BaseException as error:
            self.errors.append(error)
            self._sending.stop.set()

    def __enter__(self) -> SendingThreads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            self._sending.stop.set()
        for thread in self._threads:
            thread.join()
