"""Tables for the terminal: topics with their offsets, and consumer groups with their lag."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from iot.kafka.topics import make_admin, topic_configs
from iot.settings import Kafka


def topics_table(kafka: Kafka) -> Table:
    """Return a row per partition of each topic: its offsets, its number of messages, and the topic's own settings.

    Raises:
        KafkaError: Kafka does not answer.
    """
    from kafka import TopicPartition
    from kafka.admin import OffsetSpec

    table = _table("Topic", "Partition>", "First offset>", "End offset>", "Messages>", "Settings")
    with make_admin(kafka) as admin:
        topics = sorted((t for t in admin.describe_topics() if not t["is_internal"]), key=lambda topic: topic["name"])
        partitions = {
            topic["name"]: [TopicPartition(topic["name"], i) for i in range(len(topic["partitions"]))]
            for topic in topics
        }
        every = [partition for of_topic in partitions.values() for partition in of_topic]
        first = admin.list_partition_offsets(dict.fromkeys(every, OffsetSpec.EARLIEST)) if every else {}
        end = admin.list_partition_offsets(dict.fromkeys(every, OffsetSpec.LATEST)) if every else {}
        configs = topic_configs(admin, list(partitions), "modified") if every else {}
    for name, of_topic in partitions.items():
        # One setting beside each partition; the last row has all that are left.
        texts = [f"{key}={value}" for key, value in sorted(configs[name].items())]
        for row, partition in enumerate(of_topic):
            begin_offset, end_offset = first[partition].offset, end[partition].offset
            beside = texts[row : row + 1] if row < len(of_topic) - 1 else texts[row:]
            table.add_row(
                name if row == 0 else "",
                str(partition.partition),
                f"{begin_offset:,}",
                f"{end_offset:,}",
                f"{end_offset - begin_offset:,}",
                ", ".join(beside),
            )
        total = sum(end[partition].offset - first[partition].offset for partition in of_topic)
        table.add_row("", "all", "", "", f"{total:,}", "", end_section=True)
    return table


def groups_table(kafka: Kafka) -> Table:
    """Return a row per consumer group and partition: its reader, the committed offset, and the lag.

    Raises:
        KafkaError: Kafka does not answer.
    """
    from kafka import TopicPartition
    from kafka.admin import OffsetSpec

    table = _table("Group", "State", "Member", "Topic", "Partition>", "Committed>", "End offset>", "Lag>")
    with make_admin(kafka) as admin:
        states = {group["group_id"]: group.get("group_state", "") for group in admin.list_groups()}
        described = admin.describe_groups(list(states)) if states else {}
        committed = admin.list_group_offsets(list(states)) if states else {}
        topics = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics()}
        readers = {group: _readers(described.get(group, {}), TopicPartition) for group in states}
        every = {
            partition
            for group in states
            for partition in committed.get(group, {}) | readers[group]
            if partition.partition < topics.get(partition.topic, 0)
        }
        end = admin.list_partition_offsets(dict.fromkeys(every, OffsetSpec.LATEST)) if every else {}
    for group in sorted(states):
        rows = sorted(committed.get(group, {}).keys() | readers[group].keys())
        head = [group, states[group]]
        for partition in rows:
            offset = committed.get(group, {}).get(partition)
            at = offset.offset if offset and offset.offset >= 0 else None
            until = end[partition].offset if partition in end else None
            table.add_row(
                *head,
                readers[group].get(partition, ""),
                partition.topic,
                str(partition.partition),
                "-" if at is None else f"{at:,}",
                "-" if until is None else f"{until:,}",
                "-" if at is None or until is None else f"{until - at:,}",
            )
            head = ["", ""]
        if not rows:
            table.add_row(*head)
        table.add_section()
    return table


def _readers(group: dict[str, Any], make_partition: Any) -> dict[Any, str]:
    """Return the member that reads each partition; nothing if the group's protocol does not say."""
    return {
        make_partition(assigned["topic"], number): member["client_id"] + member["client_host"]
        for member in group.get("members", [])
        for assigned in (member.get("member_assignment") or {}).get("assigned_partitions", [])
        for number in assigned["partitions"]
    }


def _table(*columns: str) -> Table:
    """Return a table with these columns. A name that ends in ``>`` is a column of numbers, aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return table
