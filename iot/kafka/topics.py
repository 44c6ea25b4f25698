"""Create the topics that are missing, and look up ids and settings of topics."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from typing import Any

from iot.kafka import advertised
from iot.kafka.client_config import kafka_python_config, quiet_kafka_python
from iot.kafka.dial import live_servers
from iot.settings import ALERTS_TOPIC, PARTITIONS, READINGS_TOPIC, REJECTED_TOPIC, Kafka, UserError, reason

TOPICS = (READINGS_TOPIC, ALERTS_TOPIC, REJECTED_TOPIC)
# With this replication factor Kafka uses its own setting, default.replication.factor.
BROKER_DEFAULT = -1

# The timestamp of a record is the broker's clock, never a producer's.
TOPIC_SETTINGS = {"message.timestamp.type": "LogAppendTime"}
# Maximum size of a rejected message: the largest that the readings topic accepts, and the headers.
REJECTED_SETTINGS = {"max.message.bytes": str(2 * 1024 * 1024)}


def ensure_topics(kafka: Kafka, topics: Iterable[str] = TOPICS) -> list[str]:
    """Create the topics that do not exist, and wait until they can be used.

    The environment variable IOT_REPLICATION_FACTOR sets the replication factor (default: the broker's).

    Returns:
        Warnings, one line for each broker out of reach, and for each setting in which an existing topic differs.
        Existing topics are not changed.

    Raises:
        UserError: Kafka refuses to create a topic, or does not answer; or the environment variable is no number.
    """
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    names, replication_factor = list(topics), _replication_factor()
    try:
        with make_admin(kafka) as admin:
            existing = set(admin.list_topics())
            for name in names:
                if name in existing:
                    continue
                wanted = {
                    "num_partitions": PARTITIONS,
                    "replication_factor": replication_factor,
                    "configs": topic_settings(name),
                }
                # Another script may create the same topic at this moment.
                with contextlib.suppress(TopicAlreadyExistsError):
                    admin.create_topics({name: wanted})
            admin.wait_for_topics(names)
            return _out_of_reach(kafka, admin) + _differences(admin, [name for name in names if name in existing])
    except KafkaError as error:
        raise UserError(
            f"cannot create the topics {', '.join(names)} at {kafka.bootstrap_servers}: {why(kafka, error)}"
        ) from error


def _replication_factor() -> int:
    given = os.environ.get("IOT_REPLICATION_FACTOR")
    if not given:
        return BROKER_DEFAULT
    if not re.fullmatch(r"[1-9][0-9]{0,3}", given):
        raise UserError(f"IOT_REPLICATION_FACTOR={given} is not a number of brokers; for example 3")
    return int(given)


def topic_id(kafka: Kafka, topic: str) -> str:
    """Return Kafka's id of a topic. A topic that is deleted and made again has another id.

    Raises:
        UserError: Kafka does not answer, or the topic does not exist.
    """
    from kafka.errors import KafkaError

    try:
        with make_admin(kafka) as admin:
            described = admin.describe_topics([topic])[0]
    except KafkaError as error:
        raise UserError(
            f"cannot describe the topic {topic} at {kafka.bootstrap_servers}: {why(kafka, error)}"
        ) from error
    if described["error_code"]:
        raise UserError(f"Kafka at {kafka.bootstrap_servers} has no topic {topic}, or does not let this client see it")
    return str(described["topic_id"])


def topic_settings(name: str) -> dict[str, str]:
    """Return the settings that a topic of this name should have."""
    return TOPIC_SETTINGS | (REJECTED_SETTINGS if name == REJECTED_TOPIC else {})


def _out_of_reach(kafka: Kafka, admin: Any) -> list[str]:
    """Return one line for each broker of several that cannot be reached at the address that it advertises."""
    cluster = advertised.cluster_of(admin)
    if len(cluster.brokers) == 1:
        return []
    lines = advertised.failures(kafka, live_servers(kafka.bootstrap_servers), cluster)
    return [f"{line}: partitions that it leads wait until it does; {advertised.FIX}" for line in lines.values()]


def _differences(admin: Any, names: list[str]) -> list[str]:
    """Return one line for each difference; settings that this client may not read count as equal."""
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
