"""The examples for devices in docs/devices.md, each as it stands there, against a gateway without Kafka."""

from __future__ import annotations

import builtins
import json
import os
import re
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
import yaml  # type: ignore[import-untyped]

from iot.broker.broker import find_free_port
from iot.gateway.app import Services, create_app
from iot.gateway.arriving import GatewayServer
from iot.gateway.direct import Direct
from iot.gateway.intake import Intake
from iot.gateway.mqtt_url import parse_url
from iot.gateway.process import parse_args
from iot.gateway.tokens import Clients, Tokens
from iot.gateway.writer import Unavailable
from iot.web.listening import listen
from tests.support.gateway import installed
from tests.support.gateway_writer import FakeWriter

PAGE = (Path(__file__).parents[3] / "docs" / "devices.md").read_text(encoding="utf-8")
EXAMPLES = PAGE[PAGE.index("### Your devices") : PAGE.index("### Repeats")]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```\n", EXAMPLES, re.DOTALL)
UPLINK = {
    "end_device_ids": {"device_id": "dragino"},
    "uplink_message": {"decoded_payload": {"temperature": 21.5}, "received_at": "2024-01-15T10:00:00Z"},
}


@contextmanager
def serving(writer, clients):
    """A gateway with a writer; yields the address that stands for the one in the examples."""
    services = Services(Intake(lambda text: None), writer, clients)
    port = find_free_port()
    server = GatewayServer(listen("127.0.0.1", port), create_app(services), Direct(services))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop()


def of_language(language):
    [found] = [text for name, text in BLOCKS if name == language]
    return found


def line_with(text):
    [found] = [line for _, block in BLOCKS for line in block.splitlines() if text in line]
    return found


def post(url, content, headers):
    """As MicroPython's ``requests.post``."""
    request = urllib.request.Request(url, content.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def written(writer):
    return [(each.sensor_id, each.sensor_type, each.value) for each in writer.written]


class Over(BaseException):
    """Ends the endless loop of a device."""


def micropython(writer, rounds):
    """The modules of MicroPython that the sketch uses, for so many rounds; by their names."""
    tries: list[Any] = []

    def send(url, json, headers, timeout):
        assert len(tries) < 10
        tries.append(json)
        # The first try fails on the way, the second finds no Kafka, and the answer of the third gets lost.
        if len(tries) == 1:
            raise OSError("no network")
        writer.error = Unavailable("no Kafka") if len(tries) == 2 else None
        status = post(url, to_json(json), headers)
        if len(tries) == 3:
            raise OSError("no answer")
        return SimpleNamespace(status_code=status, close=lambda: None)

    def sleep(seconds):
        if seconds == 10 and tries[-1][0]["sequence"] == rounds - 1:
            raise Over

    to_json = json.dumps
    wlan = SimpleNamespace(active=bool, connect=lambda name, password: None, isconnected=lambda: True)
    sensor = SimpleNamespace(measure=lambda: None, temperature=lambda: 21.5, humidity=lambda: 45.0)
    return {
        "dht": SimpleNamespace(DHT22=lambda pin: sensor),
        "machine": SimpleNamespace(Pin=int),
        "network": SimpleNamespace(WLAN=lambda interface: wlan, STA_IF=0),
        "ntptime": SimpleNamespace(settime=lambda: None),
        "os": SimpleNamespace(urandom=os.urandom),
        "requests": SimpleNamespace(post=send),
        "time": SimpleNamespace(sleep=sleep, gmtime=time.gmtime),
    }


def test_the_sketch_for_micropython_sends_each_reading_once():
    writer = FakeWriter()
    with serving(writer, Clients("A1B2")) as address:
        modules = micropython(writer, 3)
        imports = {"__import__": lambda name, *_: modules[name]}
        code = of_language("python").replace("192.168.1.10:8080", address)
        with pytest.raises(Over):
            exec(code, {"__builtins__": vars(builtins) | imports})
    assert written(writer) == [("greenhouse", "temperature", 21.5), ("greenhouse", "humidity", 45.0)] * 3
    assert [each.sequence for each in writer.written] == [0, 0, 1, 1, 2, 2]


def test_the_filter_for_zigbee2mqtt_and_its_payload():
    args = parse_args(shlex.split(line_with("zigbee2mqtt"))[3:])
    assert (args.mqtt_url, args.mqtt_topic) == ("mqtt://localhost:1883", ["zigbee2mqtt/+"])
    payload = b'{"battery":100,"humidity":45.2,"linkquality":120,"temperature":21.37,"voltage":3000}'
    taken = Intake(lambda text: None).take(payload, "zigbee2mqtt/living_room")
    assert [(each.sensor_id, each.sensor_type) for each in taken.messages] == [
        ("living_room", "humidity"),
        ("living_room", "temperature"),
    ]


def test_a_thingsboard_client_with_its_token_in_the_path():
    installed("curl", "curl")
    writer = FakeWriter()
    with serving(writer, Clients(None, Tokens({"A1B2": "attic"}))) as address:
        command = shlex.split(line_with("curl").replace("192.168.1.10:8080", address))
        answer = subprocess.run([*command, "-s", "--noproxy", "*"], capture_output=True, check=True).stdout
    assert json.loads(answer)["written"] == 2
    assert written(writer) == [("attic", "temperature", 21.5), ("attic", "humidity", 45.0)]


def test_the_command_for_home_assistant():
    document = yaml.safe_load(of_language("yaml"))
    command = document["rest_command"]["iot_gateway"]
    [action] = document["automation"][0]["actions"]
    assert action["action"] == "rest_command.iot_gateway"
    trigger = {"to_state": {"state": "21.5"}}
    data = {name: jinja2.Template(value).render(trigger=trigger) for name, value in action["data"].items()}
    payload = jinja2.Template(command["payload"]).render(data)
    writer = FakeWriter()
    with serving(writer, Clients("A1B2")) as address:
        headers = command["headers"] | {"Content-Type": command["content_type"]}
        assert post(command["url"].replace("192.168.1.10:8080", address), payload, headers) == 200
    assert written(writer) == [("attic", "temperature", 21.5)]


def test_a_webhook_of_the_things_stack_and_its_mqtt_server():
    path = re.search(r"path `(\S+)` for uplink", EXAMPLES)[1]
    name, value = re.search(r"header `(\S+): (Bearer \S+)`", EXAMPLES).groups()
    writer = FakeWriter()
    with serving(writer, Clients("A1B2")) as address:
        assert post(f"http://{address}{path}", json.dumps(UPLINK), {name: value}) == 200
    assert written(writer) == [("dragino", "temperature", 21.5)]
    url = parse_url(line_with("IOT_MQTT_URL").split("'")[1])
    assert (url.host, url.port, url.user, url.password) == (
        "eu1.cloud.thethings.network", 8883, "APPLICATION@ttn", "API-KEY",
    )  # fmt: skip
    args = parse_args(["--mqtt-url", "mqtt://localhost", *shlex.split(line_with("devices/+/up"))[3:]])
    topic = args.mqtt_topic[0].replace("+", "app", 1).replace("+", "dragino")
    [reading] = Intake(lambda text: None).take(json.dumps(UPLINK).encode(), topic).messages
    assert reading.sensor_id == "dragino"
