"""Brokers that advertise an address at which they are not reached: each script says so in one line."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from iot.addresses import Address
from iot.broker.broker import Broker, find_free_port
from iot.kafka import advertised, sender
from iot.kafka.connect import require_broker
from iot.kafka.offsets import end_offsets
from iot.kafka.sender import CLIENTS, make_sender
from iot.kafka.topics import ensure_topics
from iot.sensors.progress import OUTAGE_AFTER_S, DeliveryMonitor
from iot.settings import READINGS_TOPIC, Kafka, UserError
from iot.spark import queries
from iot.spark.errors import explain
from tests.support.listeners import other_listener
from tests.support.secure import make_certificates

ROOT = Path(__file__).parents[3]
SAYS = r"Kafka at 127.0.0.1:{port} says it is reached at {place} \(advertised.listeners\), which {why}; set advert"


@dataclass
class Misled:
    """A broker with one listener for each wrong address that it advertises."""

    ports: dict[str, int]
    places: dict[str, str]
    tls: dict[str, str]
    """Client properties for the listeners with TLS."""

    def kafka(self, name: str) -> Kafka:
        return Kafka(f"127.0.0.1:{self.ports[name]}", self.tls if name.startswith("TLS") else {})


@pytest.fixture(scope="module")
def misled(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Misled]:
    certificates = tmp_path_factory.mktemp("certificates")
    make_certificates(certificates)
    (certificates / "server.keystore").write_bytes(
        b"".join((certificates / f"server.{part}").read_bytes() for part in ("key", "pem"))
    )
    plain, controller = find_free_port(), f"127.0.0.1:{find_free_port()}"
    with ExitStack() as stack:
        http, full, silent, closed = (
            stack.enter_context(other_listener(kind)) for kind in ("http", "full", "silent", "closed")
        )
        ports = {name: find_free_port() for name in ("TLS_RIGHT", "UNKNOWN", "CLOSED", "FULL", "HTTP", "SILENT")}
        ports |= {name: find_free_port() for name in ("OTHER", "CROSS", "TLS_CROSS", "UNDERSCORED")}
        places = {
            "TLS_RIGHT": f"localhost:{ports['TLS_RIGHT']}",
            "UNKNOWN": "kafka.invalid:9092",
            "UNDERSCORED": "kafka_1-a.invalid:29092",
            "CLOSED": f"127.0.0.1:{closed}",
            "FULL": f"127.0.0.1:{full}",
            "HTTP": f"127.0.0.1:{http}",
            "SILENT": f"127.0.0.1:{silent}",
            "OTHER": f"127.0.0.1:{broker.port}",
            "CROSS": f"127.0.0.1:{ports['TLS_RIGHT']}",
            "TLS_CROSS": f"127.0.0.1:{plain}",
        }
        properties = {
            "listeners": f"PLAINTEXT://127.0.0.1:{plain},CONTROLLER://{controller},"
            + ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items()),
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},"
            + ",".join(f"{name}://{place}" for name, place in places.items()),
            "controller.quorum.bootstrap.servers": controller,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            + ",".join(f"{name}:{'SSL' if name.startswith('TLS') else 'PLAINTEXT'}" for name in ports),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificates / "server.keystore"),
        }
        authority = {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(certificates / "ca.pem")}
        with Broker(plain, tmp_path_factory.mktemp("misled"), properties=properties):
            yield Misled(ports | {"PLAINTEXT": plain}, places, {"security.protocol": "SSL"} | authority)


REASONS = {
    "UNKNOWN": "does not resolve",
    "UNDERSCORED": "does not resolve",
    "CLOSED": "refuses connections",
    "FULL": "accepts no connection within 1.5 s",
    "HTTP": "accepts connections, but does not answer as Kafka does",
    "OTHER": r"belongs to another cluster \(\S+, not \S+\)",
    "CROSS": r"speaks TLS, but this client was told to use none \(security.protocol\)",
    "TLS_CROSS": r"speaks without TLS, but this client was told to use it \(security.protocol\)",
}


@pytest.mark.parametrize("name", REASONS)
def test_one_line_names_both_addresses_and_the_reason(misled, name):
    begun_s = time.monotonic()
    with pytest.raises(UserError) as raised:
        require_broker(misled.kafka(name))
    assert time.monotonic() - begun_s < 8
    expected = SAYS.format(port=misled.ports[name], place=re.escape(misled.places[name]), why=REASONS[name])
    assert re.match(expected, str(raised.value)), raised.value
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["PLAINTEXT", "TLS_RIGHT", "SILENT"])
def test_no_error_without_proof(misled, name):
    # What does not answer in time may be a busy broker.
    require_broker(misled.kafka(name))


@pytest.mark.parametrize(("name", "told"), [("TLS_RIGHT", "none"), ("PLAINTEXT", "TLS")])
def test_the_wrong_protocol_at_the_address_that_was_dialled_is_named(misled, name, told):
    properties = {} if told == "none" else misled.tls
    begun_s = time.monotonic()
    with pytest.raises(UserError, match=r"security\.protocol") as raised:
        require_broker(Kafka(f"127.0.0.1:{misled.ports[name]}", properties), 2.0)
    assert time.monotonic() - begun_s < 10
    assert ("speaks TLS" in str(raised.value)) == (told == "none")
    assert ("speaks without TLS" in str(raised.value)) == (told == "TLS")


def test_kafka_python_names_the_address_that_fails(misled, monkeypatch):
    monkeypatch.setattr(sender, "START_S", 1.0)
    with pytest.raises(UserError, match=re.escape(misled.places["CLOSED"])):
        make_sender("kafka-python", misled.kafka("CLOSED"), READINGS_TOPIC)


def test_confluent_kafka_names_the_address_that_fails(misled):
    # This client knows the topic from the server that was dialled, and retries its partitions for ever.
    kafka = misled.kafka("UNKNOWN")
    sending = make_sender("confluent-kafka", kafka, READINGS_TOPIC)
    try:
        sending.send([{"key": b"k", "value": b"v"}], threading.Event())
        monitor = DeliveryMonitor(sending, "here", 0.0, partial(advertised.outage, kafka))
        monitor.notices(0.0)
        (line,) = monitor.notices(OUTAGE_AFTER_S + 1)
    finally:
        sending.close()
    assert "kafka.invalid:9092 (advertised.listeners), which does not resolve" in line


def test_spark_names_the_address_that_fails(misled, spark, tmp_path):
    kafka = misled.kafka("UNKNOWN")
    short = Kafka(kafka.bootstrap_servers, {"default.api.timeout.ms": "1000", "request.timeout.ms": "500"})
    topic = queries.read_topic(spark, short, READINGS_TOPIC, {0: 0, 1: 0, 2: 0})
    query = topic.writeStream.format("noop").option("checkpointLocation", str(tmp_path)).start()
    with pytest.raises(Exception, match="STREAM_FAILED") as raised:
        query.awaitTermination(60)
    line = explain(raised.value, fix="rm -r /c", checkpoint=tmp_path, kafka=kafka)
    assert line.startswith(f"Kafka at {kafka.bootstrap_servers} does not answer: Kafka at "), line
    assert "kafka.invalid:9092 (advertised.listeners), which does not resolve" in line
    assert "rm -r" not in line


@pytest.mark.parametrize("dead", ["closed", "unknown", "full", "several"])
def test_dead_servers_in_the_list_do_no_harm(broker, topic, dead):
    unknown = "kafka.invalid:9092"
    with other_listener("full") as full, other_listener("closed") as port:
        closed = f"127.0.0.1:{port}"
        servers = {"closed": [closed], "unknown": [unknown], "full": [f"127.0.0.1:{full}"]}
        servers["several"] = [closed, unknown, *servers["full"], f"[::1]:{find_free_port()}"]
        kafka = Kafka(",".join([*servers[dead], f"127.0.0.1:{broker.port}"]))
        begun_s = time.monotonic()
        require_broker(kafka)
        assert ensure_topics(kafka, [topic]) == []
        assert set(end_offsets(kafka, topic).values()) == {0}
        for client in CLIENTS:
            make_sender(client, kafka, topic).close()
        assert time.monotonic() - begun_s < 15


def test_servers_of_two_clusters_are_refused(misled, broker):
    kafka = Kafka(f"127.0.0.1:{misled.ports['PLAINTEXT']},127.0.0.1:{broker.port}")
    with pytest.raises(UserError, match="belong to different Kafka clusters: "):
        require_broker(kafka)


def test_one_broker_of_several_out_of_reach_is_named_alone(misled):
    kafka = misled.kafka("PLAINTEXT")
    right = Address("127.0.0.1", misled.ports["PLAINTEXT"])
    found = advertised.ask(kafka, right)
    cluster = advertised.Cluster(found.cluster_id, {1: right, 2: Address("kafka-2.invalid", 9092)})
    assert advertised.failures(kafka, [right], cluster) == {
        2: f"Kafka at {right} says broker 2 is reached at kafka-2.invalid:9092 (advertised.listeners), "
        "which does not resolve"
    }
    cluster = advertised.Cluster(found.cluster_id, {1: right, 2: right})
    assert "brokers 1 and 2 are both reached at" in advertised.failures(kafka, [right], cluster)[1]


SCRIPTS = {
    "iot_producer.py": "--count 1",
    "iot_consumer.py": "--max-messages 1",
    "structured_streaming_processor.py": "--available-now",
    "performance_test.py": "--test burst --messages 10",
    "-m iot.broker topics": "",
    "-m iot.broker groups": "",
}


def test_every_script_says_it_within_10_s(misled, tmp_path):
    begun_s = time.monotonic()
    flags = ["--bootstrap-servers", f"127.0.0.1:{misled.ports['UNKNOWN']}"]
    started = []
    for script, own in SCRIPTS.items():
        command = [sys.executable, *script.split(), *flags, *own.split()]
        if "streaming" in script:
            command += ["--checkpoint-dir", str(tmp_path)]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    expected = SAYS.format(port=misled.ports["UNKNOWN"], place="kafka.invalid:9092", why="does not resolve")
    for process in started:
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (1, ""), process.args
        assert re.fullmatch(rf"error: {expected}.*\n", err), err
    assert time.monotonic() - begun_s < 25  # All of them at once, on a machine with few cores.


def test_socket_closed_later_is_named_by_its_address(misled):
    with other_listener("closed") as port:
        assert advertised.outage(Kafka(f"127.0.0.1:{port}")) == "it refuses connections"
        assert advertised.outage(Kafka(f"127.0.0.1:{port},kafka.invalid:9092")) == (
            f"127.0.0.1:{port} (it refuses connections), kafka.invalid:9092 (it does not resolve)"
        )
    assert "kafka.invalid:9092 (advertised.listeners), which does not resolve" in advertised.outage(
        misled.kafka("UNKNOWN")
    )
    assert advertised.outage(misled.kafka("PLAINTEXT")) == ""
