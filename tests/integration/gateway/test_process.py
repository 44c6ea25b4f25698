"""The command: its start, its stop, and the lines in the documentation."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from iot.broker.broker import find_free_port
from iot.settings import Kafka
from tests.support.gateway import Devices, Mosquitto, count, gateway, installed, post, reading, sequences
from tests.support.topics import read_back
from tests.support.waiting import wait_for

PAGE = (Path(__file__).parents[3] / "docs" / "devices.md").read_text(encoding="utf-8")


def test_without_kafka_it_ends_with_one_line(tmp_path):
    kafka = Kafka(f"localhost:{find_free_port()}")
    subject = gateway(tmp_path, kafka)
    begun_s = time.monotonic()
    subject.start(wait=False)
    assert subject.wait() == 1
    assert time.monotonic() - begun_s < 20
    [line] = subject.said().splitlines()
    assert line.startswith("error: no Kafka broker answers at")
    assert "python -m iot.broker" in line


def test_it_starts_receives_and_stops(tmp_path, broker, topic):
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('A1B2 = "attic"\n')
    with gateway(tmp_path, broker.kafka, "--tokens", str(tokens), topic=topic) as subject:
        token = {"Authorization": "Bearer A1B2"}
        assert post(subject.port, reading("s", 1))[0] == 401
        status, answer = post(subject.port, [reading("s", 1), reading("s", 1)], **token)
        assert (status, answer["written"], answer["repeated"]) == (200, 1, 1)
        status, answer = post(subject.port, {"temperature": 21.5}, "/api/v1/A1B2/telemetry")
        assert (status, answer["written"]) == (200, 1)
        assert count(broker.kafka, topic) == 2
        assert subject.stop() == 0
        assert subject.said().splitlines()[-1].endswith("2 readings written, 1 repeats recognised, 0 messages refused")
    assert sequences(broker.kafka, topic) == {"s": [1], "attic": [None]}


@pytest.mark.long
def test_a_second_gateway_takes_over_and_the_first_says_so(tmp_path, broker, topic):
    (tmp_path / "second").mkdir()
    with (
        gateway(tmp_path, broker.kafka, topic=topic) as first,
        gateway(tmp_path / "second", broker.kafka, topic=topic) as second,
    ):
        assert first.wait() == 1
        assert first.said().splitlines()[-1].startswith("error: another gateway has taken")
        assert post(second.port, reading("s", 1))[0] == 200


def test_the_lines_in_the_documentation_work(tmp_path, broker, topic):
    installed("curl", "curl")
    installed("mosquitto_pub", "mosquitto-clients")
    curl, publish = (re.search(rf"^{name} .*$", PAGE, re.MULTILINE)[0] for name in ("curl", "mosquitto_pub"))
    flags = re.search(r"^python -m iot.gateway (--mqtt-url .*)$", PAGE, re.MULTILINE)[1]
    with Mosquitto(tmp_path) as mosquitto:
        flags = shlex.split(flags.replace(":1883", f":{mosquitto.port}"))
        with gateway(tmp_path, broker.kafka, *flags, topic=topic) as subject, Devices(mosquitto.port, []):
            wait_for(lambda: "receiving devices/+" in subject.said())
            command = [*shlex.split(curl.replace(":8080", f":{subject.port}")), "--silent", "--noproxy", "*"]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert f"`{answer}`" in PAGE
            subprocess.run([*shlex.split(publish), "-p", str(mosquitto.port)], check=True)
            wait_for(lambda: count(broker.kafka, topic) == 4)
    keys = {key for records in read_back(broker.bootstrap_servers, topic).values() for key, _ in records}
    assert keys == {b"attic", b"devices/attic"}
