"""One receiver of the notifier: pauses after failures, reports, counts, and a log that fails."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from iot.alarms.grouping import Entry, Routing, encode_entry, plan
from iot.alarms.lane import Lane
from iot.alarms.model import Alarm
from iot.alarms.notifier import Notifier
from iot.alarms.notify_file import Notify, Receiver
from iot.alarms.outcome import DELIVERED, Outcome, of_status
from iot.alarms.receivers import Deliver
from iot.alarms.secret import Secret
from iot.alarms.shared import KEPT_S, SharedLog, SharedSource
from tests.support.alarms import MemoryLog, alarm, resolved

FAST = Routing(group_wait_s=0, group_interval_s=1)
REFUSED = Outcome("failed", "connection refused")


def receiver(name="ops", routing=FAST, url="http://localhost"):
    return Receiver(name, "webhook", Secret(url), {}, routing, 0)


class Bench:
    """A lane with a clock, alarms and outcomes to choose."""

    def __init__(self, routing=FAST, jitter=1.0):
        self.now_s = 1000.0
        self.alarms: list[Alarm] | Exception = [alarm("a")]
        self.outcome: Outcome | Deliver = DELIVERED
        self.log = MemoryLog()
        self.lines: list[str] = []
        self.attempts: list[tuple[float, str]] = []
        self.jitter, self.routing = jitter, routing
        self.restart()

    def restart(self, is_stopped=lambda: False, find=lambda _: []):
        self.lane = Lane(
            receiver(routing=self.routing),
            self.deliver,
            self.source,
            SharedLog(self.log, {"ops"}),
            self.lines.append,
            lambda: self.now_s,
            lambda: self.jitter,
            is_stopped,
            find,
        )

    def source(self):
        if isinstance(self.alarms, Exception):
            raise self.alarms
        return self.alarms

    def deliver(self, notification):
        self.attempts.append((self.now_s, notification.group_key))
        return self.outcome if isinstance(self.outcome, Outcome) else self.outcome(notification)

    def run(self, seconds, step_s=1.0):
        for _ in range(round(seconds / step_s)):
            while self.lane.step():
                pass
            self.now_s += step_s


PAUSES = {1.0: [1, 2, 4, 8, 16, 32, 60, 60], 0.0: [0.5, 1, 2, 4, 8, 16, 30, 30]}


@pytest.mark.parametrize(("jitter", "gaps"), PAUSES.items())
def test_pauses_grow_until_a_minute(jitter, gaps):
    bench = Bench(jitter=jitter)
    bench.outcome = REFUSED
    bench.run(sum(gaps) + 1, 0.5)
    times = [at_s for at_s, _ in bench.attempts]
    assert [b - a for a, b in pairwise(times)][: len(gaps)] == gaps


def test_a_receiver_that_works_again_gets_its_message_once_and_both_is_said_once():
    bench = Bench()
    bench.outcome = REFUSED
    bench.run(20)
    bench.outcome = DELIVERED
    bench.run(100)
    assert bench.lane.counts == {"failed": 5, "delivered": 1}
    assert bench.lines == [
        "warning: notifications to 'ops' fail: connection refused; trying again",
        "notifications to 'ops' work again",
    ]


def test_a_receiver_may_ask_for_a_longer_pause_up_to_a_minute():
    bench = Bench()
    bench.outcome = of_status(429, 30)
    bench.run(40)
    assert [at_s for at_s, _ in bench.attempts] == [1000, 1030]
    bench = Bench()
    bench.outcome = of_status(503, 1e6)
    bench.run(70)
    assert [at_s for at_s, _ in bench.attempts] == [1000, 1060]


def test_a_rejected_message_waits_and_is_reported_once_while_others_pass():
    bench = Bench(Routing(group_by=("sensor_id",), group_wait_s=0, group_interval_s=1))
    bench.alarms = [alarm("a"), alarm("b")]
    bench.outcome = lambda due: of_status(400) if due.labels["sensor_id"] == "sensor_a" else DELIVERED
    bench.run(1000)
    assert [at_s for at_s, key in bench.attempts if "sensor_a" in key] == [1000, 1300, 1600, 1900]
    assert bench.lines == [
        "warning: notifications to 'ops' fail: it answered 400 Bad Request: check its URL and headers; the message "
        'about {}:{sensor_id="sensor_a"} is tried again later'
    ]


def test_a_group_that_always_fails_does_not_hold_up_the_others():
    bench = Bench(Routing(group_by=("sensor_id",), group_wait_s=0))
    bench.alarms = [alarm("a"), alarm("b"), alarm("c")]
    bench.outcome = lambda due: of_status(500) if due.labels["sensor_id"] == "sensor_a" else DELIVERED
    bench.run(5)
    assert bench.lane.counts["delivered"] == 2


def each_by_itself(count):
    bench = Bench(Routing(group_by=("sensor_id",), group_wait_s=0))
    bench.alarms = [alarm(str(number)) for number in range(count)]
    return bench


def test_many_groups_are_planned_once_and_written_once_for_each_message(monkeypatch):
    """The cost is that of the messages: neither plan nor transactions grow with their square."""
    plans = []

    def count_plans(*args):
        plans.append(args)
        return plan(*args)

    monkeypatch.setattr("iot.alarms.lane.plan", count_plans)
    bench = each_by_itself(500)
    assert bench.lane.step()
    assert (len(bench.attempts), len(plans)) == (500, 1)
    assert bench.log.saves == 502
    assert not bench.lane.step()
    bench.restart()
    bench.run(5)
    assert len(bench.attempts) == 500


def test_messages_that_take_long_are_planned_again_as_alarms_end_meanwhile():
    bench = each_by_itself(100)

    def deliver(notification):
        bench.now_s += 1.0
        bench.alarms = [resolved(one) for one in bench.alarms]
        return DELIVERED

    bench.outcome = deliver
    bench.lane.step()
    assert 1 < len(bench.attempts) < 10
    told = len(bench.attempts)
    bench.run(10)
    # Of the others nothing is told; these end after group_interval.
    assert len(bench.attempts) == told


def test_a_stop_ends_the_messages_that_are_due():
    bench, stop = each_by_itself(5), threading.Event()
    bench.restart(stop.is_set)

    def deliver(notification):
        stop.set()
        return DELIVERED

    bench.outcome = deliver
    assert bench.lane.step()
    assert len(bench.attempts) == 1
    bench.restart()
    bench.outcome = DELIVERED
    bench.run(5)
    assert len(bench.attempts) == 5


def test_a_success_before_a_failure_is_reported_before_it():
    bench = each_by_itself(3)
    bench.outcome = REFUSED
    bench.lane.step()
    bench.now_s += 10
    outcomes = [DELIVERED, REFUSED]
    bench.outcome = lambda notification: outcomes.pop(0)
    bench.lane.step()
    failed = "warning: notifications to 'ops' fail: connection refused; trying again"
    assert bench.lines == [failed, "notifications to 'ops' work again", failed]


def test_many_messages_that_are_rejected_are_one_line_and_hold_up_no_other():
    bench = each_by_itself(500)
    bench.outcome = lambda due: DELIVERED if due.labels["sensor_id"] == "sensor_499" else of_status(404)
    bench.lane.step()
    assert bench.lane.counts == {"rejected": 499, "delivered": 1}
    assert len(bench.lines) == 1


def test_one_failure_ends_the_messages_that_are_due():
    bench = each_by_itself(5)
    bench.outcome = REFUSED
    assert not bench.lane.step()
    assert len(bench.attempts) == 1


def test_nothing_is_sent_while_the_log_cannot_be_written():
    bench = Bench()
    bench.log.is_broken = True
    bench.run(10)
    assert bench.attempts == []
    bench.log.is_broken = False
    bench.run(10)
    assert len(bench.attempts) == 1
    assert bench.lines == [
        "warning: notifications to 'ops' fail: the notification log cannot be used (OSError); trying again",
        "notifications to 'ops' work again",
    ]


def test_a_log_that_fails_after_a_delivery_is_written_later():
    bench = Bench()

    def deliver(notification):
        bench.log.is_broken = True
        return DELIVERED

    bench.outcome = deliver
    bench.run(10)
    assert len(bench.attempts) == 1
    bench.log.is_broken = False
    bench.run(2)
    bench.restart()
    bench.run(10)
    assert len(bench.attempts) == 1


def test_alarms_that_cannot_be_read_end_nothing():
    bench = Bench()
    bench.run(2)
    bench.alarms = OSError("secret of the database")
    bench.run(100)
    assert len(bench.attempts) == 1
    assert bench.lines == ["warning: notifications to 'ops' fail: the alarms cannot be read (OSError); trying again"]


def test_a_restart_repeats_nothing():
    bench = Bench()
    bench.run(5)
    bench.restart()
    bench.run(5)
    bench.alarms = [resolved(alarm("a"))]
    bench.run(5)
    bench.restart()
    bench.run(5)
    assert len(bench.attempts) == 2
    assert bench.log.entries == {}


def test_the_end_of_an_alarm_is_its_own_also_if_it_is_told_much_later():
    bench, over = Bench(), resolved(alarm("a"), 1234)
    ends: list[str | None] = []
    bench.restart(find=lambda ids: [over] if ids == {"a"} else [])
    bench.run(2)
    bench.outcome = REFUSED
    bench.alarms = [over]
    bench.run(60)
    # The notifier does not see it any more.
    bench.alarms = []
    bench.run(100)

    def deliver(notification):
        ends.extend(one.resolved for one in notification.resolved)
        return DELIVERED

    bench.outcome = deliver
    bench.run(100)
    assert ends == [over.resolved]


def test_a_clock_that_is_set_back_does_not_prolong_a_pause():
    bench = Bench()
    bench.now_s = 1e9
    bench.outcome = REFUSED
    bench.run(1)
    bench.now_s = 10.0
    bench.run(310)
    assert len(bench.attempts) >= 2


def test_a_damaged_entry_is_reported_and_replaced():
    bench = Bench()
    bench.log.entries["ops", "{}:{}"] = b"\xff"
    bench.run(5)
    assert len(bench.attempts) == 1
    assert bench.lines[0].startswith(
        "warning: notifications to 'ops' fail: an entry of the notification log is damaged"
    )


def test_old_entries_of_receivers_that_are_gone_are_deleted():
    log = MemoryLog()
    log.entries = {
        ("old", "a"): encode_entry(Entry(told=(alarm("a"),), sent_s=1e9)),
        ("new", "a"): encode_entry(Entry(told=(alarm("a"),), sent_s=1e9 + 2)),
        ("ops", "a"): encode_entry(Entry(told=(alarm("a"),), sent_s=1.0)),
        ("damaged", "a"): b"?",
    }
    assert list(SharedLog(log, {"ops"}).read("ops", 1e9 + KEPT_S + 1)) == ["a"]
    assert set(log.entries) == {("new", "a"), ("ops", "a")}


def notifier(*receivers, log=None, report=print, source=None, **options):
    return Notifier(
        Notify(receivers), source or (lambda: [alarm("a")]), log or MemoryLog(), report=report, poll_s=0.01, **options
    )


def test_a_receiver_that_hangs_delays_neither_the_others_nor_the_stop(monkeypatch):
    hangs, release, passes = threading.Event(), threading.Event(), threading.Event()
    log = MemoryLog()

    def post(url, headers, body):
        if "hangs" in url:
            hangs.set()
            release.wait(30)
        else:
            passes.set()
        return DELIVERED

    monkeypatch.setattr("iot.alarms.notifier.deliver_to", lambda one, *_: lambda _: post(one.url.reveal(), {}, b""))
    running = notifier(receiver("a", url="http://hangs"), receiver("b"), log=log)
    running.start()
    assert hangs.wait(10)
    assert passes.wait(10)
    begun_s = time.monotonic()
    running.stop()
    assert time.monotonic() - begun_s < 2
    entries = dict(log.entries)
    release.set()
    for thread in running._threads:
        thread.join(10)
    assert log.entries == entries, "the log is not used after the stop"
    assert running.results()["a", "delivered"] == 1


def test_receivers_share_the_alarms_that_were_read_within_a_second():
    now_s, reads = [100.0], []

    def source():
        reads.append(now_s[0])
        return [alarm("a")]

    shared = SharedSource(source, 1.0, lambda: now_s[0])
    assert [shared() for _ in range(3)] == [[alarm("a")]] * 3
    assert reads == [100.0]
    now_s[0] += 1.0
    shared()
    assert reads == [100.0, 101.0]


def test_an_error_of_the_source_is_not_shared():
    errors = [OSError("no")]

    def source():
        if errors:
            raise errors.pop()
        return []

    shared = SharedSource(source, 1.0, lambda: 0.0)
    with pytest.raises(OSError, match="no"):
        shared()
    assert shared() == []


def test_an_error_in_the_program_is_reported_and_the_thread_goes_on(monkeypatch):
    def deliver(notification):
        raise RuntimeError("http://localhost/secret")

    lines: list[str] = []
    monkeypatch.setattr("iot.alarms.notifier.deliver_to", lambda *_: deliver)
    running = notifier(receiver(), report=lines.append)
    running.start()
    while not lines:
        time.sleep(0.01)
    running.stop()
    assert lines == ["warning: notifications to 'ops' fail: internal error RuntimeError; trying again"]


def test_results_are_there_from_the_start():
    running = notifier(receiver("a"), receiver("b"))
    assert running.results() == {
        (name, result): 0 for name in ("a", "b") for result in ("delivered", "failed", "rejected")
    }


@pytest.mark.parametrize(
    ("status", "result"),
    [
        *((status, "delivered") for status in (200, 204)),
        *((status, "rejected") for status in (302, 400, 404)),
        *((status, "failed") for status in (101, 408, 429, 500, 503, 599)),
    ],
)
def test_a_status_says_whether_to_try_again(status, result):
    assert of_status(status).result == result
