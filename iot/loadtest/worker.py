"""A process that sends the readings of some threads and measures them; ``trial`` starts it and reads its reports.

After its outcome it stays until its input ends, so that ``trial`` can still read its CPU time.
"""

from __future__ import annotations

from iot.processes import stop_event

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import sys
import threading
import time
from threading import Thread

import msgspec

from iot.kafka.sender import Sender, make_sender
from iot.loadtest.course import CourseSender
from iot.loadtest.lane import LOOK_S, Lane, Turns
from iot.loadtest.latency import Latencies
from iot.loadtest.plan import COURSE
from iot.loadtest.protocol import Message, Outcome, Ready, Refused, WorkerJob, WorkerProgress
from iot.sensors.pacing import Schedule
from iot.settings import Kafka, UserError

# How often a worker reports its progress.
REPORT_S = 0.25
# How long to wait for the next acknowledgement after a stop.
GIVE_UP_S = 3.0


class Work:
    """One job of a worker, from the connection to the outcome."""

    def __init__(self, job: WorkerJob, stop: threading.Event) -> None:
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
        """Send from ``start_s`` on, then wait until every reading is acknowledged or given up."""
        schedule = Schedule(self._job.plan.rate_per_s or 1, start_s)
        threads = [Thread(target=self._run_lane, args=(lane, schedule), daemon=True) for lane in self._lanes]
        self._stop.wait(max(0.0, start_s - time.monotonic()))
        self._heard_s = time.monotonic()
        for thread in threads:
            thread.start()
        # Threads that send flat out poll the client themselves. Polling here as well would slow them down.
        plan = self._job.plan
        polls = plan.client == "confluent-kafka" and (plan.follows_every == 1 or plan.rate_per_s is not None)
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
        """Report progress regularly, and stop a test that can no longer succeed."""
        if self._sender.failed or self._is_stuck():
            # The first error is the cause: later ones only follow from it.
            self._error = self._error or self._sender.last_error or "Kafka stopped acknowledging readings"
            self._stop.set()
        now_s = time.monotonic()
        if now_s - self._reported_s >= REPORT_S:
            self._reported_s = now_s
            newest = self._gather()
            sender = self._sender
            encoded = newest.encode() if newest.count else ""
            say(WorkerProgress(now_s, sender.accepted, sender.acknowledged, sender.failed, encoded))

    def _is_stuck(self) -> bool:
        """Whether Kafka has acknowledged nothing for so long that it never will."""
        now_s = time.monotonic()
        if self._sender.acknowledged > self._acknowledged or not self._sender.in_flight:
            self._acknowledged, self._heard_s = self._sender.acknowledged, now_s
        patience_s = GIVE_UP_S if self._stop.is_set() else self._job.plan.delivery_timeout_s + GIVE_UP_S
        return now_s - self._heard_s > patience_s

    def _gather(self) -> Latencies:
        """Move the measurements into the histograms; returns that of the latencies since the last call."""
        newest = Latencies()
        for lane in self._lanes:
            for measured_s, histogram in ((lane.latencies_s, newest), (lane.delays_s, self._delays)):
                count = len(measured_s)
                histogram.add(measured_s[:count])
                del measured_s[:count]
        self._latencies.merge(newest)
        return newest


def say(message: Message) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    stop = stop_event()
    job = msgspec.json.decode(sys.stdin.readline(), type=WorkerJob)
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
