"""A real cluster of three nodes: it survives dead nodes, starts them again, keeps its data, and stops completely."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from iot.broker.broker import find_free_port
from iot.broker.cluster import Cluster
from iot.kafka.sender import CLIENTS
from iot.kafka.topics import ensure_topics, make_admin, topic_configs, topic_id
from iot.settings import ALARMS_TOPIC, ALERTS_TOPIC, READINGS_TOPIC, REJECTED_TOPIC, Kafka
from tests.support.scripts import read_until, started
from tests.support.topics import read_back

ROOT = Path(__file__).parents[3]
OURS = (READINGS_TOPIC, ALERTS_TOPIC, ALARMS_TOPIC, REJECTED_TOPIC)
SERVERS = r"localhost:\d+,localhost:\d+,localhost:\d+"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(3, find_free_port(), tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def watching(cluster: Cluster, eventually) -> Callable[[Callable[[], object]], list[str]]:
    """``watching(condition)`` looks after the cluster until the condition is true; returns what it said."""

    def wait(condition: Callable[[], object]) -> list[str]:
        said: list[str] = []

        def look() -> bool:
            said.extend(cluster.watch(time.monotonic()))
            return bool(condition())

        with pytest.MonkeyPatch.context() as patch:
            # A node that is started again belongs to all tests, so none of them ends it.
            patch.delenv("PYTEST_CURRENT_TEST", raising=False)
            eventually(look, 60)
        return said

    return wait


def in_sync(kafka: Kafka, topic: str) -> list[list[int]]:
    """The nodes that have all of each partition; nothing if the client asks a node that died a moment ago."""
    with suppress(KafkaError), make_admin(kafka) as admin:
        return [sorted(partition["isr_nodes"]) for partition in admin.describe_topics([topic])[0]["partitions"]]
    return []


def processes_of(folder: Path) -> list[str]:
    """The JVMs that run in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(process.name)
        except OSError:
            continue
    return found


def send(servers: str, topic: str, values: list[bytes]) -> None:
    """Send values, and return once they are acknowledged by all copies that are in sync."""
    producer = KafkaProducer(bootstrap_servers=servers.split(","), acks="all")
    for sent in [producer.send(topic, value) for value in values]:
        sent.get(60)
    producer.close()


def values_of(servers: str, topic: str) -> list[bytes]:
    return sorted(value for records in read_back(servers, topic).values() for _, value in records)


def test_topics_have_a_copy_on_each_node_and_two_are_needed(cluster, eventually):
    for topic in OURS:
        eventually(lambda topic=topic: in_sync(cluster.kafka, topic) == [[1, 2, 3]] * 3, 30)
    with make_admin(cluster.kafka) as admin:
        assert {found["min.insync.replicas"] for found in topic_configs(admin, list(OURS), "all").values()} == {"2"}


def test_a_killed_node_stops_nothing_and_is_started_again(cluster, watching, eventually):
    topic = "survives-one"
    ensure_topics(cluster.kafka, [topic])
    send(cluster.bootstrap_servers, topic, [b"before"])
    killed = cluster.nodes[0]
    first = killed.pid
    os.kill(first, signal.SIGKILL)
    # Nobody watches, so the other two are alone: they write, and they agree on a new topic.
    send(cluster.bootstrap_servers, topic, [b"meanwhile"])
    eventually(lambda: in_sync(cluster.kafka, topic) == [[2, 3]] * 3, 30)
    ensure_topics(cluster.kafka, ["made-by-two"])
    eventually(lambda: [len(nodes) for nodes in in_sync(cluster.kafka, "made-by-two")] == [2, 2, 2], 30)

    said = watching(lambda: in_sync(cluster.kafka, topic) == [[1, 2, 3]] * 3)
    assert said == [
        f"node 1 ({killed.address}) was killed by signal 9: starting it again in 1 s",
        f"node 1 ({killed.address}) is back, process {killed.pid}",
    ]
    assert killed.pid != first
    assert values_of(killed.address, topic) == [b"before", b"meanwhile"]


def test_topics_are_created_and_found_while_a_node_is_dying(cluster, watching):
    killed = cluster.nodes[1].pid
    os.kill(killed, signal.SIGKILL)
    # The others still name the dead node for some seconds.
    names = [f"born-in-a-failure-{number}" for number in range(8)]
    for name in names:
        ensure_topics(cluster.kafka, [name])
        assert topic_id(cluster.kafka, name)
    watching(lambda: cluster.nodes[1].pid != killed)
    watching(lambda: all(in_sync(cluster.kafka, name) == [[1, 2, 3]] * 3 for name in names))


def test_most_nodes_may_die_and_all_acknowledged_messages_are_there_afterwards(cluster, watching):
    topic = "survives-two"
    ensure_topics(cluster.kafka, [topic])
    values = [str(number).encode() for number in range(1000, 2000)]
    send(cluster.bootstrap_servers, topic, values)
    killed = {node.pid for node in cluster.nodes[1:]}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    watching(lambda: not killed & {node.pid for node in cluster.nodes})
    send(cluster.bootstrap_servers, topic, [b"after"])
    assert values_of(cluster.bootstrap_servers, topic) == [*values, b"after"]


@contextmanager
def running(port: int, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """``python -m iot.broker --nodes 3`` once it is ready, and the lines that say so."""
    flags = ["--nodes", "3", "--port", str(port), "--data-dir", str(folder)]
    with started(
        [sys.executable, "-m", "iot.broker", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = [process.stdout.readline() for _ in range(6)]
        assert re.match(r"Kafka 4.4.0 is ready with 3 nodes \(after .* s\); Ctrl-C stops them$", lines[0]), (
            process.stderr.read()
        )
        yield process, lines


def test_one_command_runs_a_cluster_that_keeps_its_data(tmp_path, eventually):
    port = find_free_port()
    with running(port, tmp_path) as (process, lines):
        servers = re.fullmatch(rf"  --bootstrap-servers (localhost:{port},{SERVERS.split(',', 1)[1]})\n", lines[1])[1]
        pids = [int(re.search(r"process (\d+)", line)[1]) for line in lines[2:5]]
        send(servers, READINGS_TOPIC, [b"kept"])
        os.kill(pids[1], signal.SIGKILL)
        assert re.fullmatch(
            r"node 2 \(localhost:\d+\) was killed by signal 9: starting it again in 1 s\n", process.stdout.readline()
        )
        assert re.match(r"node 2 \(localhost:\d+\) is back, process \d+$", process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert re.fullmatch(r"Kafka stopped after \d+ s; its data stays in .*\n", process.stdout.read())
        assert process.stderr.read() == ""
    assert processes_of(tmp_path) == []

    # Another port, and so other controllers, for the same data.
    with running(find_free_port(), tmp_path) as (process, lines):
        servers = re.search(SERVERS, lines[1])[0]
        assert values_of(servers, READINGS_TOPIC) == [b"kept"]
        assert len(processes_of(tmp_path)) == 3
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            # Signals within half a second are one request.
            process.wait(0.6)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 130
        eventually(lambda: not processes_of(tmp_path), 10)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_a_stop_during_the_start_leaves_nothing(number, status, tmp_path, eventually):
    flags = ["--nodes", "3", "--port", str(find_free_port()), "--data-dir", str(tmp_path)]
    with started([sys.executable, "-m", "iot.broker", *flags], cwd=ROOT) as process:
        eventually(lambda: len(processes_of(tmp_path)) == 3 and (tmp_path / "node-3" / "kafka").exists(), 30)
        process.send_signal(number)
        assert process.wait(60) == status
    eventually(lambda: not processes_of(tmp_path), 10)


def producer(cluster: Cluster, topic: str, client: str) -> subprocess.Popen[str]:
    flags = ["--topic", topic, "--client", client, "--sensors", "20", "--rate", "300"]
    return subprocess.Popen(
        [sys.executable, "iot_producer.py", "--bootstrap-servers", cluster.bootstrap_servers, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, int]:
    """Stop a producer with Ctrl-C; return the numbers of its summary."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), out
    names = "sent|acknowledged|failed"
    return {name: int(number.replace(",", "")) for name, number in re.findall(rf"^({names}):? ([\d,]+)", out, re.M)}


def require_each_once(cluster: Cluster, topic: str, number: int) -> None:
    """Assert that a topic has this number of readings, and each of them once."""
    readings = [json.loads(value) for value in values_of(cluster.bootstrap_servers, topic)]
    by_sensor: dict[str, list[int]] = {}
    for reading in readings:
        by_sensor.setdefault(reading["sensor_id"], []).append(reading["sequence"])
    assert len(readings) == number
    assert all(sorted(each) == list(range(len(each))) for each in by_sensor.values())


def test_producers_lose_and_double_nothing_while_most_nodes_are_dead(cluster, watching, eventually):
    topics = {client: f"outage-{client}" for client in CLIENTS}
    ensure_topics(cluster.kafka, topics.values())
    processes = {client: producer(cluster, topic, client) for client, topic in topics.items()}
    for topic in topics.values():
        eventually(lambda topic=topic: len(values_of(cluster.bootstrap_servers, topic)) > 200, 60)
    killed = {node.pid for node in cluster.nodes[:2]}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    for process in processes.values():
        said = read_until(process, r"Kafka at .* has acknowledged nothing for 3 s")
        assert re.search(
            r"has acknowledged nothing for 3 s \(broker \d at 127.0.0.1:\d+ refuses connections; (broker .*; )?"
            r"start what is down again\); retrying until it does, all messages are kept\n$",
            said,
        )
    watching(lambda: not killed & {node.pid for node in cluster.nodes})
    for process in processes.values():
        read_until(process, r"Kafka at .* is back after \d+ s$")
    # It is back for a producer when one partition is. A stop would not wait for long for the others.
    for topic in topics.values():
        eventually(lambda topic=topic: in_sync(cluster.kafka, topic) == [[1, 2, 3]] * 3, 60)
    for client, process in processes.items():
        counts = finish(process)
        assert counts["sent"] == counts["acknowledged"] > 300 * 5
        assert counts["failed"] == 0
        require_each_once(cluster, topics[client], counts["sent"])


def test_too_few_copies_are_named_and_the_messages_are_kept(cluster, watching, eventually):
    topics = {client: f"short-{client}" for client in CLIENTS}
    ensure_topics(cluster.kafka, topics.values())
    for topic in topics.values():
        eventually(lambda topic=topic: in_sync(cluster.kafka, topic) == [[1, 2, 3]] * 3, 30)
        # Two copies are in sync without the node that is killed, and the topic asks for three.
        require_copies(cluster.kafka, topic, 3)
    killed = cluster.nodes[2].pid
    os.kill(killed, signal.SIGKILL)
    for topic in topics.values():
        eventually(lambda topic=topic: in_sync(cluster.kafka, topic) == [[1, 2]] * 3, 30)
    processes = {client: producer(cluster, topic, client) for client, topic in topics.items()}
    for client, process in processes.items():
        assert (
            f"(too few brokers are up: partitions 0, 1, 2 of {topics[client]} have 2 in-sync copies, "
            "min.insync.replicas is 3); retrying until it does, all messages are kept"
        ) in read_until(process, r"Kafka at .* has acknowledged nothing for 3 s")
    watching(lambda: cluster.nodes[2].pid != killed)
    for client, process in processes.items():
        read_until(process, r"Kafka at .* is back after \d+ s$")
        counts = finish(process)
        assert counts["sent"] == counts["acknowledged"]
        assert counts["failed"] == 0
        require_each_once(cluster, topics[client], counts["sent"])


def require_copies(kafka: Kafka, topic: str, number: int) -> None:
    """Set how many in-sync copies a topic needs to acknowledge a write."""
    with make_admin(kafka) as admin:
        wanted = {"min.insync.replicas": str(number)}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=wanted)])
