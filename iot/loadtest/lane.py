"""A lane sends the readings of one thread. The lanes of a process take turns."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from threading import Semaphore

import numpy as np

from iot.kafka.sender import MarkedRecord, Record, Sender
from iot.loadtest.plan import COURSE
from iot.loadtest.protocol import WorkerJob
from iot.sensors.fleet import Fleet
from iot.sensors.pacing import Schedule, WallClock

# Minimum number of sensors of all threads together, and of each thread. A batch encodes a sequence number for each
# round of its sensors, so few sensors are slow: with 6 a batch takes a quarter more time than with 50.
SENSORS, SENSORS_PER_THREAD = 100, 50
# Maximum number of readings in a batch, and its minimum for a thread that waits for acknowledgements.
BATCH, FEW = 1_000, 20
# How long a thread sends batches before the next thread has its turn. Shorter turns cost up to a tenth more CPU time,
# because a thread's own data has left the processor's caches when it continues.
TURN_S = 0.02
# Readings that are due within this time are sent together, and those of a load whose sending is not measured.
TICK_S, LOAD_TICK_S = 0.001, 0.02
# Maximum time between making a paced reading and sending it.
AHEAD_S = 0.05
# How often a waiting thread checks whether it was stopped.
LOOK_S = 0.05


class Turns:
    """A lock that waiting threads get in the order in which they asked for it.

    Threads that prepare and hand over batches at the same time fight for Python's interpreter lock: 18 of them send
    less than half of what one sends. A thread that waits here does not use the interpreter.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        gate.acquire()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False


class Lane:
    """The readings of one thread: it makes them, sends them and measures their latency."""

    def __init__(self, job: WorkerJob, thread: int, sender: Sender, stop: threading.Event, turns: Turns) -> None:
        plan = job.plan
        # Sensors take turns, so each thread needs the same number of them.
        sensors = plan.threads * max(SENSORS_PER_THREAD, math.ceil((plan.sensors or SENSORS) / plan.threads))
        self._fleet = Fleet(sensors, random.Random(job.run_id).randrange(2**32), job.run_id, thread, plan.threads)
        self._messages, self._total = plan.messages, self._fleet.count_below(plan.messages)
        self._warm_up = int(self._total * plan.warm_up)
        self._every = plan.follows_every
        self._is_load = plan.is_load
        self._window = Semaphore(plan.in_flight) if plan.in_flight else None
        # A thread that waits for acknowledgements makes few readings at a time, so that none is old when it is sent.
        waits = plan.client == COURSE or plan.in_flight is not None
        self._turns = nullcontext() if waits else turns
        self._batch = max(FEW, min(plan.in_flight or 1, BATCH)) if waits else BATCH
        self._step = 1 if plan.client == COURSE else self._batch
        self._sender, self._stop = sender, stop
        self._sent = 0
        self._wall_clock = WallClock()
        self.ended_s = 0.0
        """When the last marked reading was acknowledged, in seconds of the monotonic clock."""
        self.latencies_s: list[float] = []
        self.delays_s: list[float] = []

    def send_flat_out(self) -> None:
        """Send one batch after the other, as fast as acknowledgements arrive."""
        while not self._is_done():
            with self._turns:
                ends_s = time.monotonic() + TURN_S
                self._send_batch()
                while time.monotonic() < ends_s and not self._is_done():
                    self._send_batch()

    def _is_done(self) -> bool:
        return self._sent >= self._total or self._stop.is_set()

    def _send_batch(self) -> None:
        now_s, count = time.monotonic(), min(self._batch, self._total - self._sent)
        records = self._fleet.records(self._wall_clock.time_us(now_s + np.arange(-count, 0, dtype=np.float64) * 1e-6))
        sent = 0
        while sent < count and not self._stop.is_set():
            room = self._room(min(self._step, count - sent))
            begun_s = time.monotonic()
            sent += self._send(records[sent : sent + room], [begun_s] * room)

    def send_paced(self, schedule: Schedule) -> None:
        """Send each reading when it is due, or as soon as there is room after that."""
        ahead = min(BATCH, max(1, int(self._total * AHEAD_S * schedule.rate_per_s / self._messages)))
        while self._sent < self._total and not self._stop.is_set():
            # Readings are made together before they are due: this is faster, and none is late because of it.
            first, count = self._sent, min(ahead, self._total - self._sent)
            numbers = self._fleet.numbers(first, first + count)
            due_s = schedule.due_s(numbers)
            records = self._fleet.records(self._wall_clock.time_us(due_s))
            while self._sent < first + count and not self._stop.is_set():
                at = self._sent - first
                due = int(np.searchsorted(numbers, schedule.due_by_now()))
                if due <= at:
                    tick_s = LOAD_TICK_S if self._is_load else TICK_S
                    schedule.wait_for(int(numbers[at]), tick_s, LOOK_S, self._stop)
                    continue
                room = self._room(due - at)
                begun_s = time.monotonic()
                warm_up = max(0, self._warm_up - self._sent)
                self._send(records[at : at + room], due_s[at : at + room].tolist())
                if not self._is_load:
                    self.delays_s += (begun_s - due_s[at + warm_up : at + room]).clip(0).tolist()

    def _room(self, wanted: int) -> int:
        """Wait for room in the window; returns the room, at most ``wanted``, or 0 if stopped meanwhile."""
        if self._window is None:
            return wanted
        while not self._window.acquire(timeout=LOOK_S):
            if self._stop.is_set():
                return 0
        count = 1
        while count < wanted and self._window.acquire(blocking=False):
            count += 1
        return count

    def _send(self, records: list[Record], from_s: Sequence[float]) -> int:
        """Hand records to the client, and mark some of them to measure their latency.

        Args:
            from_s: for each record, the moment from which its latency counts.

        Returns:
            How many records were accepted: all of them, unless stopped meanwhile.
        """
        places = range(-self._sent % self._every, len(records), self._every)
        marked: list[MarkedRecord] = [records[at] for at in places]  # type: ignore[misc]
        for at, record in zip(places, marked, strict=True):
            warm = self._sent + at >= self._warm_up
            record["callback"] = self._sender.mark(partial(self._end, from_s[at] if warm else None))
        accepted = 0
        try:
            accepted = self._sender.send(records, self._stop)
        finally:
            for at, record in zip(places, marked, strict=True):
                mark = record.pop("callback")
                if at >= accepted:
                    mark.forget()
        self._sent += accepted
        return accepted

    def _end(self, from_s: float | None, acknowledged: bool) -> None:
        """Note the end of a marked reading; ``from_s`` is None for the warm-up."""
        if acknowledged:
            self.ended_s = time.monotonic()
            if from_s is not None:
                self.latencies_s.append(self.ended_s - from_s)
        if self._window is not None:
            self._window.release()
