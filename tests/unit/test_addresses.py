"""Addresses of Kafka servers: the forms that Kafka's own tools take, and those that they refuse."""

from __future__ import annotations

import pytest

from iot.addresses import Address, join, parse_addresses


# What Kafka 4.4 takes and refuses, as its admin client showed. Two empty entries differ: see the last test.
@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("localhost:9092", "localhost:9092"),
        (" localhost:9092 ", "localhost:9092"),
        ("one:9092, two:9093 ,three:9094", "one:9092,two:9093,three:9094"),
        ("one:9092,one:9092,One:9092", "one:9092,One:9092"),
        ("PLAINTEXT://one:9092,SASL_SSL://two:9093", "one:9092,two:9093"),
        ("my-own.listener_1://one:9092", "one:9092"),
        ("LOCALHOST:9092", "LOCALHOST:9092"),
        ("kafka_1.my-net:9092", "kafka_1.my-net:9092"),
        ("[::1]:9092", "[::1]:9092"),
        ("::1:9092", "[::1]:9092"),
        ("2001:db8::8:800", "[2001:db8::8]:800"),
        ("SSL://[2001:db8::8]:9093", "[2001:db8::8]:9093"),
        ("[fe80::1%eth0]:9092", "[fe80::1%eth0]:9092"),
        ("fe80::1%eth0:9092", "[fe80::1%eth0]:9092"),
        ("[localhost]:9092", "localhost:9092"),
        ("127.0.0.1:09092", "127.0.0.1:9092"),
    ],
)
def test_what_kafka_takes_is_normalised(text, normal):
    assert join(parse_addresses(text)) == normal
    assert join(parse_addresses(normal)) == normal


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("localhost", "'localhost' is not host:port"),
        ("localhost:", "'localhost:' is not host:port"),
        ("localhost: 9092", "'localhost: 9092' is not host:port"),
        ("one:9092;two:9092", "'one:9092;two:9092' is not host:port"),
        ("one:9092 two:9092", "'one:9092 two:9092' is not host:port"),
        ("one:9092,two", "'two' is not host:port"),
        ("localhost:9092/", "is not host:port"),
        ("http:localhost:9092", "in brackets"),
        ("::1", "in brackets"),
        ("localhost:70000", "no port from 1 to 65535"),
        ("localhost:0", "no port from 1 to 65535"),
        ("localhost:²", "is not host:port"),
        (":9092", "has no host"),
        ("köln:9092", "is not host:port"),
        ("", "empty entry"),
        (",", "empty entry"),
        ("one:1,,two:2", "empty entry"),
        (",one:1", "empty entry"),
    ],
)
def test_what_kafka_refuses_is_named(text, wrong):
    with pytest.raises(ValueError, match=r"^'") as raised:
        parse_addresses(text)
    assert wrong in str(raised.value)


def test_one_comma_at_the_end_is_allowed_as_in_older_versions_of_kafka():
    assert parse_addresses("one:1, two:2, ") == [Address("one", 1), Address("two", 2)]
