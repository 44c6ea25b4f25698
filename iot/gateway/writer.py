"""Write readings and refused messages to Kafka: in order, bounded, and each reading of a run once.

A reading counts as written as soon as it is handed to the Kafka client, so that a repeat that comes meanwhile is
recognised; the repeat is acknowledged together with it. If the client ever fails, nobody knows which readings arrived.
Then nothing more is accepted, until ``Keeper`` has read from the topic what is there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from iot.gateway.client import is_too_large, make_producer
from iot.gateway.sequences import Last, Run, Sequences
from iot.gateway.writes import Write
from iot.kafka.sender import Mark
from iot.readings import Message, encode
from iot.settings import REJECTED_TOPIC, Kafka, reason

# Maximum number and size of the messages that wait for Kafka's acknowledgement.
MAX_IN_FLIGHT = 10_000
MAX_IN_FLIGHT_BYTES = 64 << 20
# How often the thread that takes acknowledgements looks whether it should end.
POLL_S = 0.1
# How long to take reports about messages that were given up.
PURGE_S = 5.0


class Refusal(NamedTuple):
    """A message that is no reading, for the dead-letter topic: its bytes, the reason, and the device if it is known."""

    value: bytes
    reason: str
    device: str


class Unavailable(Exception):  # noqa: N818  # a temporary state
    """Nothing can be written now. The text says why."""


class Full(Exception):  # noqa: N818  # a temporary state
    """Too much waits for Kafka's acknowledgement."""


class Writer:
    """Writes to one topic. Threads share it; what one thread hands over is written in that order.

    Attributes:
        counts: ``readings`` and ``refused`` that Kafka acknowledged, and ``repeated`` since the start.
        failure: why the Kafka client failed; empty while it works.
    """

    def __init__(
        self, kafka: Kafka, topic: str, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            say: prints a line.
            clock: returns seconds.
        """
        self._kafka, self._topic, self._say, self._clock = kafka, topic, say, clock
        self._lock = threading.Lock()
        self.sequences = Sequences()
        self.counts: Counter[str] = Counter()
        self.failure = ""
        self._producer: Any = None
        self._polling: threading.Thread | None = None
        self._ended = threading.Event()
        self._closed_why = "the gateway is starting"
        self._is_given_up = False
        self._until_s = -1.0
        self._outstanding: set[Write] = set()
        self._in_flight = self._in_flight_bytes = 0

    # Who may write, and when ----------------------------------------------------------------------------------------

    def open(self, until_s: float) -> None:
        """Accept messages, until ``until_s`` by the clock at first; ``extend`` moves it.

        Raises:
            UserError: the client cannot be made.
        """
        producer = make_producer(self._kafka, self._topic)
        self._ended = ended = threading.Event()
        self._polling = threading.Thread(target=self._poll, args=(producer, ended), name="kafka", daemon=True)
        self._polling.start()
        with self._lock:
            self._producer, self.failure, self._closed_why, self._until_s = producer, "", "", until_s
            self._is_given_up = False

    def extend(self, until_s: float) -> None:
        """Accept messages until then, because nobody else has taken over."""
        self._until_s = until_s

    def close(self, why: str, wait_s: float = 0.0) -> bool:
        """Accept no more messages, wait for the acknowledgements, and give up those that do not come.

        Returns:
            Whether all came.
        """
        with self._lock:
            self._closed_why = why
        deadline_s = time.monotonic() + wait_s
        for write in self.outstanding():
            write.wait(max(0.0, deadline_s - time.monotonic()))
        is_clean = not self.outstanding() and not self.failure
        if (producer := self._producer) is not None:
            self._producer = None
            self._is_given_up = True
            producer.purge()
            # The thread takes the reports about what was purged.
            self._ended.set()
            if self._polling:
                self._polling.join()
        return is_clean

    def problem(self) -> str:
        """Return why nothing is accepted now; empty if it is."""
        if self._closed_why or self.failure:
            return self._closed_why or self.failure
        return f"Kafka at {self._kafka.bootstrap_servers} does not answer" if self._clock() > self._until_s else ""

    # What is written ------------------------------------------------------------------------------------------------

    def write(self, messages: Sequence[Message], refusals: Iterable[Refusal] = ()) -> Write:
        """Hand readings and refused messages to the Kafka client; this never waits.

        Raises:
            Unavailable: Kafka does not answer, or the gateway starts or stops.
            Full: too much waits for an acknowledgement.
        """
        write = Write()
        encoded = [(message, encode(message)) for message in messages]
        refused = list(refusals)
        # Until the end of this method, after the lock is released: the last reference to a mark calls ``_settle``.
        records: list[dict[str, Any]] = []
        marks: list[Mark] = []
        with self._lock:
            if problem := self.problem():
                raise Unavailable(problem)
            size = sum(len(value) for _, value in encoded) + sum(len(each.value) for each in refused)
            if self._in_flight and (
                self._in_flight + len(encoded) + len(refused) > MAX_IN_FLIGHT
                or self._in_flight_bytes + size > MAX_IN_FLIGHT_BYTES
            ):
                raise Full
            earlier: dict[int, Write] = {}
            for message, value in encoded:
                if last := self.sequences.enter(message, write):
                    write.repeated += 1
                    if last.write not in (None, write) and not last.write.is_done:
                        earlier[id(last.write)] = last.write
                    continue
                records.append({"key": message.sensor_id.encode(), "value": value})
            write.readings = len(records)
            self._outstanding.add(write)
            self.counts["repeated"] += write.repeated
            is_queued = not records or self._hand_over(write, records, marks)
            for each in refused:
                self._hand_over_refused(write, each, marks)
        if not is_queued:
            marks[0].end(False)
        for other in earlier.values():
            write.wait_for(other)
        write.on_end(self._forget)
        # Marks of records that the client has dropped by now are dropped here.
        for record in records:
            record.pop("callback", None)
        marks.clear()
        write.end_part()
        return write

    def outstanding(self) -> list[Write]:
        """Return what is not acknowledged yet."""
        with self._lock:
            return list(self._outstanding)

    def take_changes(self) -> tuple[dict[Run, Last | None], Write]:
        """Return the sequences that changed, and what must be acknowledged before they may be saved."""
        with self._lock:
            changes, outstanding = self.sequences.take_changes(), list(self._outstanding)
        barrier = Write()
        for write in outstanding:
            barrier.wait_for(write)
        barrier.end_part()
        return changes, barrier

    def check(self, saved: Mapping[Run, Last | None]) -> None:
        """Save again what an older gateway has overwritten with less."""
        with self._lock:
            self.sequences.check(saved)

    def put_back(self, changes: dict[Run, Last | None]) -> None:
        """Count changes as not taken, because they could not be saved."""
        with self._lock:
            self.sequences.put_back(changes)

    @property
    def in_flight(self) -> int:
        """The number of messages that wait for an acknowledgement."""
        return self._in_flight

    def _hand_over(self, write: Write, records: list[dict[str, Any]], marks: list[Mark]) -> bool:
        """Queue readings, all with one mark, the first of ``marks``; returns whether the client took them."""
        size = sum(len(record["value"]) for record in records)
        part = write.begin_part()
        mark = Mark(partial(self._settle, part, "readings", len(records), size), self._on_failed)
        marks.append(mark)
        for record in records:
            record["callback"] = mark
        self._in_flight += len(records)
        self._in_flight_bytes += size
        queued = self._producer.produce_batch(self._topic, records, on_delivery=self._on_failed)
        if queued < len(records):
            self._on_failed(next(record["_error"] for record in records if "_error" in record), None)
        return bool(queued == len(records))

    def _hand_over_refused(self, write: Write, refused: Refusal, marks: list[Mark]) -> None:
        from confluent_kafka import KafkaException

        size = len(refused.value)
        part = write.begin_part()
        dropped: list[Any] = []

        def on_end(acknowledged: bool) -> None:
            self._settle(part, "refused", 1, size, acknowledged or bool(dropped))

        def on_failed(error: Any, about: Any) -> None:
            if not is_too_large(error):
                self._on_failed(error, about)
                return
            # It will never fit, so its sender must not send it for ever.
            dropped.append(error)
            self._say(f"a refused message of {size:,} bytes does not fit into {REJECTED_TOPIC}, and is dropped")

        mark = Mark(on_end, on_failed)
        marks.append(mark)
        headers = {
            "reason": refused.reason.encode(),
            "source.topic": self._topic.encode(),
            "source.device": refused.device.encode(),
        }
        self._in_flight += 1
        self._in_flight_bytes += size
        key = refused.device.encode() or None
        try:
            self._producer.produce(REJECTED_TOPIC, refused.value, key, headers=headers, on_delivery=mark)
        except KafkaException as error:
            on_failed(error.args[0], None)

    # What becomes of it ---------------------------------------------------------------------------------------------

    def _settle(self, part: Callable[[bool], None], name: str, count: int, size: int, acknowledged: bool) -> None:
        with self._lock:
            # A client that has failed drops marks, too.
            acknowledged = acknowledged and not self.failure and not self._is_given_up
            self._in_flight -= count
            self._in_flight_bytes -= size
            if acknowledged:
                self.counts[name] += count
        part(acknowledged)

    def _forget(self, write: Write) -> None:
        with self._lock:
            self._outstanding.discard(write)

    def _on_failed(self, error: Any, _: Any) -> None:
        if error is not None:
            self.failure = self.failure or error.str()

    def _poll(self, producer: Any, ended: threading.Event) -> None:
        """Take acknowledgements until the end."""
        from confluent_kafka import KafkaException

        while not ended.is_set():
            try:
                producer.poll(POLL_S)
            except KafkaException as error:
                # After a fatal error nothing will be acknowledged.
                self.failure = self.failure or reason(error)
                producer.purge()
        deadline_s = time.monotonic() + PURGE_S
        while len(producer) and time.monotonic() < deadline_s:
            with suppress(KafkaException):
                producer.poll(POLL_S)
