"""The MQTT client with a real Mosquitto: what is acknowledged when, and what is taken."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from iot.gateway import mqtt as mqtt_module
from iot.gateway.intake import Intake
from iot.gateway.mqtt import MqttInput
from iot.gateway.mqtt_url import parse_url
from tests.support.gateway import Devices, Mosquitto, only_3_1_1, reading
from tests.support.gateway_writer import FakeWriter
from tests.support.secure import make_certificates
from tests.support.waiting import wait_for


@pytest.fixture
def mosquitto(tmp_path):
    with Mosquitto(tmp_path) as started:
        yield started


class Gateway:
    """The MQTT part of a gateway, with a writer in memory."""

    def __init__(self, url: str, *topics: str, ca_file=None) -> None:
        self.writer = FakeWriter()
        self.lines: list[str] = []
        intake = Intake(self.lines.append)
        self.input = MqttInput(
            parse_url(url), topics or ("#",), "gateway", intake, self.writer, self.lines.append, ca_file
        )

    def is_connected(self) -> bool:
        self.input.look_after()
        return not self.input.problem

    @property
    def sequences(self) -> list[int | None]:
        return [message.sequence for message in self.writer.written]


@contextmanager
def running(url_or_port, *topics, wait=True, **more):
    url = url_or_port if isinstance(url_or_port, str) else f"mqtt://127.0.0.1:{url_or_port}"
    made = Gateway(url, *topics, **more)
    made.input.start()
    try:
        if wait:
            wait_for(made.is_connected)
        yield made
    finally:
        made.input.close()


def test_readings_of_both_qualities_come_in_order(mosquitto):
    with running(mosquitto.port) as gateway, Devices(mosquitto.port, []) as devices:
        for sequence in range(20):
            devices.publish("devices/d1", reading("d1", sequence), qos=sequence % 2)
        wait_for(lambda: len(gateway.sequences) == 20)
        assert gateway.sequences == list(range(20))


def test_the_topic_names_the_device_and_retained_messages_are_no_readings(mosquitto):
    with Devices(mosquitto.port, []) as devices:
        devices.publish("zigbee2mqtt/old", {"temperature": 1}, retain=True)
        devices.wait()
        with running(mosquitto.port, "zigbee2mqtt/+", "tele/+/SENSOR") as gateway:
            devices.publish("zigbee2mqtt/attic", {"temperature": 21.5, "linkquality": 90})
            devices.publish("tele/cellar/SENSOR", {"Time": "2026-11-24T02:15:07", "AM2301": {"Temperature": 12}})
            devices.publish("other/attic", {"temperature": 3})
            wait_for(lambda: len(gateway.writer.written) == 2)
            found = {(message.sensor_id, message.value) for message in gateway.writer.written}
            assert found == {("attic", 21.5), ("cellar", 12.0)}
            assert any("linkquality" in line for line in gateway.lines)


def test_a_message_is_acknowledged_only_after_kafka_has(mosquitto, monkeypatch):
    monkeypatch.setattr(mqtt_module, "STOP_S", 0.01)
    with running(mosquitto.port) as gateway, Devices(mosquitto.port, []) as devices:
        gateway.writer.acknowledged = None
        for sequence in range(5):
            devices.publish("devices/d1", reading("d1", sequence))
        devices.wait()
        wait_for(lambda: len(gateway.sequences) == 5)
    # The session of the next one has them all again.
    with running(mosquitto.port) as gateway:
        wait_for(lambda: len(gateway.sequences) == 5)
        assert gateway.sequences == list(range(5))
    with running(mosquitto.port) as gateway, Devices(mosquitto.port, []) as devices:
        devices.publish("devices/d1", reading("d1", 5))
        wait_for(lambda: gateway.sequences)
        assert gateway.sequences == [5]


def test_what_kafka_may_not_have_comes_again(mosquitto):
    with running(mosquitto.port) as gateway, Devices(mosquitto.port, []) as devices:
        gateway.writer.acknowledged = False
        devices.publish("devices/d1", reading("d1", 1))
        wait_for(lambda: len(gateway.sequences) == 1)
        # The repeat is recognised, and acknowledged.
        gateway.writer.acknowledged = True
        wait_for(lambda: not gateway.input.problem and not gateway.input._unacknowledged)
        devices.publish("devices/d1", reading("d1", 2))
        wait_for(lambda: gateway.sequences == [1, 2])


def test_a_broker_that_knows_only_3_1_1(mosquitto):
    with only_3_1_1(mosquitto.port) as port, running(port) as gateway, Devices(mosquitto.port, []) as devices:
        devices.publish("devices/d1", reading("d1", 1))
        wait_for(lambda: gateway.sequences == [1])


def test_a_broker_that_is_down_is_said_once_and_tried_again(tmp_path):
    mosquitto = Mosquitto(tmp_path)
    with running(mosquitto.port, wait=False) as gateway:
        wait_for(lambda: gateway.lines)
        with mosquitto:
            wait_for(lambda: not gateway.input.problem)
        wait_for(lambda: gateway.input.problem)
    down, up, down_again = gateway.lines
    assert "Connection refused" in down
    assert up.startswith("receiving # from mqtt://127.0.0.1")
    assert down_again.startswith("no messages come from")


def test_tls_and_a_password(tmp_path):
    make_certificates(tmp_path)
    listener = [f"cafile {tmp_path}/ca.pem", f"certfile {tmp_path}/server.pem", f"keyfile {tmp_path}/server.key"]
    with Mosquitto(tmp_path, listener=listener) as mosquitto:
        url = f"mqtts://me:secret@127.0.0.1:{mosquitto.port}"
        with running(url, ca_file=tmp_path / "ca.pem") as gateway:
            assert "as 'me'" in mosquitto.said() or "u'me'" in mosquitto.said()
            assert "secret" not in "".join(gateway.lines)
        with running(url, wait=False) as gateway:
            wait_for(lambda: gateway.lines)
            assert "certificate" in gateway.lines[0]


def test_an_error_of_the_gateway_itself_stops_nothing(mosquitto, monkeypatch):
    with running(mosquitto.port) as gateway, Devices(mosquitto.port, []) as devices:
        take = gateway.input._intake.take
        monkeypatch.setattr(
            gateway.input._intake, "take", lambda payload, topic: take(payload, topic) if payload else 1 / 0
        )
        devices.publish("devices/d1", b"")
        devices.publish("devices/d1", reading("d1", 1))
        wait_for(lambda: gateway.sequences == [1])
        [refusal] = gateway.writer.refused
        assert "ZeroDivisionError" in refusal.reason


def test_a_message_of_any_content_stops_nothing(mosquitto):
    with running(mosquitto.port) as gateway, Devices(mosquitto.port, []) as devices:
        for payload in (b"", b"\xff\x00", b"[" * 10_000, b"x" * 500_000, b"null", b'"text"'):
            devices.publish("devices/d1", payload)
        devices.publish("devices/d1", reading("d1", 1))
        wait_for(lambda: gateway.sequences == [1])
        assert [refusal.device for refusal in gateway.writer.refused] == ["devices/d1"] * len(gateway.writer.refused)
        assert len(gateway.writer.refused) == 3
