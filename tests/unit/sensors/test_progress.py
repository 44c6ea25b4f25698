"""What the producer reports: outages, failures, a status line and a summary."""

from __future__ import annotations

import re
import threading
from types import SimpleNamespace as Account

import numpy as np

from iot.sensors.pacing import Schedule
from iot.sensors.progress import DeliveryMonitor, Progress
from iot.sensors.sending import PacedSending


class Monitored:
    """A monitor of an account that the test sets."""

    def __init__(self) -> None:
        self._account = Account()
        self._monitor = DeliveryMonitor(self._account, "here:1", 0.0)  # type: ignore[arg-type]

    def notices(self, acknowledged: int, in_flight: int, failed: int, error: str, now_s: float) -> list[str]:
        account = Account(acknowledged=acknowledged, in_flight=in_flight, failed=failed, last_error=error)
        self._account.__dict__.update(account.__dict__)
        return self._monitor.notices(now_s)


def test_an_outage_is_reported_once_and_so_is_its_end():
    monitor = Monitored()
    assert monitor.notices(0, 5, 0, "", 2.9) == []
    assert monitor.notices(0, 5, 0, "", 3.0) == [
        "Kafka at here:1 has acknowledged nothing for 3 s; retrying until it does, all messages are kept"
    ]
    assert monitor.notices(0, 9, 0, "", 60.0) == []
    assert monitor.notices(4, 5, 0, "", 61.4) == ["Kafka at here:1 is back after 61 s"]
    # With nothing in flight there is nothing to acknowledge.
    assert monitor.notices(9, 0, 0, "", 62.0) == []
    assert monitor.notices(9, 0, 0, "", 99.0) == []
    assert monitor.notices(9, 1, 0, "", 101.9) == []
    assert len(monitor.notices(9, 1, 0, "", 102.1)) == 1


def test_failures_are_reported_at_most_every_ten_seconds():
    monitor = Monitored()
    assert monitor.notices(1, 0, 1_200, "too large", 1.0) == ["FAILED 1,200 messages: too large"]
    assert monitor.notices(1, 0, 1_300, "too large", 10.9) == []
    assert monitor.notices(1, 0, 1_300, "too large", 11.0) == ["FAILED 100 messages: too large"]


def test_status_and_summary():
    sender = Account(accepted=200, acknowledged=190, failed=4)
    sending = PacedSending(sender, Schedule(100, 50.0), 1_000, threading.Event(), lambda *_: None)  # type: ignore[arg-type]
    progress = Progress(sending)
    assert progress.status(52.0) == "100/s, 200 sent, 190 acknowledged, 4 failed, 6 in flight"
    assert progress.status(54.0).endswith(", 2 s behind")
    sender.accepted = 1_000
    assert "behind" not in progress.status(100.0)
    sender.last_error, sending.counts.last_s = "gone", 59.99
    sending.counts.malformed, sending.counts.late = 3, 2
    sending.counts.delays.add(np.array([0.002, 0.004]))
    summary = progress.summary(806, "abc")
    assert re.fullmatch(
        r"sent 1,000 messages in 10\.0 s \(100/s, target 100/s\)\nacknowledged: 190\nfailed: 4 \(gone\)\n"
        r"not acknowledged: 806 \(they may or may not be in Kafka\)\nmalformed: 3\nlate: 2\n"
        r"delay after the due time: p50 2\.0 ms, p99 4\.0 ms, max 4\.0 ms\nrun_id: abc",
        summary,
    )
