"""Results: what is printed, a table of tests, the JSON file, and the comparison with an earlier run."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil
from rich import box
from rich.table import Table

from iot.broker.broker import kafka_version
from iot.inputs import read_text
from iot.loadtest.latency import Milliseconds
from iot.loadtest.plan import COURSE, Plan
from iot.loadtest.usage import UsageSample
from iot.settings import UserError, reason

# Ignore smaller p99 differences in paced tests: they are noise.
LATENCY_FLOOR_MS = 5.0
# The error of a test that only ended early because the script was stopped.
STOPPED = "stopped before the end"


class Stage(msgspec.Struct, kw_only=True):
    """How many readings or alerts reached one stage on their way through the dashboard, and how late."""

    name: str
    expected: int
    arrived: int
    lost: int
    doubled: int
    latency_ms: Milliseconds
    which: list[str] = []
    """The first lost or doubled ones, in words."""


class Result(msgspec.Struct, kw_only=True):
    """The result of one test with one client. CPU is in percent of one core."""

    test: str
    client: str
    client_version: str
    threads: int
    processes: int = 1
    messages: int
    """How many were asked for."""
    messages_sent: int
    messages_acknowledged: int
    messages_failed: int
    """How many were sent but not acknowledged."""
    success_rate_pct: float
    """The share of the messages asked for that was acknowledged."""
    duration_s: float
    throughput_per_s: float
    latency_ms: Milliseconds
    latency_from: str
    latency_of_one_in: int
    warm_up_pct: float
    """The share of each thread's readings that count in all figures except latency and publish delay."""
    rate_per_s: float | None = None
    publish_delay_ms: Milliseconds | None = None
    """How long after it was due a reading was handed to the client."""
    cpu_pct: float
    machine_cpu_pct: float
    throughput_per_cpu_pct: float
    memory_peak_mb: float
    acks: str = "all"
    batching: str
    in_flight: str
    topic: str
    topic_grew_by: int | None
    """By the topic's offsets. None: Kafka did not answer."""
    error: str = ""
    timeline: list[UsageSample] = []
    stages: list[Stage] = []

    @property
    def verdict(self) -> str:
        """In one word, for people."""
        return "success" if self.is_success else "stopped" if self.is_stopped else "FAILED"

    @property
    def is_stopped(self) -> bool:
        """Whether it only ended early because the script was stopped."""
        return self.error == STOPPED

    @property
    def is_success(self) -> bool:
        """Whether every reading was acknowledged and is in the topic."""
        return (
            not self.error
            and self.messages_acknowledged == self.messages
            and self.topic_grew_by is not None
            and self.topic_grew_by >= self.messages
            and not any(stage.lost or stage.doubled for stage in self.stages)
        )


class Comparison(msgspec.Struct):
    """One contender of test 6: its rounds, their median, and its ratios to Kafka's tool and the course's method."""

    contender: str
    threads: int
    messages: int
    rounds_per_s: list[float]
    throughput_per_s: float
    seconds: float
    times_kafka_tool: float | None
    times_course: float | None


class Report(msgspec.Struct, kw_only=True):
    """The results of one run, as ``--output`` writes them."""

    environment: dict[str, str | int | float]
    tests: list[Result]
    comparison: list[Comparison] = []


def environment(topic: str, bootstrap_servers: str) -> dict[str, str | int | float]:
    """The machine, the versions of the software, and where the readings went."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "kafka_python": version("kafka-python"),
        "confluent_kafka": version("confluent-kafka"),
        "embedded_kafka": kafka_version(),
        "bootstrap_servers": bootstrap_servers,
        "topic": topic,
    }


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def client_version(client: str) -> str:
    return version("kafka-python" if client == COURSE else client)


def table(results: Sequence[Result]) -> Table:
    """A row for each test and client."""
    made = Table(box=box.SIMPLE_HEAD)
    for name in ("Test", "Client"):
        made.add_column(name)
    for name in ("Messages", "Threads", "Throughput", "Latency p50", "p99", "Success", "1/s per 1 % CPU"):
        made.add_column(name, justify="right")
    for result in results:
        made.add_row(
            result.test,
            result.client,
            f"{result.messages:,}",
            str(result.threads),
            f"{result.throughput_per_s:,.0f}/s",
            in_ms(result.latency_ms.p50),
            in_ms(result.latency_ms.p99),
            ("FAILED " if result.verdict == "FAILED" else "") + f"{result.success_rate_pct:.2f} %",
            f"{result.throughput_per_cpu_pct:,.0f}",
        )
    return made


def details(result: Result) -> list[str]:
    """Every figure of a result, as lines of text."""
    lines = [
        f"{result.verdict}: {result.messages_acknowledged:,} of {result.messages:,} "
        f"readings acknowledged ({result.success_rate_pct:.2f} %), {result.messages_sent:,} sent, "
        f"{result.messages_failed:,} failed; {_grown(result)}",
        f"{result.duration_s:,.2f} s, {result.throughput_per_s:,.1f} readings/s"
        + (f" of {result.rate_per_s:,.10g} asked for" if result.rate_per_s else ""),
        f"latency from {result.latency_from}{_sampled(result)}: {spread(result.latency_ms)}",
    ]
    if result.publish_delay_ms:
        lines.append(f"publish delay, handed over after it was due: {spread(result.publish_delay_ms)}")
    lines += [
        f"CPU {result.cpu_pct:.0f} % of a core, machine {result.machine_cpu_pct:.0f} %; "
        f"{result.throughput_per_cpu_pct:,.0f} readings/s per 1 % CPU; memory {result.memory_peak_mb:,.0f} MB at most",
        f"{result.client} {result.client_version}, {result.threads} thread{'s' if result.threads > 1 else ''} in "
        f"{result.processes} process{'es' if result.processes > 1 else ''}, "
        f"acks={result.acks}, {result.batching}, {result.in_flight}",
    ]
    if result.error:
        lines.append(f"error: {result.error}")
    return lines


def _grown(result: Result) -> str:
    if result.topic_grew_by is None:
        return f"the growth of {result.topic} is unknown: Kafka did not answer"
    more = result.topic_grew_by - result.messages_sent
    others = f", {more:,} of them by others" if more > 0 else ""
    return f"{result.topic} grew by {result.topic_grew_by:,}{others}"


def _sampled(result: Result) -> str:
    which = [f"of 1 in {result.latency_of_one_in}"] if result.latency_of_one_in > 1 else []
    which += [f"without the first {result.warm_up_pct:.0f} %, the warm-up"] if result.warm_up_pct else []
    return f" ({', '.join(which)})" if which else ""


def best_of_sweep(results: Sequence[Result]) -> list[str]:
    """For each client, a line that names the fastest and the most efficient number of threads."""
    lines = []
    for client in dict.fromkeys(result.client for result in results):
        if of_client := [result for result in results if result.client == client and result.is_success]:
            best = max(of_client, key=lambda result: result.throughput_per_s)
            frugal = max(of_client, key=lambda result: result.throughput_per_cpu_pct)
            lines.append(
                f"{client}: fastest with {best.threads} threads ({best.throughput_per_s:,.0f}/s), most efficient with "
                f"{frugal.threads} threads ({frugal.throughput_per_cpu_pct:,.0f} readings/s per 1 % CPU)"
            )
    return lines


def spread(latency: Milliseconds) -> str:
    names = {"p50": "p50", "p95": "p95", "p99": "p99", "p99_9": "p99.9", "max": "max", "mean": "mean"}
    return ", ".join(f"{said} {in_ms(getattr(latency, name))}" for name, said in names.items())


def in_ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


# Files ----------------------------------------------------------------------------------------------------------------


def encode(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=1)


Key = tuple[str, str, int, float | None]
"""What two results must share to be compared: test, client, threads and rate."""


class Earlier(msgspec.Struct):
    """The figures of an earlier run that are compared."""

    class Test(msgspec.Struct):
        test: str
        client: str
        threads: int
        success_rate_pct: float
        throughput_per_s: float
        latency_ms: Milliseconds
        rate_per_s: float | None = None

        @property
        def key(self) -> Key:
            return self.test, self.client, self.threads, self.rate_per_s

    tests: list[Test]


def read_earlier(path: Path) -> Earlier:
    """Read a file of ``--output``.

    Raises:
        UserError: the file cannot be read, or is not the output of a load test, or has no test.
    """
    try:
        earlier = msgspec.json.decode(read_text(path), type=Earlier)
    except UserError as error:
        raise UserError(f"{error}; choose another file with --compare") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not the output of a load test: {reason(error)}; choose another file with --compare"
        ) from error
    if not earlier.tests:
        raise UserError(f"{path} has no test to compare with; choose another file with --compare")
    return earlier


def require_comparable(earlier: Earlier, plans: Sequence[Plan], path: Path) -> None:
    """Check that an earlier run has one of the planned tests.

    Raises:
        UserError: it has none.
    """
    planned = {(plan.test, plan.client, plan.threads, plan.rate_per_s) for plan in plans}
    if not planned & {test.key for test in earlier.tests}:
        raise UserError(nothing_to_compare(path))


def nothing_to_compare(path: Path) -> str:
    return (
        f"nothing to compare: {path} has no test with the same name, client, threads and rate; "
        "run that test again with --output"
    )


def regressions(earlier: Earlier, now: Sequence[Result], margin: float) -> tuple[list[str], int]:
    """Compare with an earlier run: throughput and success of all tests, and p99 latency of paced tests.

    Without a pace, latency only follows from the throughput.

    Args:
        margin: the change that is tolerated; 0.1 is a tenth.

    Returns:
        A line for each regression, and how many tests were compared.
    """
    lines, compared = [], 0
    for result in now:
        for old in earlier.tests:
            if old.key != (result.test, result.client, result.threads, result.rate_per_s):
                continue
            compared += 1
            what = f"{result.test} with {result.client} and {result.threads} threads:"
            if result.throughput_per_s < old.throughput_per_s * (1 - margin):
                change = 100 * (1 - result.throughput_per_s / old.throughput_per_s)
                lines.append(
                    f"{what} {result.throughput_per_s:,.0f}/s, {change:.0f} % less than {old.throughput_per_s:,.0f}/s"
                )
            if result.success_rate_pct < old.success_rate_pct:
                lines.append(f"{what} success {result.success_rate_pct:.2f} %, it was {old.success_rate_pct:.2f} %")
            p99, before = result.latency_ms.p99, old.latency_ms.p99
            if result.rate_per_s and p99 and before and p99 > max(before * (1 + margin), LATENCY_FLOOR_MS):
                lines.append(f"{what} latency p99 {in_ms(p99)}, it was {in_ms(before)}")
            break
    return lines, compared
