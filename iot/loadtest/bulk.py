"""Load at a fixed rate from worker processes, without following each reading."""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from iot.loadtest.plan import Plan
from iot.loadtest.protocol import WorkerJob
from iot.loadtest.trial import HEAD_START_S, LOOK_S, Worker, share_out
from iot.settings import Kafka, UserError

CLIENT = "confluent-kafka"
SENSORS = 1_000
# How long the workers may take to stop.
STOP_S = 10.0


class Acknowledged(NamedTuple):
    """For each worker, a moment of the monotonic clock and the readings acknowledged by then."""

    reports: tuple[tuple[float, int], ...]

    def rate_per_s(self, before: Acknowledged) -> float:
        """The rate since an earlier moment, from the workers' own reports."""
        rates = [
            (count - count_before) / (at_s - at_before_s) if at_s > at_before_s else 0.0
            for (at_s, count), (at_before_s, count_before) in zip(self.reports, before.reports, strict=True)
        ]
        return sum(rates)


class BulkLoad:
    """Worker processes that send at a rate."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    @property
    def acknowledged(self) -> Acknowledged:
        # A new report may replace ``progress`` at any time.
        progress = [worker.progress for worker in self._workers]
        return Acknowledged(tuple((one.at_s, one.acknowledged) for one in progress))

    @property
    def totals(self) -> tuple[int, int]:
        """Readings sent and acknowledged so far."""
        progress = [worker.progress for worker in self._workers]
        return sum(one.sent for one in progress), sum(one.acknowledged for one in progress)

    def require_running(self) -> None:
        """Check that every worker still sends.

        Raises:
            UserError: one has ended; the message says why.
        """
        for worker in self._workers:
            if worker.done.is_set():
                why = worker.refusal or (worker.outcome.error if worker.outcome else "")
                raise UserError(f"a worker process that sends ended: {why or 'run the test again'}")


@contextmanager
def bulk_load(
    test: str, kafka: Kafka, topic: str, rate_per_s: float, longest_s: float, stop: threading.Event
) -> Iterator[BulkLoad]:
    """Send at a rate while the block runs.

    Args:
        longest_s: maximum duration of the block.

    Raises:
        UserError: a worker cannot start.
    """
    processes = max(1, (os.cpu_count() or 1) - 1)
    plan = Plan(
        test=test,
        client=CLIENT,
        messages=max(1, math.ceil(rate_per_s * longest_s)),
        threads=processes,
        rate_per_s=rate_per_s,
        warm_up=0,
        sensors=SENSORS,
        # As ``iot_producer.py`` does. Otherwise most of the machine's time goes into requests of one reading.
        gathers=True,
        is_load=True,
    )
    with ExitStack() as stack:
        workers = []
        run_id = uuid.uuid4().hex[:8]
        for threads in share_out(plan.threads):
            worker = Worker(WorkerJob(plan, kafka.bootstrap_servers, kafka.properties, topic, run_id, threads))
            workers.append(worker)
            stack.callback(worker.close)
        for worker in workers:
            while not worker.ready.wait(LOOK_S) and not stop.is_set():
                pass
            if worker.refusal:
                raise UserError(worker.refusal)
        start_s = time.monotonic() + HEAD_START_S
        for worker in workers:
            worker.write_line(repr(start_s).encode())
        try:
            yield BulkLoad(workers)
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.done.wait(STOP_S)
