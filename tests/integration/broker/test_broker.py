"""The embedded broker: it starts, keeps its data, reports errors in one line, and stops cleanly."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource

from iot.addresses import Address, parse_addresses
from iot.broker.broker import Broker, find_free_port, has_ipv6_loopback
from iot.kafka import advertised
from iot.kafka.connect import require_broker
from iot.kafka.topics import TOPICS, ensure_topics
from iot.settings import ALARMS_TOPIC, ALERTS_TOPIC, READINGS_TOPIC, REJECTED_TOPIC, Kafka, UserError
from tests.support.scripts import ROOT, started


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "iot.broker", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def running(port: int, data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``python -m iot.broker`` once it is ready, and the process id of its JVM."""
    arguments = command("--port", port, "--data-dir", data_dir)
    with started(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        ready = re.match(rf"Kafka 4.4.0 is ready on localhost:{port} \(process (\d+), ", process.stdout.readline())
        assert ready, process.stderr.read() if process.stderr else ""
        yield process, int(ready[1])


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def send(bootstrap_servers: str, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers)
    for value in values:
        producer.send(topic, value, partition=0).get(30)
    producer.close()


def test_topics_are_as_in_the_contract(broker):
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    described = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(list(TOPICS))}
    assert described == {READINGS_TOPIC: 3, ALERTS_TOPIC: 3, ALARMS_TOPIC: 3, REJECTED_TOPIC: 3}
    asked = [ConfigResource("TOPIC", name) for name in TOPICS]
    configs = admin.describe_configs(asked, config_filter="all")["topic"]
    assert {configs[name]["message.timestamp.type"]["value"] for name in TOPICS} == {"LogAppendTime"}
    assert configs[REJECTED_TOPIC]["max.message.bytes"]["value"] == str(2 * 1024 * 1024)
    assert configs[ALARMS_TOPIC]["cleanup.policy"]["value"] == "compact"
    admin.close()


def test_it_listens_on_loopback_only(broker):
    properties = (broker.data_dir / "server.properties").read_text()
    listeners = re.search(r"^listeners=(.*)$", properties, re.MULTILINE)[1]
    hosts = [entry.split("://")[1].rpartition(":")[0] for entry in listeners.split(",")]
    assert hosts == ["127.0.0.1", *["[::1]"] * has_ipv6_loopback(), "127.0.0.1"]


@pytest.mark.parametrize("host", ["127.0.0.1", *["[::1]"] * has_ipv6_loopback(), "localhost", "LOCALHOST"])
def test_it_advertises_an_address_that_it_listens_on(broker, host):
    kafka = Kafka(f"{host}:{broker.port}")
    require_broker(kafka)
    cluster = advertised.ask(kafka, parse_addresses(kafka.bootstrap_servers)[0])
    assert cluster.brokers == {1: Address("127.0.0.1", broker.port)}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", *["::1", "::"] * has_ipv6_loopback()])
def test_a_port_that_something_else_uses_is_an_error(host, tmp_path):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^port {port} is already in use.* with --port$"):
            Broker(port, tmp_path).start()
    assert not (tmp_path / "broker.log").exists()


def test_it_creates_no_topic_by_itself(broker):
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    admin.describe_topics(["never-asked-for"])
    assert "never-asked-for" not in admin.list_topics()
    admin.close()


def test_existing_topics_are_not_changed_and_differences_are_warnings(broker):
    name = "made-by-someone-else"
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    assert ensure_topics(broker.kafka, [READINGS_TOPIC, name]) == [
        f"topic {name} has 1 partitions, not 3",
        f"topic {name} has message.timestamp.type=CreateTime, not LogAppendTime",
    ]
    assert len(admin.describe_topics([name])[0]["partitions"]) == 1
    admin.close()


TOO_MANY = (
    r"cannot create the topic {topic} with replication factor {copies} at localhost:\d+: only 1 broker is available; "
    r"use --replication-factor 1, or several brokers, as python -m iot.broker --nodes 3 starts"
)


@pytest.mark.parametrize("copies", [2, 3, 1000])
def test_more_copies_than_brokers_are_a_one_line_error(broker, copies):
    with pytest.raises(UserError, match=f"^{TOO_MANY.format(topic='too-many', copies=copies)}$"):
        ensure_topics(broker.kafka, ["too-many"], replication_factor=copies)


def test_the_variable_sets_the_number_of_copies_and_the_argument_overrides_it(broker, monkeypatch):
    monkeypatch.setenv("IOT_REPLICATION_FACTOR", "3")
    with pytest.raises(UserError, match=f"^{TOO_MANY.format(topic='of-variable', copies=3)}$"):
        ensure_topics(broker.kafka, ["of-variable"])
    ensure_topics(broker.kafka, ["of-variable"], replication_factor=1)
    assert ensure_topics(broker.kafka, ["of-variable", READINGS_TOPIC]) == [
        f"topics of-variable, {READINGS_TOPIC} have replication factor 1, not 3"
    ]


def test_the_number_of_partitions_is_that_of_the_topic_that_has_one(broker):
    ensure_topics(broker.kafka, ["seven", "usual"], {"seven": 7, "usual": None})
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    described = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(["seven", "usual"])}
    admin.close()
    assert described == {"seven": 7, "usual": 3}
    assert ensure_topics(broker.kafka, ["seven"], {"seven": 7}, 1) == []
    assert ensure_topics(broker.kafka, ["seven"], {"seven": 8}, 2) == [
        "topic seven has 7 partitions, not 8",
        "topic seven has replication factor 1, not 2",
    ]


@pytest.mark.parametrize(
    "script",
    [
        ["iot_producer.py", "--count", "1"],
        ["iot_consumer.py", "--max-messages", "1"],
        ["performance_test.py", "--test", "custom", "--messages", "1"],
        ["structured_streaming_processor.py", "--available-now"],
        ["iot_streaming_app.py"],
    ],
)
def test_scripts_say_when_there_are_too_few_brokers(broker, script, tmp_path):
    flags = ["--bootstrap-servers", broker.bootstrap_servers, "--topic", "of-script", "--replication-factor", "3"]
    environment = os.environ | {"IOT_DATABASE_URL": f"sqlite:///{tmp_path}/results.db", "TMPDIR": str(tmp_path)}
    state = ["--checkpoint-dir", str(tmp_path)] if "stream" in script[0] else []
    port = ["--port", str(find_free_port())] if script[0] == "iot_streaming_app.py" else []
    ran = subprocess.run(
        [sys.executable, *script, *flags, *state, *port],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=environment,
    )
    assert ran.returncode == 1
    assert re.fullmatch(f"error: {TOO_MANY.format(topic='of-script', copies=3)}\n", ran.stderr)


def test_the_broker_creates_its_topics_as_the_flags_say(tmp_path):
    ran = run("--port", find_free_port(), "--data-dir", tmp_path, "--replication-factor", "2")
    assert ran.returncode == 1
    said = TOO_MANY.format(topic=READINGS_TOPIC, copies=2).replace("localhost", "127.0.0.1")
    assert re.fullmatch(f"error: {said}\n", ran.stderr)


def test_data_survives_a_restart(tmp_path):
    values = [b"1", b"2", b"3"]
    with Broker(find_free_port(), tmp_path / "a folder, näm€d") as broker:
        send(broker.bootstrap_servers, READINGS_TOPIC, values)
    with Broker(find_free_port(), tmp_path / "a folder, näm€d") as broker:
        consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
        consumer.assign([TopicPartition(READINGS_TOPIC, 0)])
        assert [next(consumer).value for _ in values] == values
        consumer.close()


def test_a_port_in_use_is_an_error(broker, tmp_path):
    ran = run("--port", broker.port, "--data-dir", tmp_path)
    assert ran.returncode == 1
    assert re.fullmatch(rf"error: port {broker.port} is already in use: .* with --port\n", ran.stderr)


def test_an_unusable_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    ran = run("--port", find_free_port(), "--data-dir", tmp_path / "file" / "data")
    assert ran.returncode == 1
    assert re.fullmatch(rf"error: cannot use the data folder {tmp_path}/file/data: .*; .* --data-dir\n", ran.stderr)


@pytest.mark.parametrize("name", ["server.properties", "kafka", "broker.log"])
def test_files_of_another_program_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"{tmp_path}/{name} is of another program.* another folder with --data-dir"):
        Broker(find_free_port(), tmp_path).start()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


def test_the_folder_of_another_broker_is_an_error(broker):
    ran = run("--port", find_free_port(), "--data-dir", broker.data_dir)
    assert ran.returncode == 1
    said = rf"error: another broker \(process {os.getpid()}, port {broker.port}\) uses the data folder .*\n"
    assert re.fullmatch(said, ran.stderr)


def test_the_last_error_in_the_log_explains_a_failed_start(tmp_path):
    with pytest.raises(UserError, match=r"ended with status 1; .*broker.log says: .*no.such.Class") as raised:
        Broker(find_free_port(), tmp_path, properties={"authorizer.class.name": "no.such.Class"}).start()
    assert "\n" not in str(raised.value)


def test_what_kafka_says_to_a_wrong_setting_of_a_new_folder_is_named(tmp_path):
    wrong = {"listeners": "PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20001"}
    said = r"cannot format the data folder .*: Caused by: .*two listeners on the same port .*20001"
    with pytest.raises(UserError, match=said) as raised:
        Broker(find_free_port(), tmp_path, properties=wrong).start()
    assert "\n" not in str(raised.value)


def test_a_kill_of_kafka_is_reported_and_data_survives_it(tmp_path):
    port = find_free_port()
    with running(port, tmp_path) as (process, pid):
        send(f"localhost:{port}", READINGS_TOPIC, [b"kept"])
        os.kill(pid, signal.SIGKILL)
        assert process.wait(10) == 1
        said = process.stderr.read()
        assert re.fullmatch(
            rf"error: the broker on port {port} was killed by signal 9; {tmp_path}/broker.log says: .*\n", said
        )
    with running(port, tmp_path) as (process, _):
        assert re.search(r"iot-sensors +0 +0 +1 +1 ", run("topics", "--bootstrap-servers", f"localhost:{port}").stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        out = process.stdout.read()
        assert re.search(rf"Kafka stopped after \d+ s; its data stays in {tmp_path}\n$", out)
        assert process.stderr.read() == ""
    assert refuses(port)


def test_it_dies_with_its_parent(tmp_path, eventually):
    port = find_free_port()
    with running(port, tmp_path) as (process, _):
        process.kill()
        eventually(lambda: refuses(port), 10)


def test_ctrl_c_during_the_start_stops_it(tmp_path, eventually):
    process = subprocess.Popen(command("--port", find_free_port(), "--data-dir", tmp_path), cwd=ROOT)
    with process:
        eventually(lambda: (tmp_path / "broker.log").exists(), 30)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_the_topics_command_shows_offsets_and_settings(broker, topic):
    send(broker.bootstrap_servers, topic, [b"a"] * 1200)
    out = run("topics", "--bootstrap-servers", broker.bootstrap_servers).stdout
    assert re.search(rf"{topic} +0 +0 +1,200 +1,200 +message.timestamp.type=LogAppendTime", out)
    assert re.search(rf"{REJECTED_TOPIC} +0 +0 +[\d,]+ +[\d,]+ +max.message.bytes=2097152", out)


def test_the_groups_command_shows_members_and_lag(broker, topic):
    send(broker.bootstrap_servers, topic, [b"a"] * 5)
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap_servers,
        group_id=f"group-of-{topic}",
        client_id="reader",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    assert [next(consumer).value for _ in range(3)] == [b"a"] * 3
    consumer.commit()
    send(broker.bootstrap_servers, topic, [b"b"] * 4)
    out = run("groups", "--bootstrap-servers", broker.bootstrap_servers).stdout
    assert re.search(rf"group-of-{topic} +Stable +reader/127.0.0.1 +{topic} +0 +3 +9 +6 ", out)
    consumer.close()
    out = run("groups", "--bootstrap-servers", broker.bootstrap_servers).stdout
    assert re.search(rf"group-of-{topic} +Empty +{topic} +0 +3 +9 +6 ", out)


def test_without_a_broker_the_commands_say_how_to_start_one():
    port = find_free_port()
    ran = run("topics", "--bootstrap-servers", f"localhost:{port}")
    assert ran.returncode == 1
    assert re.fullmatch(rf"error: .*localhost:{port}.*python -m iot.broker --port {port}\n", ran.stderr)


def test_bad_flags_exit_2():
    assert run("--port", "0").returncode == 2
    assert run("nonsense").returncode == 2
