"""One test from its beginning to its result: workers that send, and this process, which only watches them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec
from kafka.errors import KafkaError

from iot.kafka.offsets import end_offsets
from iot.loadtest.latency import Latencies
from iot.loadtest.plan import COURSE, Plan
from iot.loadtest.results import Result, client_version
from iot.loadtest.usage import Usage
from iot.loadtest.worker import Job, Message, Outcome, Progress, Ready
from iot.processes import spawn
from iot.settings import Kafka, UserError, reason
from iot.terminal import StatusLine

ROOT = Path(__file__).parents[2]
# Until all are at their starting line.
HEAD_START_S = 0.05
SAMPLE_S = 0.25
LOOK_S = 0.05

_decode = msgspec.json.Decoder(Message).decode


class Worker:
    """A process that sends: what it says is kept, the newest in place of what was before."""

    def __init__(self, job: Job) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *_given("PYTHONPATH")])}
        self.process = spawn(
            [sys.executable, "-m", "iot.loadtest.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.progress = Progress(0.0, 0, 0, 0)
        self.outcome: Outcome | None = None
        self.refusal = ""
        self.ready, self.done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.tell(msgspec.json.encode(job))

    def tell(self, line: bytes) -> None:
        """Say a line; one that has ended says so itself."""
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
            elif isinstance(said, Progress):
                self.progress = said
            elif isinstance(said, Outcome):
                self.outcome = said
                self.progress = Progress(said.ended_s, said.sent, said.acknowledged, said.failed)
                self.done.set()
            else:
                self.refusal = said.why
        self.ready.set()
        self.done.set()

    def close(self) -> None:
        if self.process.stdin:
            # What was not flushed to a process that has ended cannot be flushed now either.
            with suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join(5)


def run_trial(plan: Plan, kafka: Kafka, topic: str, status: StatusLine, stop: threading.Event) -> Result:
    """Run one test; ``stop`` ends it early, and its result says so.

    Raises:
        UserError: it cannot begin.
    """
    try:
        before = end_offsets(kafka, topic)
    except KafkaError as error:
        raise UserError(f"Kafka at {kafka.bootstrap_servers} does not answer: {reason(error)}") from error
    with ExitStack() as stack:
        workers = []
        run_id = uuid.uuid4().hex[:8]
        for threads in share_out(plan.threads):
            job = Job(plan, kafka.bootstrap_servers, kafka.properties, topic, run_id, threads)
            workers.append(Worker(job))
            stack.callback(workers[-1].close)
        for worker in workers:
            while not worker.ready.wait(LOOK_S) and not stop.is_set():
                pass
            if worker.refusal:
                raise UserError(worker.refusal)
        start_s = time.monotonic() + HEAD_START_S
        usage = Usage([worker.process.pid for worker in workers], start_s)
        for worker in workers:
            worker.tell(repr(start_s).encode())
        watch(plan, workers, usage, start_s, status, stop)
    return make_result(plan, topic, workers, usage, start_s, grown_by(kafka, topic, before), stop.is_set())


def share_out(threads: int, cores: int | None = None) -> list[list[int]]:
    """The numbers of the threads, by process: as many processes as there are cores beside one for the broker."""
    processes = max(1, min(threads, (cores or os.cpu_count() or 1) - 1))
    return [list(range(first, threads, processes)) for first in range(processes)]


def watch(
    plan: Plan, workers: Sequence[Worker], usage: Usage, start_s: float, status: StatusLine, stop: threading.Event
) -> None:
    """Show how it goes, until all workers are done; tells them when to stop."""
    told = False
    sampled_s = start_s
    while not all(worker.done.wait(LOOK_S) for worker in workers):
        # All stop when one has failed readings, gave up or ended.
        failed = any(w.progress.failed or w.refusal or (w.done.is_set() and not w.outcome) for w in workers)
        if (stop.is_set() or failed) and not told:
            told = True
            for worker in workers:
                worker.process.terminate()
        now_s = time.monotonic()
        if now_s - sampled_s >= SAMPLE_S:
            sampled_s = now_s
            usage.look(totals(workers)[1], now_s)
        status.update(partial(progress_line, plan, workers, now_s - start_s))
    usage.look(totals(workers)[1], time.monotonic())


def progress_line(plan: Plan, workers: Sequence[Worker], took_s: float) -> str:
    sent, acknowledged, failed = totals(workers)
    return (
        f"{plan.test}, {plan.client}, {plan.threads} threads: {sent:,} of {plan.messages:,} sent, "
        f"{acknowledged:,} acknowledged ({acknowledged / max(took_s, 1e-3):,.0f}/s), {failed:,} failed"
    )


def totals(workers: Sequence[Worker]) -> tuple[int, int, int]:
    """Sent, acknowledged and failed so far."""
    progress = [worker.progress for worker in workers]
    return sum(p.sent for p in progress), sum(p.acknowledged for p in progress), sum(p.failed for p in progress)


def grown_by(kafka: Kafka, topic: str, before: dict[int, int]) -> int | None:
    """How many records the topic has got since; None when Kafka does not say."""
    try:
        after = end_offsets(kafka, topic)
    except KafkaError:
        return None
    return sum(after.values()) - sum(before.values())


def make_result(
    plan: Plan,
    topic: str,
    workers: Sequence[Worker],
    usage: Usage,
    start_s: float,
    grew_by: int | None,
    stopped: bool,
) -> Result:
    outcomes = [worker.outcome for worker in workers if worker.outcome]
    latencies, delays = Latencies(), Latencies()
    for outcome in outcomes:
        latencies.add_encoded(outcome.latencies)
        delays.add_encoded(outcome.delays)
    sent, acknowledged, _ = totals(workers)
    duration_s = max(max((worker.progress.at_s for worker in workers), default=0.0) - start_s, 1e-6)
    if plan.rate_per_s:
        # The last reading, too, has its share of the time.
        duration_s = max(duration_s, sent / plan.rate_per_s)
    errors = [outcome.error for outcome in outcomes if outcome.error] + [w.refusal for w in workers if w.refusal]
    errors += ["a worker ended by itself"] if len(outcomes) < len(workers) and not errors else []
    errors += ["stopped before the end"] if stopped and not errors and acknowledged < plan.messages else []
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
        latency_from="the moment it was due" if plan.rate_per_s else "the hand-over to the client",
        latency_of_one_in=plan.follows_every,
        warm_up_pct=100 * plan.warm_up,
        rate_per_s=plan.rate_per_s,
        publish_delay_ms=delays.milliseconds() if plan.rate_per_s else None,
        cpu_pct=round(100 * usage.cpu_s / duration_s, 1),
        machine_cpu_pct=usage.machine_cpu_pct,
        throughput_per_cpu_pct=round(acknowledged / 100 / max(usage.cpu_s, 0.01), 1),
        memory_peak_mb=round(usage.memory_peak_mb, 1),
        batching=batching(plan),
        in_flight=in_flight(plan, len(workers)),
        topic=topic,
        topic_grew_by=grew_by,
        error=errors[0] if errors else "",
        timeline=usage.samples,
    )


def batching(plan: Plan) -> str:
    """How the client makes batches, in words."""
    if plan.client == COURSE:
        return "one reading at a time"
    size = 262_144 if plan.client == "confluent-kafka" else 65_536
    linger_ms = plan.tuning.get("linger.ms", plan.tuning.get("linger_ms"))
    return f"batches of up to {size:,} bytes, linger {linger_ms} ms"


def in_flight(plan: Plan, processes: int) -> str:
    if plan.client == COURSE or plan.in_flight:
        return f"at most {plan.in_flight or 1:,} in flight per thread"
    return f"at most {plan.bound(plan.threads):,} in flight" + (" per process" if processes > 1 else "")


def _given(name: str) -> list[str]:
    return [os.environ[name]] if os.environ.get(name) else []
