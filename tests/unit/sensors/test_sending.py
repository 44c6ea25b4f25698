"""Paced sending: exactly the limit is sent, in bounded batches, and only accepted messages are counted."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict

import numpy as np
import pytest

from iot.kafka.sender import Record, Sender
from iot.readings import Rejected, decode
from iot.sensors.faults import Injector
from iot.sensors.fleet import Fleet
from iot.sensors.pacing import Schedule
from iot.sensors.sending import MAX_BATCH, PacedSending, SendingThreads
from iot.settings import UserError
from tests.support.senders import Memory


def overdue(sender: Sender, limit: float, rate_per_s: float = 1e6) -> tuple[PacedSending, list[int]]:
    """Sending that should have started 1,000 s ago, and the sizes of its batches so far."""
    sizes: list[int] = []
    schedule = Schedule(rate_per_s, time.monotonic() - 1000)
    sending = PacedSending(
        sender, schedule, limit, threading.Event(), lambda batch, accepted: sizes.append(len(batch.records))
    )
    return sending, sizes


@pytest.mark.parametrize("shares", [1, 3, 10])
@pytest.mark.parametrize("limit", [1, 7, 5_003])
def test_exactly_the_limit_is_sent(limit, shares):
    sender = Memory()
    sending, _ = overdue(sender, limit)
    for share in range(shares):
        sending.send_share(Injector(Fleet(10, 1, "r", share, shares), 0, 0, "1"))
    found = defaultdict(list)
    for record in sender.sent:
        reading = decode(record["value"])
        found[reading.sensor_id].append(reading.sequence)
    assert sum(map(len, found.values())) == limit
    for number in range(10):
        assert found[f"sensor_{number}"] == list(range((limit - number + 9) // 10))


def test_overdue_readings_are_sent_in_bounded_batches_with_the_due_time_as_timestamp():
    sender = Memory()
    before_us = time.time_ns() // 1000
    sending, sizes = overdue(sender, 10_000, rate_per_s=1_000)
    sending.send_share(Injector(Fleet(10, 1, "r"), 0, 0, "1"))
    assert sizes == [MAX_BATCH] * 5
    times_us = [decode(record["value"]).time_us for record in sender.sent]
    assert set(np.diff(times_us)) <= {999, 1000, 1001}
    assert abs(times_us[0] - (before_us - 1000 * 1_000_000)) < 2_000_000
    assert sending.counts.delays.percentile_s(50) == pytest.approx(1000 - 5, rel=0.03)


def test_only_accepted_messages_are_counted():
    sender = Memory(limit=2_500)
    sending, sizes = overdue(sender, 10_000)
    sending.send_share(Injector(Fleet(10, 1, "r"), 0.5, 0.5, "1"))
    assert len(sizes) == 2
    rejected = 0
    for record in sender.sent:
        try:
            decode(record["value"], time.time_ns() // 1_000_000)
        except Rejected:
            rejected += 1
    assert sending.counts.malformed == rejected
    assert 0.2 < sending.counts.late / 2_500 < 0.3


def test_an_error_in_one_thread_ends_all_threads_and_is_kept():
    class Refusing(Memory):
        def send(self, records: list[Record], stop: threading.Event) -> int:
            if records[0]["key"] == b"sensor_1":
                raise UserError("refused")
            return super().send(records, stop)

    sending, _ = overdue(Refusing(), math.inf, rate_per_s=1e-3)
    injectors = [Injector(Fleet(3, 1, "r", share, 3), 0, 0, "1") for share in range(3)]
    with SendingThreads(sending, injectors) as threads:
        while not threads.wait(0.1):
            pass
    assert [str(error) for error in threads.errors] == ["refused"]
    assert sending.stop.is_set()
