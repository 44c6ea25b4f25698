"""The flags of the load tests."""

from __future__ import annotations

import pytest

from performance_test import parse_args


@pytest.mark.parametrize(
    "flags",
    [
        "--test fast",
        "--messages 0",
        "--threads 0",
        "--threads 1,,2",
        "--threads 1,1000",
        "--rate -1",
        "--rate 1e9",
        "--duration 5",
        "--messages 5 --duration 5 --rate 1",
        "--test compare --rate 5",
        "--test end-to-end --threads 1,2",
        "--in-flight 0",
        "--client librdkafka",
        "--margin x",
        "--delivery-timeout 0.5",
        "more",
    ],
)
def test_bad_flags_exit_2(flags, refuses):
    refuses(parse_args, flags.split())


@pytest.mark.parametrize(
    ("flags", "test"),
    [
        ("", None),
        ("--client both", None),
        ("--messages 5", "custom"),
        ("--threads 2", "custom"),
        ("--test burst", "burst"),
    ],
)
def test_numbers_without_a_test_run_the_custom_test(flags, test):
    assert parse_args(flags.split()).test == test
