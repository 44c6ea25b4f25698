"""Trying addresses: names that do not resolve, ports that do not answer, and what the name localhost may mean."""

from __future__ import annotations

import errno
import math
import os
import socket
import threading
import time

import pytest

from iot.addresses import Address, join
from iot.broker.broker import find_free_port
from iot.kafka import advertised, dial
from iot.kafka.client_config import confluent_config, kafka_python_config
from iot.settings import Kafka
from tests.support.listeners import other_listener


class Names:
    """A fake resolver: which IP addresses each name has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **known: list[str]) -> None:
        self._known, self._real = known, socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._resolve)

    def _resolve(self, host, port, *args, **kwargs):
        if host.lower() not in ("localhost", *self._known):
            return self._real(host, port, *args, **kwargs)
        found = self._known.get(host.lower(), [])
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in found]
        kind = socket.SOCK_STREAM
        return [(family, kind, 0, "", (each, port or 0)) for family, each in zip(families, found, strict=True)]


@pytest.mark.parametrize(
    ("localhost", "servers", "dialled"),
    [
        (["127.0.0.1"], "localhost:9092", "localhost:9092"),
        (["::1", "127.0.0.1"], "localhost:9092", "localhost:9092"),
        (["::1"], "localhost:9092", "localhost:9092,127.0.0.1:9092"),
        ([], "localhost:9092", "127.0.0.1:9092,[::1]:9092"),
        ([], "LOCALHOST:9092,127.0.0.1:9092,other:1", "127.0.0.1:9092,[::1]:9092,other:1"),
        # A server elsewhere stays as it is, whether its name resolves or not.
        ([], "kafka.invalid:9092", "kafka.invalid:9092"),
        (["::1"], "[::1]:9092", "[::1]:9092"),
    ],
)
def test_localhost_is_this_machine_whatever_its_name_means(localhost, servers, dialled, monkeypatch):
    Names(monkeypatch, localhost=localhost)
    assert join(dial.servers_to_dial(servers)) == dialled
    assert confluent_config(Kafka(servers))["bootstrap.servers"] == dialled


@pytest.mark.parametrize("localhost", [["::1"], [], ["127.0.0.1"], ["::1", "127.0.0.1"]])
def test_a_server_on_127_0_0_1_is_found_whatever_localhost_means(localhost, monkeypatch):
    Names(monkeypatch, localhost=localhost)
    with other_listener("silent") as port:
        found = kafka_python_config(Kafka(f"localhost:{port}"))["bootstrap_servers"]
        assert found in ([f"127.0.0.1:{port}"], [f"localhost:{port}"])
        assert dial.dial(dial.live_servers(f"localhost:{port}"))[dial.live_servers(f"localhost:{port}")[0]] == ""


def test_each_failure_has_its_own_words(monkeypatch):
    Names(monkeypatch, nowhere=[])
    with other_listener("full") as full, other_listener("silent") as silent:
        places = {
            Address("nowhere", 9092): "does not resolve",
            Address("127.0.0.1", find_free_port()): "refuses connections",
            Address("127.0.0.1", full): "accepts no connection within 0.3 s",
            Address("127.0.0.1", silent): "",
        }
        begun_s = time.monotonic()
        assert dial.dial(list(places), 0.3, others_s=math.inf) == places
        assert time.monotonic() - begun_s < 1.5
        # Once one accepts, the others are not waited for.
        assert dial.dial(list(places), 30.0, others_s=0.1)[Address("127.0.0.1", silent)] == ""
        assert time.monotonic() - begun_s < 3


@pytest.mark.parametrize(
    ("code", "addresses", "words"),
    [
        (errno.ENETUNREACH, ["2001:db8::1"], "is an IPv6 address that this machine cannot reach"),
        (errno.EHOSTUNREACH, ["10.0.0.9"], "cannot be reached from here"),
        (errno.EACCES, ["10.0.0.9", "2001:db8::1"], "cannot be reached from here"),
        (errno.ECONNREFUSED, ["10.0.0.9", "2001:db8::1"], "refuses connections"),
    ],
)
def test_an_address_that_is_out_of_reach_has_the_reason_of_the_system(code, addresses, words, monkeypatch):
    def connect(_: socket.socket, place: object) -> None:
        raise OSError(code, os.strerror(code))

    Names(monkeypatch, kafka=addresses)
    monkeypatch.setattr(socket.socket, "connect", connect)
    why = dial.dial([Address("kafka", 9092)])[Address("kafka", 9092)]
    assert why.startswith(words)
    assert (os.strerror(code) in why) == (code != errno.ECONNREFUSED)


def test_a_resolver_that_hangs_holds_nothing_up(monkeypatch):
    hangs = threading.Event()
    real = socket.getaddrinfo

    def resolve(host, *rest, **more):
        if host == "slow":
            hangs.wait(30)
            raise socket.gaierror
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    begun_s = time.monotonic()
    with other_listener("silent") as port:
        alive = Address("127.0.0.1", port)
        assert dial.live_servers(f"slow:9092,{alive}", 5.0) == [alive]
        assert dial.dial([Address("slow", 9092)], 0.2) == {
            Address("slow", 9092): "does not resolve, or accepts no connection, within 0.2 s"
        }
    assert time.monotonic() - begun_s < 3
    hangs.set()


@pytest.mark.parametrize(("kind", "spoken"), [("http", "other"), ("hangs up", "other"), ("silent", None)])
def test_what_is_not_kafka_is_recognised(kind, spoken):
    with other_listener(kind) as port:
        assert dial.protocol_of(Address("127.0.0.1", port), 0.4) == spoken


@pytest.mark.parametrize(
    ("dialled", "place", "words"),
    [
        ("kafka.example", "0.0.0.0", "is no address to connect to (refuses connections)"),
        ("kafka.example", "localhost", "is this machine itself, and refuses connections"),
        ("kafka.example", "127.0.0.1", "is this machine itself, and refuses connections"),
        ("localhost", "127.0.0.1", "refuses connections"),
        ("kafka.example", "other.example", "refuses connections"),
    ],
)
def test_an_address_that_explains_itself_is_explained(dialled, place, words, monkeypatch):
    names = {"kafka.example": ["10.0.0.9"], "other.example": ["10.0.0.8"], "localhost": ["127.0.0.1"]}
    Names(monkeypatch, **names)
    monkeypatch.setattr(dial, "dial", lambda places, *rest, **more: dict.fromkeys(places, dial.REFUSES))
    cluster = advertised.Cluster("id", {1: Address(place, 9092)})
    (line,) = advertised.failures(Kafka(f"{dialled}:9092"), [Address(dialled, 9092)], cluster).values()
    said = f"Kafka at {dialled}:9092 says it is reached at {place}:9092 (advertised.listeners), which "
    assert line == said + words


@pytest.mark.parametrize("place", ["127.0.0.1", "localhost"])
def test_a_broker_that_is_down_at_an_address_of_the_user_is_named_as_such(place, monkeypatch):
    Names(monkeypatch, localhost=["127.0.0.1"])
    down = Address(place, 9093)
    monkeypatch.setattr(dial, "dial", lambda places, *_, **__: {each: dial.REFUSES * (each == down) for each in places})
    monkeypatch.setattr(advertised, "_why_wrong", lambda *_: "")
    cluster = advertised.Cluster("id", {1: Address("127.0.0.1", 9092), 2: down})
    lines = advertised.failures(Kafka("localhost:9092,localhost:9093"), [Address("localhost", 9092)], cluster)
    assert lines == {2: f"broker 2 at {place}:9093 refuses connections"}
    assert advertised.one_line(lines) == f"broker 2 at {place}:9093 refuses connections; start what is down again"
    # Where nobody named the address, it may be wrong.
    lines = advertised.failures(Kafka("localhost:9092"), [Address("localhost", 9092)], cluster)
    assert lines[2].endswith(
        f"says broker 2 is reached at {place}:9093 (advertised.listeners), which refuses connections"
    )
    assert advertised.one_line(lines).endswith(advertised.FIX)
