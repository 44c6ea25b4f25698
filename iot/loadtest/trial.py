"""One test from its start to its result: worker processes send, and this process only watches them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

import msgspec
from kafka.errors import KafkaError

from iot.kafka import advertised
from iot.kafka.offsets import end_offsets
from iot.loadtest.latency import Latencies, LatencySample, sample_width_s
from iot.loadtest.plan import COURSE, Plan
from iot.loadtest.process_cpu import ProcessCpu
from iot.loadtest.protocol import Message, Outcome, Ready, WorkerJob, WorkerProgress
from iot.loadtest.results import STOPPED, Result, client_version
from iot.loadtest.usage import SHORTEST_S, Usage
from iot.processes import spawn, until_stopped
from iot.settings import Kafka, UserError, reason
from iot.terminal import StatusLine

# How long the workers have to reach the start.
HEAD_START_S = 0.05
# How often to sample CPU and memory, and how often to check on the workers.
SAMPLE_S, LOOK_S = 0.25, 0.05

_decode = msgspec.json.Decoder(Message).decode


class Worker:
    """A worker process, and the newest of its messages."""

    def __init__(self, job: WorkerJob) -> None:
        self.process = spawn(
            [sys.executable, "-m", "iot.loadtest.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.progress = WorkerProgress(0.0, 0, 0, 0)
        self.latencies: list[tuple[float, str]] = []
        """The latencies of each report, and when it was made."""
        self.outcome: Outcome | None = None
        self.refusal = ""
        self.ready, self.done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.write_line(msgspec.json.encode(job))

    def write_line(self, line: bytes) -> None:
        """Write a line to the process; if it has ended, its last message says why."""
        assert self.process.stdin
        try:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
        except OSError:
            self.done.set()

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            said = _decode(line)
            if isinstance(said, Ready):
                self.ready.set()
            elif isinstance(said, WorkerProgress):
                self.progress = said
                if said.latencies:
                    self.latencies.append((said.at_s, said.latencies))
            elif isinstance(said, Outcome):
                self.outcome = said
                self.progress = WorkerProgress(said.ended_s, said.sent, said.acknowledged, said.failed)
                self.done.set()
            else:
                self.refusal = said.why
        self.ready.set()
        self.done.set()

    def close(self) -> None:
        if self.process.stdin:
            # Closing flushes again, which fails if the process has ended.
            with suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join(5)


@dataclass(frozen=True)
class Trial:
    """A test that is running."""

    plan: Plan
    workers: Sequence[Worker]
    usage: Usage
    processes: ProcessCpu
    start_s: float

    @property
    def totals(self) -> tuple[int, int, int]:
        """Readings sent, acknowledged and failed so far."""
        progress = [worker.progress for worker in self.workers]
        return sum(p.sent for p in progress), sum(p.acknowledged for p in progress), sum(p.failed for p in progress)


def run_trial(plan: Plan, kafka: Kafka, topic: str, status: StatusLine, stop: threading.Event) -> Result:
    """Run one test. ``stop`` ends it early, which is an error in its result.

    Raises:
        UserError: Kafka does not answer, or a worker cannot start.
        Stopped: ``stop`` was set before anything was sent.
    """
    try:
        before = until_stopped(lambda: end_offsets(kafka, topic), stop, "before anything was sent")
    except KafkaError as error:
        why = advertised.outage(kafka) or reason(error)
        raise UserError(f"Kafka at {kafka.bootstrap_servers} does not answer: {why}") from error
    with ExitStack() as stack:
        workers = []
        run_id = uuid.uuid4().hex[:8]
        for threads in share_out(plan.threads):
            job = WorkerJob(plan, kafka.bootstrap_servers, kafka.properties, topic, run_id, threads)
            workers.append(Worker(job))
            stack.callback(workers[-1].close)
        for worker in workers:
            while not worker.ready.wait(LOOK_S) and not stop.is_set():
                pass
            if worker.refusal:
                raise UserError(worker.refusal)
        pids = [worker.process.pid for worker in workers]
        processes = ProcessCpu(kafka.bootstrap_servers, None, pids, time.monotonic())
        start_s = time.monotonic() + HEAD_START_S
        usage = Usage(pids, start_s)
        for worker in workers:
            worker.write_line(repr(start_s).encode())
        trial = Trial(plan, workers, usage, processes, start_s)
        watch(trial, status, stop)
    return make_result(trial, topic, grown_by(kafka, topic, before), stop.is_set())


def share_out(threads: int, cores: int | None = None) -> list[list[int]]:
    """The numbers of the threads of each process. There is a process per core, but one core is left to the broker."""
    processes = max(1, min(threads, (cores or os.cpu_count() or 1) - 1))
    return [list(range(first, threads, processes)) for first in range(processes)]


def watch(trial: Trial, status: StatusLine, stop: threading.Event) -> None:
    """Show the progress until all workers are done; stop them after ``stop`` or a failure."""
    workers = trial.workers
    is_stopping = False
    sampled_s = trial.start_s
    while not all(worker.done.wait(LOOK_S) for worker in workers):
        # A failed reading, a refusal or the end of one worker stops all of them.
        failed = any(w.progress.failed or w.refusal or (w.done.is_set() and not w.outcome) for w in workers)
        if (stop.is_set() or failed) and not is_stopping:
            is_stopping = True
            for worker in workers:
                worker.process.terminate()
        now_s = time.monotonic()
        if now_s - sampled_s >= SAMPLE_S:
            sampled_s = now_s
            trial.usage.look(trial.totals[1], now_s)
        trial.processes.look_if_due(now_s)
        status.update(partial(progress_line, trial, now_s - trial.start_s))
    trial.usage.look(trial.totals[1], time.monotonic())
    trial.processes.look(time.monotonic())


def progress_line(trial: Trial, took_s: float) -> str:
    plan = trial.plan
    sent, acknowledged, failed = trial.totals
    return (
        f"{plan.test}, {plan.client}, {plan.threads} threads: {sent:,} of {plan.messages:,} sent, "
        f"{acknowledged:,} acknowledged ({acknowledged / max(took_s, 1e-3):,.0f}/s), {failed:,} failed"
    )


def grown_by(kafka: Kafka, topic: str, before: dict[int, int]) -> int | None:
    """How many records were added to the topic since the offsets ``before``; None if Kafka does not answer."""
    try:
        after = end_offsets(kafka, topic)
    except KafkaError:
        return None
    return sum(after.values()) - sum(before.values())


def make_result(trial: Trial, topic: str, grew_by: int | None, stopped: bool) -> Result:
    plan, workers, usage = trial.plan, trial.workers, trial.usage
    outcomes = [worker.outcome for worker in workers if worker.outcome]
    latencies, delays = Latencies(), Latencies()
    for outcome in outcomes:
        latencies.add_encoded(outcome.latencies)
        delays.add_encoded(outcome.delays)
    sent, acknowledged, _ = trial.totals
    duration_s = max(max((worker.progress.at_s for worker in workers), default=0.0) - trial.start_s, 1e-6)
    if plan.rate_per_s:
        # The last reading has its share of the time, too.
        duration_s = max(duration_s, sent / plan.rate_per_s)
    errors = [outcome.error for outcome in outcomes if outcome.error] + [w.refusal for w in workers if w.refusal]
    errors += [STOPPED] if stopped and not errors and acknowledged < plan.messages else []
    errors += (
        ["a worker process ended unexpectedly; run the test again"]
        if len(outcomes) < len(workers) and not errors
        else []
    )
    return Result(
        test=plan.test,
        client=plan.client,
        client_version=client_version(plan.client),
        threads=plan.threads,
        processes=len(workers),
        messages=plan.messages,
        messages_sent=sent,
        messages_acknowledged=acknowledged,
        messages_failed=sent - acknowledged,
        success_rate_pct=100 * acknowledged / plan.messages,
        duration_s=round(duration_s, 6),
        throughput_per_s=round(acknowledged / duration_s, 3),
        latency_ms=latencies.milliseconds(),
        latency_curve=latencies.curve(),
        latency_over_time=over_time(workers, trial.start_s, duration_s),
        latency_from="the moment it was due" if plan.rate_per_s else "the hand-over to the client",
        latency_of_one_in=plan.follows_every,
        warm_up_pct=100 * plan.warm_up,
        rate_per_s=plan.rate_per_s,
        publish_delay_ms=delays.milliseconds() if plan.rate_per_s else None,
        cpu_pct=usage.cpu_pct(duration_s),
        machine_cpu_pct=usage.machine_cpu_pct,
        throughput_per_cpu_pct=usage.per_cpu_pct(acknowledged),
        memory_peak_mb=round(usage.memory_peak_mb, 1),
        batching=batching(plan),
        in_flight=in_flight(plan, len(workers)),
        topic=topic,
        topic_grew_by=grew_by,
        error=errors[0] if errors else "",
        timeline=usage.samples,
        process_cpu=trial.processes.usages() if duration_s >= SHORTEST_S else [],
    )


def over_time(workers: Sequence[Worker], start_s: float, duration_s: float) -> list[LatencySample]:
    """The latencies of all workers together over time."""
    width_s = sample_width_s(duration_s)
    parts: defaultdict[int, Latencies] = defaultdict(Latencies)
    for worker in workers:
        for at_s, encoded in worker.latencies:
            parts[math.ceil((at_s - start_s) / width_s)].add_encoded(encoded)
    return [parts[part].sample(part * width_s) for part in sorted(parts)]


def batching(plan: Plan) -> str:
    """The batch size of the client, in words."""
    if plan.client == COURSE:
        return "one reading at a time"
    size = 262_144 if plan.client == "confluent-kafka" else 65_536
    linger_ms = plan.tuning.get("linger.ms", plan.tuning.get("linger_ms"))
    return f"batches of up to {size:,} bytes, linger {linger_ms} ms"


def in_flight(plan: Plan, processes: int) -> str:
    """The bound on unacknowledged readings, in words."""
    if plan.client == COURSE or plan.in_flight:
        return f"at most {plan.in_flight or 1:,} in flight per thread"
    return f"at most {plan.bound(plan.threads):,} in flight" + (" per process" if processes > 1 else "")
