"""The topics of any Kafka: made as the contract says where they are missing, and what they are like."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

from iot.kafka.connect import kafka_python_config, quiet_kafka_python
from iot.settings import ALERTS_TOPIC, PARTITIONS, READINGS_TOPIC, REJECTED_TOPIC, Kafka, UserError, reason

TOPICS = (READINGS_TOPIC, ALERTS_TOPIC, REJECTED_TOPIC)
BROKERS_DEFAULT = -1

# Kafka's timestamp of a record is the broker's clock, never a producer's.
TOPIC_SETTINGS = {"message.timestamp.type": "LogAppendTime"}
# A rejected message is kept as it came, and its headers come on top of what the topic of readings lets in.
REJECTED_SETTINGS = {"max.message.bytes": str(2 * 1024 * 1024)}


def ensure_topics(kafka: Kafka, topics: Iterable[str] = TOPICS) -> list[str]:
    """Make the missing ones among these topics as the contract says, and wait until they can be used.

    They are replicated as the environment's IOT_REPLICATION_FACTOR says, or else as Kafka itself has it by default.

    Returns:
        Warnings, a line for each difference of a topic that was there before; it is left as it is.

    Raises:
        UserError: Kafka refuses to make a topic, or cannot be reached.
    """
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    names = list(topics)
    try:
        with make_admin(kafka) as admin:
            existing = set(admin.list_topics())
            for name in names:
                if name in existing:
                    continue
                wanted = {
                    "num_partitions": PARTITIONS,
                    "replication_factor": int(os.environ.get("IOT_REPLICATION_FACTOR") or BROKERS_DEFAULT),
                    "configs": topic_settings(name),
                }
                # Another script may make the same topic at this moment.
                with contextlib.suppress(TopicAlreadyExistsError):
                    admin.create_topics({name: wanted})
            admin.wait_for_topics(names)
            return _differences(admin, [name for name in names if name in existing])
    except KafkaError as error:
        raise UserError(
            f"cannot make the topics {', '.join(names)} at {kafka.bootstrap_servers}: {say(error)}"
        ) from error


def topic_id(kafka: Kafka, topic: str) -> str:
    """Kafka's id of a topic: made anew, a topic of the same name has another.

    Raises:
        UserError: Kafka cannot be reached, or there is no such topic.
    """
    from kafka.errors import KafkaError

    try:
        with make_admin(kafka) as admin:
            told = admin.describe_topics([topic])[0]
    except KafkaError as error:
        raise UserError(f"cannot ask Kafka at {kafka.bootstrap_servers} about {topic}: {say(error)}") from error
    if told["error_code"]:
        raise UserError(f"Kafka at {kafka.bootstrap_servers} has no topic {topic}")
    return str(told["topic_id"])


def topic_settings(name: str) -> dict[str, str]:
    """What the contract sets on a topic of that name."""
    return TOPIC_SETTINGS | (REJECTED_SETTINGS if name == REJECTED_TOPIC else {})


def _differences(admin: Any, names: list[str]) -> list[str]:
    """A line for each difference from the contract; a Kafka that does not let its settings be read has none there."""
    from kafka.errors import KafkaError

    if not names:
        return []
    lines = []
    for topic in admin.describe_topics(names):
        if len(topic["partitions"]) != PARTITIONS:
            lines.append(f"topic {topic['name']} has {len(topic['partitions'])} partitions, not {PARTITIONS}")
    with contextlib.suppress(KafkaError):
        for name, found in topic_configs(admin, names, "all").items():
            for key, wanted in topic_settings(name).items():
                if found.get(key, wanted) != wanted:
                    lines.append(f"topic {name} has {key}={found[key]}, not {wanted}")
    return lines


def topic_configs(admin: Any, names: list[str], which: str) -> dict[str, dict[str, str]]:
    """The settings of topics: all, or those ``modified``."""
    from kafka.admin import ConfigResource, ConfigResourceType

    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    told = admin.describe_configs(asked, config_filter=which).get("topic", {})
    return {name: {key: entry["value"] for key, entry in told.get(name, {}).items()} for name in names}


def make_admin(kafka: Kafka) -> Any:
    """A client for questions and orders about topics and groups; use it in ``with``."""
    from kafka import KafkaAdminClient

    quiet_kafka_python()
    return KafkaAdminClient(**kafka_python_config(kafka) | {"bootstrap_timeout_ms": 8000, "request_timeout_ms": 10000})


def say(error: BaseException) -> str:
    """An error of Kafka's in a few words."""
    return f"{type(error).__name__.removesuffix('Error')}: {reason(error)}"
