"""What is said of how sending goes."""

from __future__ import annotations

import re
from types import SimpleNamespace as Account

import numpy as np

from iot.sensors.progress import Progress, Tally, Watch


def test_the_watch_says_once_that_kafka_is_away_and_that_it_is_back():
    watch = Watch("here:1", 0.0)
    assert watch.look(0, 5, 0, "", 2.9) == []
    assert watch.look(0, 5, 0, "", 3.0) == [
        "Kafka at here:1 has acknowledged nothing for 3 s; trying until it does, all that was sent is kept"
    ]
    assert watch.look(0, 9, 0, "", 60.0) == []
    assert watch.look(4, 5, 0, "", 61.4) == ["Kafka at here:1 is back after 61 s"]
    # With nothing in flight there is nothing to hear.
    assert watch.look(9, 0, 0, "", 62.0) == []
    assert watch.look(9, 0, 0, "", 99.0) == []
    assert watch.look(9, 1, 0, "", 101.9) == []
    assert len(watch.look(9, 1, 0, "", 102.1)) == 1


def test_the_watch_tells_failures_now_and_then():
    watch = Watch("here:1", 0.0)
    assert watch.look(1, 0, 1_200, "too large", 1.0) == ["FAILED 1,200 messages: too large"]
    assert watch.look(1, 0, 1_300, "too large", 10.9) == []
    assert watch.look(1, 0, 1_300, "too large", 11.0) == ["FAILED 100 messages: too large"]


def test_status_and_summary():
    sender, tally = Account(accepted=200, acknowledged=190, failed=4), Tally()
    progress = Progress(sender, tally, 100, 1_000, 50.0)  # type: ignore[arg-type]
    assert progress.status(52.0) == "100/s, 200 sent, 190 acknowledged, 4 failed, 6 in flight"
    assert progress.status(54.0).endswith(", 2 s behind")
    sender.accepted = 1_000
    assert "behind" not in progress.status(100.0)
    sender.last_error, tally.last_s = "gone", 59.99
    tally.malformed, tally.late = 3, 2
    tally.delays.add(np.array([0.002, 0.004]))
    summary = progress.summary(806, "abc")
    assert re.fullmatch(
        r"sent 1,000 messages in 10\.0 s \(100/s of 100/s asked for\)\nacknowledged: 190\nfailed: 4 \(gone\)\n"
        r"not acknowledged: 806 \(Kafka may or may not have them\)\nmalformed: 3\nlate: 2\n"
        r"sent after they were due: p50 2\.0 ms, p99 4\.0 ms, max 4\.0 ms\nrun_id: abc",
        summary,
    )
