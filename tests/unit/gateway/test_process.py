"""The flags of the gateway."""

from __future__ import annotations

import pytest

from iot.broker.broker import find_free_port
from iot.gateway.process import main, parse_args


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--http-port", "0"], "--http-port"),
        (["--mqtt-topic", "a"], "--mqtt-url"),
        (["--mqtt-url", "http://localhost"], "--mqtt-url"),
        (["--mqtt-url", "mqtt://localhost", "--mqtt-topic", "a#"], "--mqtt-topic"),
        (["--tokens", "-", "--map", "-"], "standard input"),
        (["--rate", "7"], "--rate"),
    ],
)
def test_bad_flags_end_with_status_2(refuses, flags, named):
    assert named in refuses(parse_args, flags)


def test_secrets_may_come_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("IOT_TOKEN", "SESAME")
    monkeypatch.setenv("IOT_MQTT_URL", "mqtt://me:SESAME@localhost")
    args = parse_args(["--mqtt-topic", "a/#", "--mqtt-topic", "b"])
    assert (args.token, args.mqtt_url) == ("SESAME", "mqtt://me:SESAME@localhost")
    assert args.mqtt_topic == ["a/#", "b"]
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    assert "SESAME" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--tokens", "/nowhere.toml"], "/nowhere.toml"),
        (["--map", "/nowhere.toml"], "/nowhere.toml"),
        (["--mqtt-url", "mqtts://localhost", "--mqtt-ca", "/nowhere.pem"], "--mqtt-ca"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(capsys, monkeypatch, flags, named):
    monkeypatch.delenv("IOT_TOKEN", raising=False)
    assert main([*flags, "--http-port", str(find_free_port())]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line
