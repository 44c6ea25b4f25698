"""A topic of the gateway's own: the last sequences, up to where in the readings topic they are known, and the owner.

The topic is compacted and has one partition, so Kafka keeps the newest record of each key, in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from iot.gateway.sequences import Last, Run
from iot.kafka import advertised
from iot.kafka.client_config import confluent_config
from iot.kafka.offsets import CLOSE_MS, TIMEOUT_MS, make_reader, partitions_of
from iot.kafka.topics import GATEWAY_SUFFIX
from iot.settings import Kafka, UserError, reason

OWNER, KNOWN = b"owner", b"known"
# How long a write may take.
WRITE_S = 8.0
# How long a poll waits for records, and how many polls in a row may return nothing.
POLL_MS = 1_000
MAX_EMPTY_POLLS = 10


class Known(msgspec.Struct, frozen=True):
    """All readings of the gateway before these offsets of that topic are in the saved sequences."""

    topic_id: str
    offsets: dict[int, int]


class Owner(msgspec.Struct, frozen=True):
    """The gateway that writes to the topic, and whether it has stopped with everything saved."""

    id: str
    is_closed: bool


class Saved(NamedTuple):
    """What is read from the journal.

    Attributes:
        changes: the sequences, in the order of their last change.
        known: the newest offsets; None if there are none.
        owner: the newest owner; None if there is none.
        has_others: whether another gateway than this one claimed the topic, or released it.
    """

    changes: dict[Run, Last | None]
    known: Known | None
    owner: Owner | None
    has_others: bool


def journal_topic(readings_topic: str) -> str:
    """Return the name of the topic of the gateway's own."""
    return f"{readings_topic}{GATEWAY_SUFFIX}"


def encode_run(run: Run) -> bytes:
    return json.dumps(run).encode()


def encode_last(last: Last | None) -> bytes | None:
    """Return the value of a record; none deletes the key."""
    return None if last is None else json.dumps([last.sequence, last.types]).encode()


def decode(key: bytes | None, value: bytes | None) -> tuple[Run, Last | None] | Known | Owner | None:
    """Return what a record says; None if it is not one of the gateway's."""
    with suppress(ValueError, TypeError, msgspec.MsgspecError):
        if key == OWNER:
            return msgspec.json.decode(value or b"", type=Owner)
        if key == KNOWN:
            return msgspec.json.decode(value or b"", type=Known)
        run_id, sensor_id = json.loads(key or b"")
        if value is None:
            return (run_id, sensor_id), None
        sequence, types = json.loads(value)
        return (run_id, sensor_id), Last(sequence, tuple(types))
    return None


class Journal:
    """Reads and writes the journal of one readings topic. It belongs to one thread.

    Attributes:
        is_taken: whether another gateway owns the topic, by the newest record that was read about it.
    """

    def __init__(self, kafka: Kafka, readings_topic: str, owner_id: str) -> None:
        self._kafka, self._topic, self._id = kafka, journal_topic(readings_topic), owner_id
        self._partition = TopicPartition(self._topic, 0)
        self._reader: KafkaConsumer | None = None
        # Up to where the journal was read.
        self._read_to = 0
        self.is_taken = False

    def read(self, *, from_beginning: bool = False) -> Saved:
        """Return what was written since the last call, or all of it.

        Raises:
            KafkaError: Kafka does not answer.
        """
        if from_beginning:
            self._read_to = 0
        changes: dict[Run, Last | None] = {}
        known: Known | None = None
        owner: Owner | None = None
        has_others = False
        for record in self._records():
            found = decode(record.key, record.value)
            if isinstance(found, Known):
                known = found
            elif isinstance(found, Owner):
                owner = found
                has_others |= found.id != self._id
            elif found:
                # Sequences of an older owner that are saved late are not newer.
                run, last = found
                changes.pop(run, None)
                changes[run] = last
        if owner:
            self.is_taken = owner.id != self._id
        return Saved(changes, known, owner, has_others)

    def claim(self) -> None:
        """Say that this process writes to the topic from now on.

        Raises:
            UserError: it cannot be written.
        """
        self._write({OWNER: msgspec.json.encode(Owner(self._id, False))})

    def release(self) -> None:
        """Say that this process has stopped, with everything saved.

        Raises:
            UserError: it cannot be written.
        """
        self._write({OWNER: msgspec.json.encode(Owner(self._id, True))})

    def save(self, changes: Mapping[Run, Last | None], known: Known) -> None:
        """Save sequences, and then up to where they are known.

        Raises:
            UserError: not all could be written. They can be written again.
        """
        self._write({encode_run(run): encode_last(last) for run, last in changes.items()})
        self._write({KNOWN: msgspec.json.encode(known)})

    def close(self) -> None:
        if self._reader:
            with suppress(KafkaError):
                self._reader.close(autocommit=False, timeout_ms=CLOSE_MS)
            self._reader = None

    def _records(self) -> Iterator[Any]:
        try:
            self._reader = self._reader or make_reader(self._kafka)
            yield from read_range(self._reader, {self._partition: self._read_to})
            self._read_to = self._reader.position(self._partition)
        except KafkaError:
            self.close()
            raise

    def _write(self, records: Mapping[bytes, bytes | None]) -> None:
        """Write records in order and wait for the acknowledgements."""
        if not records:
            return
        from confluent_kafka import KafkaException, Producer

        failures: list[Any] = []
        settings = {
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": int(WRITE_S * 1000),
            "linger.ms": 0,
            "log_level": 0,
        }
        try:
            producer = Producer(confluent_config(self._kafka) | settings)
            for key, value in records.items():
                while True:
                    try:
                        producer.produce(
                            self._topic, value, key, partition=0, on_delivery=lambda error, _: failures.append(error)
                        )
                        break
                    except BufferError:
                        producer.poll(0.1)
            left = producer.flush(WRITE_S + 1)
        except KafkaException as error:
            raise self._cannot_write(reason(error)) from error
        failed = [error for error in failures if error is not None]
        if failed or left:
            raise self._cannot_write(failed[0].str() if failed else "it does not answer")

    def _cannot_write(self, why: str) -> UserError:
        why = advertised.outage(self._kafka) or why
        return UserError(f"cannot write {self._topic} at {self._kafka.bootstrap_servers}: {why}")


def read_range(reader: KafkaConsumer, starts: Mapping[TopicPartition, int]) -> Iterator[Any]:
    """Yield the records of each partition from an offset up to its present end.

    Raises:
        KafkaError: Kafka does not answer.
        UserError: the end is not reached.
    """
    partitions = list(starts)
    reader.assign(partitions)
    firsts = reader.beginning_offsets(partitions, timeout_ms=TIMEOUT_MS)
    ends = reader.end_offsets(partitions, timeout_ms=TIMEOUT_MS)
    for partition, start in starts.items():
        # What is older was deleted by Kafka.
        reader.seek(partition, min(max(start, firsts[partition]), ends[partition]))
    empty_polls = 0
    while any(reader.position(partition) < ends[partition] for partition in partitions):
        records = [record for batch in reader.poll(POLL_MS).values() for record in batch]
        yield from records
        empty_polls = 0 if records else empty_polls + 1
        if empty_polls == MAX_EMPTY_POLLS:
            raise UserError(f"cannot read {partitions[0].topic} to its end: Kafka stopped answering")


def partitions(reader: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return the partitions of a topic.

    Raises:
        UserError: it does not exist.
    """
    if found := partitions_of(reader, topic):
        return found
    raise UserError(f"topic {topic} does not exist any more: start again, which creates it")
