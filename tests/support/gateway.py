"""The gateway, Mosquitto and Kafka as processes that a test can kill and start again, and devices that send."""

from __future__ import annotations

import getpass
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from iot.broker.broker import find_free_port
from iot.kafka.offsets import end_offsets
from iot.processes import spawn
from iot.readings import decode
from iot.settings import READINGS_TOPIC, Kafka
from tests.support.scripts import ROOT
from tests.support.topics import read_back
from tests.support.waiting import wait_for

TIME = "2026-11-24T02:15:07.123456+00:00"
PATH = "/api/v1/readings"


def reading(sensor: str, sequence: int, **more: Any) -> dict[str, Any]:
    """A reading as a device sends it."""
    fields = {"sensor_id": sensor, "sensor_type": "temperature", "value": 20 + sequence % 10, "timestamp": TIME}
    return fields | {"run_id": "run", "sequence": sequence} | more


def post(port: int, content: Any, path: str = PATH, **headers: str) -> tuple[int, dict[str, Any]]:
    """Send a body to the gateway; returns the status and the answer."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def sequences(kafka: Kafka, topic: str = READINGS_TOPIC) -> dict[str, list[int | None]]:
    """The sequences of each sensor, in the order of the topic."""
    found: dict[str, list[int | None]] = defaultdict(list)
    for records in read_back(kafka.bootstrap_servers, topic).values():
        for key, value in records:
            message = decode(value)
            assert key.decode() == message.sensor_id
            found[message.sensor_id].append(message.sequence)
    return found


def count(kafka: Kafka, topic: str = READINGS_TOPIC) -> int:
    """The number of records in a topic."""
    return sum(end_offsets(kafka, topic).values())


class Process:
    """A command whose output is kept in a file. ``with`` starts it and kills it."""

    def __init__(self, command: list[str], log: Path, ready: str) -> None:
        """``ready`` is a text in its output that says that it is ready."""
        self.command, self.log, self._ready = command, log, ready
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, *, wait: bool = True) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with self.log.open("wb") as log:
            self._process = spawn(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self._process
            assert self._process.poll() is None, self.said()
            return self._ready in self.said()

        wait_for(is_ready, 60)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """Stop it with SIGINT; returns its exit status."""
        assert self._process
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        assert self._process
        status = self._process.wait(60)
        self._process = None
        return status


def gateway(folder: Path, kafka: Kafka, *flags: str, port: int = 0, topic: str = READINGS_TOPIC) -> Process:
    """A gateway on a free port, which is its ``port``."""
    port = port or find_free_port()
    command = [sys.executable, "-m", "iot.gateway", "--http-port", str(port), "--topic", topic]
    command += ["--bootstrap-servers", kafka.bootstrap_servers, *flags]
    made = Process(command, folder / f"gateway-{port}.log", "receiving readings at")
    made.port = port  # type: ignore[attr-defined]
    return made


def kafka_process(folder: Path, port: int) -> Process:
    command = [sys.executable, "-m", "iot.broker", "--port", str(port), "--data-dir", str(folder / "kafka")]
    return Process(command, folder / "kafka.log", "is ready on")


class Mosquitto(Process):
    """An MQTT broker on a free port that keeps what it has on disk."""

    def __init__(self, folder: Path, lines: Iterable[str] = (), listener: Iterable[str] = ()) -> None:
        self.port = find_free_port()
        data = folder / "mosquitto"
        data.mkdir()
        file = folder / "mosquitto.conf"
        content = [
            f"listener {self.port} 127.0.0.1",
            *listener,
            "allow_anonymous true",
            f"user {getpass.getuser()}",
            "persistence true",
            f"persistence_location {data}/",
            "autosave_interval 1",
            "max_queued_messages 0",
            *lines,
        ]
        file.write_text("\n".join(content) + "\n")
        super().__init__(
            [installed("mosquitto", "mosquitto"), "-c", str(file), "-v"], folder / "mosquitto.log", "running"
        )


def installed(program: str, package: str) -> str:
    """Return the path of a program; skips the test where it is not installed, but fails in CI."""
    # Debian has some where only root's commands are.
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        missing = f"{program} is not installed; on Debian and Ubuntu: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


class Devices:
    """Devices that publish over one connection, with QoS 1. ``with`` connects and disconnects.

    ``sent`` messages were handed over, and ``published`` of them were acknowledged by the MQTT broker.
    """

    def __init__(self, port: int, names: Iterable[str]) -> None:
        self.names = list(names)
        self.sent = self.published = 0
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(50)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_publish = self._on_publish
        self._client.connect_async("127.0.0.1", port)

    def __enter__(self) -> Devices:
        self._client.loop_start()
        wait_for(self._client.is_connected)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, content: Any, qos: int = 1, retain: bool = False) -> None:
        """Send a message; without a connection, one of QoS 1 is sent later."""
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.sent += 1
        self._client.publish(topic, payload, qos, retain)

    def wait(self) -> None:
        """Wait until the MQTT broker has all messages."""
        wait_for(lambda: self.published >= self.sent, 120)

    def send(self, until: int, stop: threading.Event, pause_s: float = 0.0) -> None:
        """Send the sequences below ``until`` of each device, in order, unless ``stop`` is set before."""
        for sequence in range(until):
            for name in self.names:
                self.publish(f"devices/{name}", reading(name, sequence))
                if stop.wait(pause_s):
                    return

    def _on_publish(self, *_: Any) -> None:
        self.published += 1


@contextmanager
def only_3_1_1(port: int) -> Iterator[int]:
    """Pass connections on to an MQTT broker, but refuse MQTT 5 as older brokers do; yields the port."""

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            connect = client.recv(1 << 16)
            # The level follows the name of the protocol.
            if connect[connect.index(b"MQTT") + 4] == 5:
                client.sendall(b"\x20\x02\x00\x01")
                client.close()
                continue
            broker = socket.create_connection(("127.0.0.1", port))
            broker.sendall(connect)
            for one, other in ((client, broker), (broker, client)):
                threading.Thread(target=pump, args=(one, other), daemon=True).start()

    def pump(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while part := one.recv(1 << 16):
                other.sendall(part)
            other.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def post_until_accepted(port: int, content: Any, stop: threading.Event) -> None:
    """Send a body again and again until the gateway confirms it, as a device does that gets no answer."""
    while not stop.is_set():
        with suppress(OSError, http.client.HTTPException):
            status, answer = post(port, content)
            if status == 200:
                return
            assert status in (429, 503), answer
        stop.wait(0.05)


def slow_client(port: int, data: bytes) -> socket.socket:
    """A connection that has sent only these bytes."""
    made = socket.create_connection(("127.0.0.1", port), timeout=30)
    made.sendall(data)
    return made


def head(length: int, path: str = PATH, more: Mapping[str, str] | None = None) -> bytes:
    """The head of a request whose body has this many bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in (more or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
