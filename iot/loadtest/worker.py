"""The process that sends some threads' readings of a test and measures them; ``trial`` starts it.

It talks in lines of JSON: a ``Job`` comes in, ``Ready`` goes out, the moment to start comes in; then ``Progress`` goes
out now and then, and at the end an ``Outcome``. It stays until its input ends, so that its CPU time can be read.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from threading import Semaphore, Thread

import msgspec
import numpy as np

from iot.kafka.sender import MarkedRecord, Record, Sender, make_sender
from iot.loadtest.course import CourseSender
from iot.loadtest.latency import Latencies
from iot.loadtest.plan import COURSE, Plan
from iot.processes import StopSignal
from iot.sensors.fleet import Fleet
from iot.sensors.pacing import Schedule, WallClock
from iot.settings import Kafka, UserError

SENSORS = 100
BATCH, FEW = 1_000, 20
# How many batches a thread sends before the next thread has its turn.
BATCHES_PER_TURN = 5
# What is due within this time is sent together.
TICK_S = 0.001
# Paced readings are made so long before they are due, at most.
AHEAD_S = 0.05
LOOK_S = 0.05
REPORT_S = 0.25
# When told to stop: how long to wait for the next acknowledgement.
GIVE_UP_S = 3.0


class Job(msgspec.Struct, frozen=True):
    """What one worker does: the threads of these numbers, from 0, of all of the plan."""

    plan: Plan
    bootstrap_servers: str
    properties: dict[str, str]
    topic: str
    run_id: str
    threads: list[int]


class Ready(msgspec.Struct, tag=True):
    """Connected; waits for the moment to start, in seconds of the monotonic clock."""


class Progress(msgspec.Struct, tag=True):
    at_s: float
    sent: int
    acknowledged: int
    failed: int


class Outcome(msgspec.Struct, tag=True):
    """The end, when the last was acknowledged or given up; ``failed`` counts both what failed and what was given up."""

    ended_s: float
    sent: int
    acknowledged: int
    failed: int
    error: str
    latencies: str
    delays: str


class Refused(msgspec.Struct, tag=True):
    """It cannot go on; ``why`` is for the user."""

    why: str


Message = Ready | Progress | Outcome | Refused


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
    """What one thread sends."""

    def __init__(self, job: Job, thread: int, sender: Sender, stop: threading.Event, turns: Turns) -> None:
        plan = job.plan
        # As many sensors for each thread, because they take turns.
        sensors = plan.threads * -(-SENSORS // plan.threads)
        self._fleet = Fleet(sensors, random.Random(job.run_id).randrange(2**32), job.run_id, thread, plan.threads)
        self._messages, self._total = plan.messages, self._fleet.count_below(plan.messages)
        self._warm_up = int(self._total * plan.warm_up)
        self._every = plan.follows_every
        self._window = Semaphore(plan.in_flight) if plan.in_flight else None
        # Who waits for each reading makes few at a time, so that none is old when it is sent.
        waits = plan.client == COURSE or plan.in_flight is not None
        self._turns = nullcontext() if waits else turns
        self._batch = max(FEW, min(plan.in_flight or 1, BATCH)) if waits else BATCH
        self._step = 1 if plan.client == COURSE else self._batch
        self._sender, self._stop = sender, stop
        self._sent = 0
        self._wall_clock = WallClock()
        self.ended_s = 0.0
        """When the last reading that is followed was acknowledged."""
        self.latencies_s: list[float] = []
        self.delays_s: list[float] = []

    def send_flat_out(self) -> None:
        """Send one batch after the other, as long as acknowledgements keep up."""
        while not self._is_done():
            with self._turns:
                for _ in range(BATCHES_PER_TURN):
                    if not self._is_done():
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
        """Send each reading when it is due, or as soon after as there is room."""
        ahead = min(BATCH, max(1, int(self._total * AHEAD_S * schedule.rate_per_s / self._messages)))
        while self._sent < self._total and not self._stop.is_set():
            # When each is due is known, so they are made beforehand, together: that is faster, and none has to wait.
            first, count = self._sent, min(ahead, self._total - self._sent)
            numbers = self._fleet.numbers(first, first + count)
            due_s = schedule.due_s(numbers)
            records = self._fleet.records(self._wall_clock.time_us(due_s))
            while self._sent < first + count and not self._stop.is_set():
                at = self._sent - first
                due = int(np.searchsorted(numbers, schedule.due_by_now()))
                if due <= at:
                    schedule.wait_for(int(numbers[at]), TICK_S, LOOK_S, self._stop)
                    continue
                room = self._room(due - at)
                begun_s = time.monotonic()
                warm_up = max(0, self._warm_up - self._sent)
                self._send(records[at : at + room], due_s[at : at + room].tolist())
                self.delays_s += (begun_s - due_s[at + warm_up : at + room]).clip(0).tolist()

    def _room(self, wanted: int) -> int:
        """Wait for room in the window; returns for how many of those wanted there is, 0 when stopped meanwhile."""
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
        """Hand records to the client, and follow some, whose latency counts from these moments.

        Returns:
            How many were accepted; fewer only when stopped.
        """
        followed = range(-self._sent % self._every, len(records), self._every)
        marked: list[MarkedRecord] = [records[at] for at in followed]  # type: ignore[misc]
        for at, record in zip(followed, marked, strict=True):
            warm = self._sent + at >= self._warm_up
            record["callback"] = self._sender.mark(partial(self._end, from_s[at] if warm else None))
        accepted = 0
        try:
            accepted = self._sender.send(records, self._stop)
        finally:
            for at, record in zip(followed, marked, strict=True):
                mark = record.pop("callback")
                if at >= accepted:
                    mark.forget()
        self._sent += accepted
        return accepted

    def _end(self, from_s: float | None, acknowledged: bool) -> None:
        """A reading that was followed has its end; ``from_s`` is None of one of the warm-up."""
        if acknowledged:
            self.ended_s = time.monotonic()
            if from_s is not None:
                self.latencies_s.append(self.ended_s - from_s)
        if self._window is not None:
            self._window.release()


class Work:
    """One job, from the connection to the outcome."""

    def __init__(self, job: Job, stop: threading.Event) -> None:
        kafka, plan = Kafka(job.bootstrap_servers, job.properties), job.plan
        self._job, self._stop = job, stop
        self._sender: Sender
        if plan.client == COURSE:
            self._sender = CourseSender(kafka, job.topic, plan.delivery_timeout_s)
        else:
            self._sender = make_sender(plan.client, kafka, job.topic, plan.bound(len(job.threads)), **plan.tuning)
        turns = Turns()
        self._lanes = [Lane(job, thread, self._sender, stop, turns) for thread in job.threads]
        self._latencies, self._delays = Latencies(), Latencies()
        self._reported_s = self._heard_s = 0.0
        self._acknowledged = 0
        self._error = ""

    def run(self, start_s: float) -> Outcome:
        """Send from ``start_s`` on and wait for the acknowledgements, until there is nothing left to wait for."""
        schedule = Schedule(self._job.plan.rate_per_s or 1, start_s)
        threads = [Thread(target=self._run_lane, args=(lane, schedule), daemon=True) for lane in self._lanes]
        self._stop.wait(max(0.0, start_s - time.monotonic()))
        self._heard_s = time.monotonic()
        for thread in threads:
            thread.start()
        # While threads send flat out, they let the client report themselves: a further thread would only be in the way.
        polls = self._job.plan.follows_every == 1 and self._job.plan.client == "confluent-kafka"
        while alive := [thread for thread in threads if thread.is_alive()]:
            if polls:
                self._sender.poll(LOOK_S)
            alive[0].join(0 if polls else LOOK_S)
            self._look()
        while self._sender.flush(LOOK_S) and not self._is_stuck():
            self._look()
        ended_s = time.monotonic()
        if self._job.plan.follows_every == 1 and not self._sender.in_flight:
            ended_s = max(lane.ended_s for lane in self._lanes) or ended_s
        if self._sender.in_flight:
            self._error = self._error or f"{self._sender.in_flight:,} readings were not acknowledged before the end"
        self._sender.close()
        self._gather()
        sender = self._sender
        return Outcome(
            ended_s,
            sender.accepted,
            sender.acknowledged,
            sender.accepted - sender.acknowledged,
            self._error,
            self._latencies.encode(),
            self._delays.encode(),
        )

    def _run_lane(self, lane: Lane, schedule: Schedule) -> None:
        try:
            if self._job.plan.rate_per_s:
                lane.send_paced(schedule)
            else:
                lane.send_flat_out()
        except UserError as error:
            self._error = str(error)
            self._stop.set()

    def _look(self) -> None:
        """Report now and then, and end what cannot succeed any more."""
        if self._sender.failed or self._is_stuck():
            # The first error tells most: what is given up later only follows from it.
            self._error = self._error or self._sender.last_error or "Kafka acknowledged nothing any more"
            self._stop.set()
        now_s = time.monotonic()
        if now_s - self._reported_s >= REPORT_S:
            self._reported_s = now_s
            say(Progress(now_s, self._sender.accepted, self._sender.acknowledged, self._sender.failed))
            self._gather()

    def _is_stuck(self) -> bool:
        """Whether nothing was acknowledged for so long that nothing will be."""
        now_s = time.monotonic()
        if self._sender.acknowledged > self._acknowledged or not self._sender.in_flight:
            self._acknowledged, self._heard_s = self._sender.acknowledged, now_s
        patience_s = GIVE_UP_S if self._stop.is_set() else self._job.plan.delivery_timeout_s + GIVE_UP_S
        return now_s - self._heard_s > patience_s

    def _gather(self) -> None:
        """Move what was measured into the histograms."""
        for lane in self._lanes:
            for measured_s, histogram in ((lane.latencies_s, self._latencies), (lane.delays_s, self._delays)):
                count = len(measured_s)
                histogram.add(measured_s[:count])
                del measured_s[:count]


def say(message: Message) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    stop = StopSignal().install().event
    job = msgspec.json.decode(sys.stdin.readline(), type=Job)
    try:
        work = Work(job, stop)
        say(Ready())
        say(work.run(float(sys.stdin.readline())))
    except UserError as error:
        say(Refused(str(error)))
        return 1
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
