"""Flags that every script shares, and Kafka properties files."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from iot import cli
from iot.cli import kafka_from, parser
from iot.properties_file import read_properties
from iot.settings import Kafka, UserError, reason


def test_shared_flags_unless_told(monkeypatch):
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    args = parser("What it does.\n\nMore.").parse_args([])
    assert (args.bootstrap_servers, args.topic, args.kafka_config) == ("localhost:9092", "iot-sensors", None)
    assert kafka_from(args) == Kafka("localhost:9092", {})


def test_the_environment_names_the_servers_and_a_flag_overrides_it(monkeypatch):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "one:9092,two:9093")
    assert parser(None).parse_args([]).bootstrap_servers == "one:9092,two:9093"
    assert parser(None).parse_args(["--bootstrap-servers", "[::1]:9094"]).bootstrap_servers == "[::1]:9094"


def test_help_opens_with_the_first_paragraph():
    text = parser("Reads sensors,\nall of them.\n\nDetails.").format_help()
    assert "Reads sensors, all of them." in text
    assert "Details" not in text
    assert "--topic" not in parser(None, topic=False).format_help()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--bootstrap-servers", "localhost"],
        ["--bootstrap-servers", ":9092"],
        ["--bootstrap-servers", "localhost:99999"],
        ["--bootstrap-servers", "localhost:²"],
        ["--bootstrap-servers", "a:1,,b:2"],
        ["--topic", ""],
        ["--topic", "a b"],
        ["--topic", ".."],
        ["--topic", "x" * 250],
        ["--top", "abbreviated"],
    ],
)
def test_bad_flags_exit_2(wrong, refuses):
    refuses(parser(None).parse_args, wrong)


def test_bad_servers_in_the_environment_exit_2(monkeypatch, refuses):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "nonsense")
    assert "'nonsense' is not host:port" in refuses(parser(None).parse_args, [])


@pytest.mark.parametrize(
    ("kind", "good", "wrong"),
    [
        (cli.positive_int, {"1": 1, "007": 7}, ["0", "-1", "1.5", "x", ""]),
        (cli.positive_float, {"0.5": 0.5, "1e3": 1000.0}, ["0", "-1", "nan", "inf", "x"]),
        (cli.ratio, {"0": 0.0, "1": 1.0, "0.25": 0.25}, ["-0.1", "1.1", "nan", "x"]),
        (cli.port_number, {"1": 1, "65535": 65535}, ["0", "65536", "x"]),
    ],
)
def test_numbers(kind, good, wrong):
    assert {text: kind(text) for text in good} == good
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' is not a"):
            kind(text)


PROPERTIES = r"""
# a comment
! another
security.protocol=SASL_SSL
sasl.mechanism: SCRAM-SHA-512
ssl.truststore.type   PEM
  ssl.endpoint.identification.algorithm =
sasl.jaas.config = org.apache.kafka.common.security.scram.ScramLoginModule required \
    username="reader" \
    # no comment \
    password="a=b:c\\d";
client.id=caf\u00e9\:1
escaped\ key\:x=1
ends.in.a.backslash=C:\\
last=one\
"""


def test_properties_as_java_reads_them(tmp_path: Path):
    path = tmp_path / "client.properties"
    path.write_text(PROPERTIES)
    assert read_properties(path) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "ssl.truststore.type": "PEM",
        "ssl.endpoint.identification.algorithm": "",
        "sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required "
            'username="reader" # no comment password="a=b:c\\d";'
        ),
        "client.id": "café:1",
        "escaped key:x": "1",
        "ends.in.a.backslash": "C:\\",
        "last": "one",
    }


def test_a_line_that_is_no_property_is_named(tmp_path: Path):
    path = tmp_path / "client.properties"
    path.write_text("security.protocol=SSL\n\nnonsense\n")
    with pytest.raises(UserError, match=r"client.properties, line 3: expected key=value$"):
        read_properties(path)


def test_a_properties_file_that_is_not_there(tmp_path: Path):
    args = parser(None).parse_args(["--kafka-config", str(tmp_path / "none")])
    with pytest.raises(UserError, match=r"^cannot read .*none: No such file or directory$"):
        kafka_from(args)


def test_passwords_are_not_in_the_repr():
    assert "secret" not in repr(Kafka(properties={"ssl.key.password": "secret"}))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (ValueError(), "ValueError"),
        (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory"),
    ],
)
def test_reason_is_one_line(error, words):
    assert reason(error) == words
