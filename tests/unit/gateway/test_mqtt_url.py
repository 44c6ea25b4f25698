"""URLs of MQTT brokers, and topic filters."""

from __future__ import annotations

import pytest

from iot.gateway.mqtt_url import MqttUrl, is_filter, parse_url
from iot.settings import UserError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mqtt://localhost", MqttUrl("localhost", 1883, False)),
        ("mqtt://localhost:1884/", MqttUrl("localhost", 1884, False)),
        ("MQTTS://broker.example", MqttUrl("broker.example", 8883, True)),
        ("mqtts://me:p%40ss@[::1]:9", MqttUrl("::1", 9, True, "me", "p@ss")),
    ],
)
def test_a_url_is_read(text, wanted):
    assert parse_url(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "localhost:1883",
        "http://localhost",
        "mqtt://",
        "mqtt://h:0",
        "mqtt://h:x",
        "mqtt://u:SECRET@h/topic",
        "mqtt://[",
        "",
    ],
)
def test_a_wrong_url_is_refused_and_not_shown(text):
    with pytest.raises(UserError, match="--mqtt-url") as error:
        parse_url(text)
    assert "SECRET" not in str(error.value)


def test_a_url_is_shown_without_its_password():
    url = parse_url("mqtt://me:SECRET@[::1]")
    assert str(url) == "mqtt://[::1]:1883"
    assert "SECRET" not in repr(url)


@pytest.mark.parametrize("text", ["#", "a", "a/b", "+", "a/+/c", "a/#", "/", "a//b", "+/+/#"])
def test_topic_filters(text):
    assert is_filter(text)


@pytest.mark.parametrize("text", ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a\0b", "x" * 65_536])
def test_what_is_no_topic_filter(text):
    assert not is_filter(text)
