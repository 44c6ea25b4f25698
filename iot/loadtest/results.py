"""Results of tests, as ``--output`` writes them."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil

from iot.broker.broker import kafka_version
from iot.loadtest.latency import Curve, LatencySample, Milliseconds
from iot.loadtest.plan import COURSE
from iot.loadtest.process_cpu import ProcessUsage
from iot.loadtest.steps import StepFigures
from iot.loadtest.usage import UsageSample

# The error of a test that only ended early because the script was stopped.
STOPPED = "stopped before the end"


def threads_of(threads: int) -> str:
    return f"{threads} thread{'' if threads == 1 else 's'}"


class Stage(msgspec.Struct, kw_only=True):
    """How many readings or alerts reached one stage on their way through the dashboard, and how late."""

    name: str
    expected: int
    arrived: int
    lost: int
    doubled: int
    latency_ms: Milliseconds
    latency_curve: Curve = []
    which: list[str] = []
    """The first lost or doubled ones, in words."""
    latency_over_time: list[LatencySample] = []
    is_timed: bool = True
    """Whether the latency was to be measured."""


class DrainSample(msgspec.Struct):
    """How much of a backlog was processed, at a moment after the application was started."""

    at_s: float
    messages: int
    alerts: int


class Result(msgspec.Struct, kw_only=True):
    """The result of one test with one client. CPU is in percent of one core. None: it was not measured."""

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
    latency_curve: Curve = []
    latency_over_time: list[LatencySample] = []
    latency_from: str
    latency_of_one_in: int
    warm_up_pct: float
    """The share of each thread's readings that count in all figures except latency and publish delay."""
    rate_per_s: float | None = None
    publish_delay_ms: Milliseconds | None = None
    """How long after it was due a reading was handed to the client."""
    cpu_pct: float | None
    machine_cpu_pct: float | None
    throughput_per_cpu_pct: float | None
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
    process_cpu: list[ProcessUsage] = []
    """The CPU of each process of the system that runs on this machine."""
    max_rate_per_s: float | None = None
    """The highest rate that the system took, of test 8."""
    is_confirmed: bool = False
    """Whether that rate also held in a longer run."""
    gave_out: str = ""
    """What gave out first above that rate, and the figure that shows it."""
    steps: list[StepFigures] = []
    drain_s: float | None = None
    """How long it took to count the backlog of test 9, from the moment that Spark's query ran."""
    drain_alerts_s: float | None = None
    """The same until the last alert was stored."""
    drain_rate_per_s: float | None = None
    drain: list[DrainSample] = []

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
        """Whether every reading was acknowledged and is in the topic; for test 8, whether a rate was confirmed."""
        if self.test == "max-rate":
            return not self.error and self.is_confirmed
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


class ThresholdOutcome(msgspec.Struct):
    """A threshold and the figure of one test. A figure that is missing crosses the threshold."""

    threshold: str
    test: str
    client: str
    threads: int
    value: float | None
    ok: bool

    def __str__(self) -> str:
        is_latency = self.threshold.startswith(Milliseconds.__struct_fields__)
        found = "not measured" if self.value is None else f"{self.value:,.10g}{' ms' if is_latency else ''}"
        return f"threshold {self.threshold} {'kept' if self.ok else 'CROSSED'}: {found} in {self.test}" + (
            f" with {self.client}, {threads_of(self.threads)}" if self.client else ""
        )


class Report(msgspec.Struct, kw_only=True):
    """The results of one run, as ``--output`` writes them."""

    environment: dict[str, str | int | float]
    tests: list[Result]
    comparison: list[Comparison] = []
    thresholds: list[ThresholdOutcome] = []


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


def encode(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=1)
