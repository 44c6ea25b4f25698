"""Which alerts a range of readings must raise, and which there are: both read back from Kafka."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from iot.alerts import DEFAULT_RULES, Alert, Rules, alert_id, broken_bound
from iot.batches import Offsets
from iot.kafka.client_config import confluent_config
from iot.kafka.offsets import end_offsets
from iot.loadtest.follow import AT_ONCE, MAX_NAMED, POLL_S
from iot.loadtest.latency import Milliseconds
from iot.loadtest.results import Stage
from iot.processes import Stopped
from iot.readings import Rejected, decode
from iot.settings import ALERTS_TOPIC, Kafka, UserError, reason

_decode_alert = msgspec.json.Decoder(Alert).decode


def expected_alerts(
    kafka: Kafka, topic: str, begin: Offsets, end: Offsets, stop: threading.Event, rules: Rules = DEFAULT_RULES
) -> set[str]:
    """The ids of the alerts that the readings from ``begin`` to before ``end`` raise.

    Raises:
        UserError: the readings cannot be read.
        Stopped: ``stop`` was set meanwhile.
    """
    found = set()
    for partition, offset, value in read_range(kafka, topic, begin, end, stop):
        try:
            reading = decode(value)
        except Rejected:
            continue
        if broken_bound(reading, rules):
            found.add(alert_id(topic, partition, offset))
    return found


def compare_alerts(kafka: Kafka, topic: str, begin: Offsets, expected: set[str], stop: threading.Event) -> Stage:
    """Compare the alerts in their topic, from ``begin`` on, with those expected.

    Spark may write an alert twice, with the same id. This counts once, as it does in the results.

    Raises:
        UserError: the alerts cannot be read.
        Stopped: ``stop`` was set meanwhile.
    """
    times = Counter(
        alert.alert_id
        for _, _, value in read_range(kafka, ALERTS_TOPIC, begin, end_offsets(kafka, ALERTS_TOPIC), stop)
        for alert in [_decode_alert(value or b"")]
        if alert.alert_id.startswith(f"{topic}-")
    )
    lost, wrong = expected - times.keys(), times.keys() - expected
    which = [f"lost {name}" for name in sorted(lost)[:MAX_NAMED]]
    which += [f"not expected: {name}" for name in sorted(wrong)[:MAX_NAMED]]
    if repeats := times.total() - len(times):
        which.append(f"{repeats:,} written once more with the same id, which counts once")
    return Stage(
        name=f"alert in {ALERTS_TOPIC}",
        expected=len(expected),
        arrived=len(times),
        lost=len(lost),
        doubled=len(wrong),
        latency_ms=Milliseconds(),
        is_timed=False,
        which=which,
    )


def read_range(
    kafka: Kafka, topic: str, begin: Offsets, end: Offsets, stop: threading.Event
) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield partition, offset and value of each record from ``begin`` to before ``end``.

    Raises:
        UserError: Kafka does not answer.
        Stopped: ``stop`` was set meanwhile.
    """
    settings = {"group.id": "load-test", "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
    settings |= {"auto.offset.reset": "earliest", "error_cb": lambda _: None, "log_level": 0}
    left = {partition for partition, last in end.items() if last > begin.get(partition, 0)}
    consumer = Consumer(confluent_config(kafka) | settings)
    try:
        consumer.assign([TopicPartition(topic, partition, begin.get(partition, 0)) for partition in sorted(left)])
        while left:
            if stop.is_set():
                raise Stopped("stopped before the end")
            for message in consumer.consume(AT_ONCE, POLL_S):
                if error := message.error():
                    raise UserError(f"cannot read {topic} at {kafka.bootstrap_servers}: {error.str()}")
                partition, offset = message.partition(), message.offset()
                assert partition is not None
                assert offset is not None
                if partition in left and offset < end[partition]:
                    yield partition, offset, message.value()
                if offset >= end[partition] - 1:
                    left.discard(partition)
    except KafkaException as error:
        raise UserError(f"cannot read {topic} at {kafka.bootstrap_servers}: {reason(error)}") from error
    finally:
        consumer.close()
