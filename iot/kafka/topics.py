"""Create the topics that are missing, and look up ids and settings of topics."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from iot.kafka import advertised
from iot.kafka.client_config import START_S, kafka_python_config, quiet_kafka_python
from iot.kafka.dial import live_servers
from iot.settings import (
    ALARMS_TOPIC,
    ALERTS_TOPIC,
    PARTITIONS,
    READINGS_TOPIC,
    REJECTED_TOPIC,
    Kafka,
    UserError,
    reason,
)

TOPICS = (READINGS_TOPIC, ALERTS_TOPIC, ALARMS_TOPIC, REJECTED_TOPIC)
# With this replication factor Kafka uses its own setting, default.replication.factor.
BROKER_DEFAULT = -1
# How long to wait before Kafka is asked again.
RETRY_S = 0.2
# How long a topic may need until all servers know it.
SPREAD_S = 5.0

# The timestamp of a record is the broker's clock, never a producer's.
TOPIC_SETTINGS = {"message.timestamp.type": "LogAppendTime"}
# Maximum size of a rejected message: the largest that the readings topic accepts, and the headers.
REJECTED_SETTINGS = {"max.message.bytes": str(2 * 1024 * 1024)}
# Kafka keeps at least the newest state of each alarm.
ALARMS_SETTINGS = {"cleanup.policy": "compact"}
# What the gateway keeps for itself about a readings topic is in a topic of that name with this ending. Kafka keeps at
# least the newest record of each key; small segments let it delete older ones soon.
GATEWAY_SUFFIX = "-gateway-sequences"
GATEWAY_SETTINGS = {"cleanup.policy": "compact", "segment.bytes": str(4 << 20), "min.cleanable.dirty.ratio": "0.2"}
SETTINGS_OF = {REJECTED_TOPIC: REJECTED_SETTINGS, ALARMS_TOPIC: ALARMS_SETTINGS}

T = TypeVar("T")


def ensure_topics(
    kafka: Kafka,
    topics: Iterable[str] = TOPICS,
    partitions: Mapping[str, int | None] | None = None,
    replication_factor: int | None = None,
) -> list[str]:
    """Create the topics that do not exist, and wait until they can be used.

    Args:
        partitions: the number of partitions by topic; ``PARTITIONS`` for a topic without one.
        replication_factor: the number of copies of each partition. None: that of the environment variable
            IOT_REPLICATION_FACTOR, or else the cluster's own.

    Returns:
        Warnings, one line for each broker out of reach, and for each setting in which an existing topic differs.
        Existing topics are not changed.

    Raises:
        UserError: Kafka refuses to create a topic, or does not answer; or the environment variable is no number.
    """
    from kafka.errors import InvalidReplicationFactorError, KafkaError, TopicAlreadyExistsError

    names = list(topics)
    counts = {name: (partitions or {}).get(name) or PARTITIONS for name in names}
    copies = replication_factor or _replication_factor()

    def create(admin: Any) -> list[str]:
        existing = set(admin.list_topics())
        for name in names:
            if name in existing:
                continue
            wanted = {
                "num_partitions": counts[name],
                "replication_factor": copies,
                "configs": topic_settings(name),
            }
            # Another script may create the same topic at this moment.
            with contextlib.suppress(TopicAlreadyExistsError):
                try:
                    admin.create_topics({name: wanted})
                except InvalidReplicationFactorError as error:
                    raise _too_few_brokers(kafka, admin, name, copies) from error
        admin.wait_for_topics(names)
        found = {name: counts[name] for name in names if name in existing}
        return _out_of_reach(kafka, admin) + _differences(admin, found, copies)

    try:
        return _ask(kafka, create)
    except KafkaError as error:
        raise UserError(
            f"cannot create the topics {', '.join(names)} at {kafka.bootstrap_servers}: {why(kafka, error)}"
        ) from error


def _ask(kafka: Kafka, question: Callable[[Any], T]) -> T:
    """Return what ``question`` returns for an admin client.

    A cluster names a broker that was killed for some seconds more, and the client may ask that one. So the question is
    asked again, and must bear that.

    Raises:
        KafkaError: Kafka does not answer.
    """
    from kafka.errors import KafkaConnectionError

    deadline_s = time.monotonic() + START_S
    while True:
        try:
            with make_admin(kafka) as admin:
                return question(admin)
        except KafkaConnectionError:
            if time.monotonic() > deadline_s:
                raise
        time.sleep(RETRY_S)


def _replication_factor() -> int:
    """Return the replication factor of new topics that the environment asks for.

    Raises:
        UserError: it is no number.
    """
    given = os.environ.get("IOT_REPLICATION_FACTOR")
    if not given:
        return BROKER_DEFAULT
    if not re.fullmatch(r"[1-9][0-9]{0,3}", given):
        raise UserError(f"IOT_REPLICATION_FACTOR={given} is not a number of brokers; for example 3")
    return int(given)


def _too_few_brokers(kafka: Kafka, admin: Any, topic: str, copies: int) -> UserError:
    brokers = len(admin.describe_cluster()["brokers"])
    plural = "broker is" if brokers == 1 else "brokers are"
    asked = (
        f"replication factor {copies}"
        if copies != BROKER_DEFAULT
        else "the replication factor of the brokers' configuration"
    )
    return UserError(
        f"cannot create the topic {topic} with {asked} at {kafka.bootstrap_servers}: only {brokers} {plural} "
        f"available; use --replication-factor {brokers}, or several brokers, as python -m iot.broker --nodes 3 starts"
    )


def topic_id(kafka: Kafka, topic: str) -> str:
    """Return Kafka's id of a topic. A topic that is deleted and made again has another id.

    Raises:
        UserError: Kafka does not answer, or the topic does not exist.
    """
    from kafka.errors import KafkaError, UnknownTopicOrPartitionError

    deadline_s = time.monotonic() + SPREAD_S
    try:
        while (described := _ask(kafka, lambda admin: admin.describe_topics([topic])[0]))["error_code"]:
            # Another server than the one that has just created the topic may not know it yet.
            if described["error_code"] != UnknownTopicOrPartitionError.errno or time.monotonic() > deadline_s:
                break
            time.sleep(RETRY_S)
    except KafkaError as error:
        raise UserError(
            f"cannot describe the topic {topic} at {kafka.bootstrap_servers}: {why(kafka, error)}"
        ) from error
    if described["error_code"]:
        raise UserError(f"Kafka at {kafka.bootstrap_servers} has no topic {topic}, or does not let this client see it")
    return str(described["topic_id"])


def shortage(kafka: Kafka, topic: str) -> str:
    """Return which partitions have too few copies to acknowledge a write; empty if none has, or if Kafka is silent."""
    from kafka.errors import KafkaError

    with contextlib.suppress(KafkaError, UserError, OSError, ValueError), make_admin(kafka) as admin:
        partitions = admin.describe_topics([topic])[0]["partitions"]
        needed = int(topic_configs(admin, [topic], "all")[topic].get("min.insync.replicas", "1"))
        short = [each for each in partitions if len(each["isr_nodes"]) < needed]
        if short:
            numbers = ", ".join(str(number) for number in sorted(each["partition_index"] for each in short))
            least = min(len(each["isr_nodes"]) for each in short)
            which = (
                f"partition {numbers} of {topic} has" if len(short) == 1 else f"partitions {numbers} of {topic} have"
            )
            return f"too few brokers are up: {which} {least} in-sync copies, min.insync.replicas is {needed}"
    return ""


def topic_settings(name: str) -> dict[str, str]:
    """Return the settings that a topic of this name should have."""
    of_name = GATEWAY_SETTINGS if name.endswith(GATEWAY_SUFFIX) else SETTINGS_OF.get(name, {})
    return TOPIC_SETTINGS | of_name


def _out_of_reach(kafka: Kafka, admin: Any) -> list[str]:
    """Return one line for each broker of several that cannot be reached at the address that it advertises."""
    cluster = advertised.cluster_of(admin)
    if len(cluster.brokers) == 1:
        return []
    lines = advertised.failures(kafka, live_servers(kafka.bootstrap_servers), cluster)
    return [f"{line}: partitions that it leads wait until it does; {advertised.fix([line])}" for line in lines.values()]


def _differences(admin: Any, partitions: Mapping[str, int], copies: int) -> list[str]:
    """Return one line for each difference; settings that this client may not read count as equal.

    Args:
        partitions: the wanted number of partitions by topic.
        copies: the wanted replication factor; ``BROKER_DEFAULT`` if any will do.
    """
    from kafka.errors import KafkaError

    if not partitions:
        return []
    names = list(partitions)
    lines = []
    other_copies: dict[int, list[str]] = {}
    for topic in sorted(admin.describe_topics(names), key=lambda each: names.index(each["name"])):
        name, found = topic["name"], topic["partitions"]
        if len(found) != partitions[name]:
            lines.append(f"topic {name} has {len(found)} partitions, not {partitions[name]}")
        if copies != BROKER_DEFAULT and (least := min(len(each["replica_nodes"]) for each in found)) != copies:
            other_copies.setdefault(least, []).append(name)
    for number, topics in other_copies.items():
        plural = "topic" if len(topics) == 1 else "topics"
        have = "has" if len(topics) == 1 else "have"
        lines.append(f"{plural} {', '.join(topics)} {have} replication factor {number}, not {copies}")
    with contextlib.suppress(KafkaError):
        for name, settings in topic_configs(admin, names, "all").items():
            for key, wanted in topic_settings(name).items():
                if settings.get(key, wanted) != wanted:
                    lines.append(f"topic {name} has {key}={settings[key]}, not {wanted}")
    return lines


def topic_configs(admin: Any, names: list[str], which: str) -> dict[str, dict[str, str]]:
    """Return the settings of each topic.

    Args:
        which: ``all``, or ``modified`` for those that differ from the broker's defaults.
    """
    from kafka.admin import ConfigResource, ConfigResourceType

    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    described = admin.describe_configs(asked, config_filter=which).get("topic", {})
    return {name: {key: entry["value"] for key, entry in described.get(name, {}).items()} for name in names}


def make_admin(kafka: Kafka) -> Any:
    """Return an admin client, to use in ``with``.

    Raises:
        KafkaError: Kafka does not answer.
    """
    from kafka import KafkaAdminClient

    quiet_kafka_python()
    return KafkaAdminClient(**kafka_python_config(kafka) | {"bootstrap_timeout_ms": 8000, "request_timeout_ms": 10000})


def why(kafka: Kafka, error: BaseException) -> str:
    """Return the address that fails, if Kafka cannot be reached, or else the kind of the error and its text."""
    return advertised.outage(kafka) or describe_error(error)


def describe_error(error: BaseException) -> str:
    """Return the kind of a Kafka error and its text, on one line."""
    return f"{type(error).__name__.removesuffix('Error')}: {reason(error)}"
