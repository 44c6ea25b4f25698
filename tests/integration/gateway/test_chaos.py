"""Devices send by MQTT and HTTP while the gateway, the MQTT broker and Kafka are killed: each reading arrives once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from iot.broker.broker import find_free_port
from iot.settings import Kafka
from tests.support.gateway import (
    Devices,
    Mosquitto,
    count,
    gateway,
    kafka_process,
    post_until_accepted,
    reading,
    sequences,
)
from tests.support.waiting import wait_for

HTTP_DEVICES = ["http_1", "http_2"]
BATCH = 10


def send_by_http(port: int, messages: int, stop: threading.Event) -> None:
    """Send the sequences of each device in batches, each until it is confirmed."""
    for first in range(0, messages, BATCH):
        numbers = range(first, min(first + BATCH, messages))
        post_until_accepted(port, [reading(name, number) for number in numbers for name in HTTP_DEVICES], stop)
        stop.wait(0.05)


def run(folder: Path, devices: int, messages: int, pause_s: float) -> None:
    """Let devices send ``messages`` each, and kill each part once meanwhile."""
    kafka_port = find_free_port()
    kafka = Kafka(f"localhost:{kafka_port}")
    names = [f"device_{number}" for number in range(devices)]
    total = (devices + len(HTTP_DEVICES)) * messages
    stop, stop_mqtt = threading.Event(), threading.Event()
    with kafka_process(folder, kafka_port) as broker, Mosquitto(folder) as mosquitto:
        flags = ("--mqtt-url", f"mqtt://127.0.0.1:{mosquitto.port}", "--mqtt-topic", "devices/+")
        with gateway(folder, kafka, *flags) as subject:
            wait_for(lambda: "receiving devices/+" in subject.said())
            by_http = threading.Thread(target=send_by_http, args=(subject.port, messages, stop), daemon=True)
            by_http.start()
            with Devices(mosquitto.port, names) as senders:
                by_mqtt = threading.Thread(target=senders.send, args=(messages, stop_mqtt, pause_s), daemon=True)
                by_mqtt.start()
                wait_for(lambda: count(kafka) >= total // 8)
                subject.kill()
                subject.start(wait=False)
                wait_for(lambda: senders.sent >= devices * messages // 3)
                mosquitto.kill()
                stop_mqtt.set()
                by_mqtt.join()
            # It may have acknowledged messages that it had not stored, so the devices begin from the start.
            mosquitto.start()
            subject.wait_until_ready()
            stop_mqtt.clear()
            with Devices(mosquitto.port, names) as senders:
                by_mqtt = threading.Thread(target=senders.send, args=(messages, stop_mqtt, pause_s), daemon=True)
                by_mqtt.start()
                before = count(kafka)
                wait_for(lambda: count(kafka) > before)
                broker.kill()
                broker.start()
                by_mqtt.join()
                senders.wait()
            by_http.join()
            wait_for(lambda: count(kafka) >= total, 120)
            assert subject.stop() == 0, subject.said()
            assert "Traceback" not in subject.said()
        found = sequences(kafka)
        stop.set()
    assert found == {name: list(range(messages)) for name in [*names, *HTTP_DEVICES]}


def test_each_reading_arrives_once_whatever_is_killed(tmp_path):
    run(tmp_path, 10, 50, 0.003)


@pytest.mark.long
def test_each_of_10_000_readings_arrives_once_whatever_is_killed(tmp_path):
    run(tmp_path, 100, 100, 0.001)
