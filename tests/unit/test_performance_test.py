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
        "--test max-rate --messages 5",
        "--test max-rate --target-p99 0",
        "--test max-rate --client kafka-python",
        "--test backlog --rate 5",
        "--test backlog --threads 2",
        "--test burst --demo",
        "--test backlog --demo --bootstrap-servers localhost:9092",
        "--demo",
        "--threshold p99",
        "--threshold p98<5",
        "--threshold p99<",
        "--threshold p99<fast",
        "--threshold p99=<5",
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


def test_thresholds_can_be_repeated():
    thresholds = parse_args(["--threshold", "p99<500", "--threshold", " max_rate_per_s >= 4e4"]).threshold
    assert list(map(str, thresholds)) == ["p99<500", "max_rate_per_s>=40000"]


def test_what_is_no_threshold_is_answered_with_an_example(refuses):
    assert "such as p99<500" in refuses(parse_args, ["--threshold", "p99"])
    assert "choose one of mean, p50" in refuses(parse_args, ["--threshold", "p98<5"])


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("[::1]:5000/", "http://[::1]:5000/"),
        (" http://box:5000 ", "http://box:5000"),
        ("https://example.org/iot/?token=x", "https://example.org/iot/?token=x"),
        ("user:secret@box:5000/iot", "http://user:secret@box:5000/iot"),
    ],
)
def test_a_dashboard_url_is_taken_as_users_write_it(given, url):
    assert parse_args(["--dashboard-url", given]).dashboard_url == url


@pytest.mark.parametrize("given", ["", "5000", ":5000", "http://", "ftp://box", "localhost:port", "[::1", "file:///x"])
def test_what_is_no_url_of_a_dashboard_exits_2(given, refuses):
    assert "http://localhost:5000" in refuses(parse_args, ["--dashboard-url", given])
