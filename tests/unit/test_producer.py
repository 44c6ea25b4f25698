"""The producer's flags, and what they mean as a rate and a number of messages."""

from __future__ import annotations

import pytest

from iot_producer import message_limit, parse_args


@pytest.mark.parametrize(
    "flags",
    [
        "--sensors 0",
        "--sensors 1000001",
        "--rate 0",
        "--rate inf",
        "--rate 1e9",
        "--threads 0",
        "--threads 1000",
        "--duration -1",
        "--count 0.5",
        "--seed x",
        "--client librdkafka",
        "--malformed-ratio 1.1",
        "--late-ratio nan",
        "--timestamps recorded",
        "--replay x --sensors 3",
        "--replay x --timestamps recorded --late-ratio 0.1",
        "--replay x --timestamps then",
        "more",
    ],
)
def test_bad_flags_exit_2(flags, refuses):
    refuses(parse_args, flags.split())


@pytest.mark.parametrize(
    ("flags", "rate"),
    [("", 10), ("--sensors 3", 3), ("--sensors 3 --rate 7.5", 7.5), ("--replay f", 1), ("--replay f --rate 9", 9)],
)
def test_each_sensor_sends_once_a_second_by_default(flags, rate):
    assert parse_args(flags.split()).rate == rate


@pytest.mark.parametrize(
    ("flags", "limit"),
    [
        ("", float("inf")),
        ("--rate 2000 --duration 20", 40_000),
        ("--rate 30 --duration 0.1", 3),
        ("--rate 0.1 --duration 1", 1),
        ("--rate 3 --duration 1.5", 5),
        ("--rate 100 --duration 10 --count 7", 7),
        ("--rate 1e7 --duration 1e300 --count 7", 7),
    ],
)
def test_flags_limit_the_number_of_messages(flags, limit):
    assert message_limit(parse_args(flags.split()), None) == limit
