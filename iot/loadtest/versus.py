"""Test 6: both clients, Kafka's own tool and the course's method in one run on the same broker.

Each contender sends to its own temporary topic with the same settings. They take turns in alternating order.
The result is the median of the rounds. Runs that were too short have no ratios.
"""

from __future__ import annotations

import math
import statistics
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from iot.kafka.client_config import kafka_python_config
from iot.kafka.topics import ensure_topics
from iot.loadtest import kafka_tool
from iot.loadtest.plan import COURSE, Plan
from iot.loadtest.results import Comparison, Result
from iot.loadtest.trial import grown_by, run_trial
from iot.settings import Kafka, UserError
from iot.terminal import StatusLine

# Minimum duration of a run that has a ratio.
SHORTEST_S = 3.0
# How long a run should take at the rate of the warm-up, which is slower than later rounds.
WANTED_S = 6.0
# Minimum number of messages in a round of a fast contender, and the number in its warm-up.
FAST_MESSAGES, FAST_FIRST = 3_000_000, 300_000


@dataclass(frozen=True)
class ComparisonPlan:
    """The contenders and the size of a comparison."""

    clients: Sequence[str]
    """Those of our clients that take part."""
    messages: int | None
    """Minimum number of messages of each fast contender. None: 3 million."""
    threads: int
    """The number of threads of the course's method and of our clients."""
    rounds: int


@dataclass
class Contender:
    """One that sends: ``first`` messages in the warm-up, and at least ``least`` in each round."""

    name: str
    threads: int
    first: int
    least: int
    run: Callable[[int, str], Result]
    messages: int = 0
    results: list[Result] = field(default_factory=list)

    @property
    def median(self) -> Result:
        """The round with the median throughput; of two, the slower one."""
        ordered = sorted(self.results, key=lambda result: result.throughput_per_s)
        return ordered[(len(ordered) - 1) // 2]


@dataclass
class Found:
    """The result: the median round of each contender, and their ratios."""

    tests: list[Result]
    comparison: list[Comparison]
    is_complete: bool


def compare(plan: ComparisonPlan, kafka: Kafka, status: StatusLine, stop: threading.Event) -> Found:
    """Let all contenders take turns.

    Raises:
        UserError: a contender cannot run, or lost messages.
    """
    contenders = make_contenders(plan, kafka, status, stop)
    for number in range(plan.rounds + 1):
        # Round 0 is the warm-up: it shows how many messages each contender can send.
        order = contenders if number % 2 else contenders[::-1]
        for contender in order:
            if stop.is_set():
                break
            count = contender.messages or contender.first
            with scratch_topic(kafka) as topic:
                result = contender.run(count, topic)
                if (grew_by := grown_by(kafka, topic, {})) != count and not stop.is_set():
                    raise UserError(f"{contender.name}: {count:,} sent, but the topic has {grew_by:,}: {result.error}")
                result.topic_grew_by = grew_by
            what = f"round {number}" if number else "warm-up"
            status.print(
                f"{what}: {contender.name}: {count:,} in {result.duration_s:.1f} s, {result.throughput_per_s:,.0f}/s"
            )
            if number:
                contender.results.append(result)
            else:
                wanted = result.throughput_per_s * WANTED_S
                contender.messages = messages_of(wanted, contender.least, contender.first)
    is_complete = all(len(contender.results) == plan.rounds for contender in contenders)
    if not is_complete:
        return Found([], [], False)
    found = ratios(contenders)
    is_long_enough = all(each.seconds >= SHORTEST_S for each in found)
    return Found([contender.median for contender in contenders], found, is_long_enough)


def messages_of(wanted: float, least: int, first: int) -> int:
    """How many messages to send: a multiple of ``first``, and not less than ``least``."""
    return max(least, math.ceil(wanted / first) * first)


def make_contenders(plan: ComparisonPlan, kafka: Kafka, status: StatusLine, stop: threading.Event) -> list[Contender]:
    threads = plan.threads

    def trial(client: str) -> Callable[[int, str], Result]:
        return lambda count, topic: run_trial(
            Plan(test="compare", client=client, messages=count, threads=threads), kafka, topic, status, stop
        )

    def tool(count: int, topic: str) -> Result:
        return kafka_tool.run(kafka, topic, count, stop)

    least = plan.messages or FAST_MESSAGES
    made = [
        Contender(f"Kafka's {kafka_tool.NAME}", 1, FAST_FIRST, least, tool),
        Contender(f"the course's method, {threads} threads", threads, 1_000, 1_000, trial(COURSE)),
    ]
    if "kafka-python" in plan.clients:
        name = f"kafka-python, {threads} threads"
        made.append(Contender(name, threads, 10_000, 10_000, trial("kafka-python")))
    if "confluent-kafka" in plan.clients:
        name = f"confluent-kafka, {threads} threads"
        made.append(Contender(name, threads, FAST_FIRST, least, trial("confluent-kafka")))
    return made


@contextmanager
def scratch_topic(kafka: Kafka) -> Iterator[str]:
    """A temporary topic with the settings of the topic of readings."""
    from kafka import KafkaAdminClient

    name = f"iot-load-test-{uuid.uuid4().hex[:8]}"
    ensure_topics(kafka, [name])
    try:
        yield name
    finally:
        with KafkaAdminClient(**kafka_python_config(kafka)) as admin:
            admin.delete_topics([name])


def ratios(contenders: Sequence[Contender]) -> list[Comparison]:
    """For each contender, how many times faster it was than the first two; None if a run was too short."""
    medians = [statistics.median(result.throughput_per_s for result in each.results) for each in contenders]
    seconds = [min(result.duration_s for result in each.results) for each in contenders]

    def times(number: int, other: int) -> float | None:
        if min(seconds[number], seconds[other]) < SHORTEST_S:
            return None
        return round(medians[number] / medians[other], 3)

    return [
        Comparison(
            contender.name,
            contender.threads,
            contender.messages,
            [result.throughput_per_s for result in contender.results],
            medians[number],
            seconds[number],
            times(number, 0),
            times(number, 1),
        )
        for number, contender in enumerate(contenders)
    ]


def table(comparison: Sequence[Comparison]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, caption="medians; only runs of at least 3 s have a ratio")
    made.add_column("Sent by")
    for name in ("Messages", "Throughput", "Lowest", "Highest", f"x {kafka_tool.NAME}", "x course"):
        made.add_column(name, justify="right")
    for each in comparison:
        made.add_row(
            each.contender,
            f"{each.messages:,}",
            *(f"{rate:,.0f}/s" for rate in (each.throughput_per_s, min(each.rounds_per_s), max(each.rounds_per_s))),
            *("-" if ratio is None else f"{ratio:,.2f}" for ratio in (each.times_kafka_tool, each.times_course)),
        )
    return made
