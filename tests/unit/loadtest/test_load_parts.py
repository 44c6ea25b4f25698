"""The parts of the load test, in this process: what is measured, counted and compared, and how it is written down."""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections import defaultdict
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import KafkaError

from iot.broker.broker import find_free_port
from iot.kafka import sender
from iot.kafka.sender import CLIENTS, Mark
from iot.loadtest import course, results, versus
from iot.loadtest.follow import Arrivals, Dashboard, TopicFollower, window_ends
from iot.loadtest.latency import Latencies, Milliseconds
from iot.loadtest.load import Load
from iot.loadtest.plan import COURSE, PRESETS, Plan, make_plan
from iot.loadtest.report import write_report
from iot.loadtest.results import Earlier, Report, Result, Stage, read_earlier, regressions
from iot.loadtest.trial import share_out
from iot.loadtest.usage import Sample, Usage
from iot.loadtest.versus import Contender, messages_of
from iot.loadtest.worker import Job, Lane, Turns, Work
from iot.readings import decode
from iot.sensors.pacing import Schedule
from iot.settings import Kafka, UserError
from tests.support.senders import Memory


def result(**changes) -> Result:
    usual: dict[str, Any] = {
        "test": "burst",
        "client": "kafka-python",
        "client_version": "3",
        "threads": 4,
        "messages": 1_000,
        "messages_sent": 1_000,
        "messages_acknowledged": 1_000,
        "messages_failed": 0,
        "success_rate_pct": 100.0,
        "duration_s": 0.5,
        "throughput_per_s": 2_000.0,
        "latency_ms": Milliseconds(5, 4, 8, 10, 20, 30),
        "latency_from": "the hand-over to the client",
        "latency_of_one_in": 1,
        "warm_up_pct": 5,
        "cpu_pct": 50.0,
        "machine_cpu_pct": 40.0,
        "throughput_per_cpu_pct": 40.0,
        "memory_peak_mb": 60.0,
        "batching": "",
        "in_flight": "",
        "topic": "iot-sensors",
        "topic_grew_by": 1_000,
        "timeline": [Sample(0.25, 400, 60.0, 50.0, 58.0), Sample(0.5, 1_000, 40.0, 30.0, 60.0)],
    }
    return Result(**usual | changes)


# What is measured -----------------------------------------------------------------------------------------------------


def test_percentiles_are_those_of_the_sorted_values():
    chance = random.Random(1)
    values_s = [chance.lognormvariate(-6, 1.5) for _ in range(20_000)]
    latencies = Latencies()
    for begin in range(0, len(values_s), 999):
        latencies.add(values_s[begin : begin + 999])
    told = latencies.milliseconds()
    for name, percent in {"p50": 50, "p95": 95, "p99": 99, "p99_9": 99.9, "max": 100}.items():
        true_ms = 1000 * float(np.percentile(values_s, percent, method="inverted_cdf"))
        assert getattr(told, name) == pytest.approx(true_ms, rel=0.01, abs=0.001), name
    assert told.mean == pytest.approx(1000 * np.mean(values_s), rel=0.002)


def test_histograms_of_several_processes_add_up():
    both, parts = Latencies(), [Latencies(), Latencies()]
    for number, part in enumerate(parts):
        part.add([0.001 + 0.01 * number] * 50)
        both.add_encoded(part.encode())
    assert both.count == 100
    assert both.milliseconds().p50 == pytest.approx(1.0, rel=0.002)
    assert both.milliseconds().max == pytest.approx(11.0, rel=0.002)


def test_of_nothing_there_are_no_percentiles():
    empty = Latencies()
    empty.add([])
    assert empty.milliseconds() == Milliseconds()
    assert results.spread(empty.milliseconds()).count("-") == 6


def test_cpu_and_memory_of_this_process(eventually):
    begun_s = time.monotonic()
    usage = Usage([os.getpid()], begun_s)

    def works() -> bool:
        sum(range(3_000_000))
        usage.look(0, time.monotonic())
        return usage.cpu_s >= 0.1

    eventually(works)
    assert usage.cpu_s <= time.monotonic() - begun_s + 0.05
    assert usage.memory_peak_mb > 10
    assert 0 <= usage.machine_cpu_pct <= 100
    assert all(a.at_s < b.at_s for a, b in zip(usage.samples, usage.samples[1:], strict=False))


def test_a_process_that_is_gone_keeps_what_it_used():
    usage = Usage([2**22 + 1], time.monotonic() - 1)
    usage.look(5, time.monotonic())
    assert usage.cpu_s == 0
    assert usage.samples[0].acknowledged == 5


# What is sent ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", PRESETS)
def test_a_preset_with_nothing_told(test):
    plan = make_plan(test, "kafka-python")
    assert (plan.messages, plan.threads, plan.rate_per_s) == PRESETS[test]


@pytest.mark.parametrize(
    ("told", "messages"),
    [
        ({"rate_per_s": 50.0}, 3_000),
        ({"duration_s": 3.0}, 300),
        ({"rate_per_s": 10_000.0, "duration_s": 30.0}, 300_000),
        ({"rate_per_s": 30.0, "duration_s": 0.1}, 3),
        ({"messages": 7}, 7),
    ],
)
def test_how_many_a_paced_test_sends(told, messages):
    assert make_plan("sustained", "kafka-python", **told).messages == messages


@pytest.mark.parametrize(
    ("threads", "cores", "shares"),
    [
        (1, 64, [[0]]),
        (4, 1, [[0, 1, 2, 3]]),
        (4, 2, [[0, 1, 2, 3]]),
        (5, 3, [[0, 2, 4], [1, 3]]),
        (3, 8, [[0], [1], [2]]),
    ],
)
def test_threads_are_shared_out_among_the_cores_that_the_broker_leaves(threads, cores, shares):
    assert share_out(threads, cores) == shares


class Marking(Memory):
    """A sender to memory that acknowledges what it was given when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[Mark] = []

    def send(self, records, stop):
        accepted = super().send(records, stop)
        self.marks += [record["callback"] for record in records[:accepted] if "callback" in record]
        return accepted

    def acknowledge(self) -> None:
        while self.marks:
            self.marks.pop()(None, None)
            self.confirmed += 1


def lane(plan: Plan, sender: Memory, thread: int = 0) -> Lane:
    return Lane(
        Job(plan, "", {}, "topic", "run1", list(range(plan.threads))), thread, sender, threading.Event(), Turns()
    )


@pytest.mark.parametrize("threads", [1, 7])
def test_every_reading_is_a_real_one_with_a_sequence_of_its_own(threads):
    memory = Marking()
    plan = make_plan("custom", "kafka-python", 4_001, threads)
    for thread in range(threads):
        lane(plan, memory, thread).send_flat_out()
    found = defaultdict(list)
    for record in memory.sent:
        reading = decode(record["value"], time.time_ns() // 1_000_000)
        assert (reading.run_id, reading.sensor_id) == ("run1", record["key"].decode())
        found[reading.sensor_id].append(reading.sequence)
    assert sum(map(len, found.values())) == 4_001
    assert all(sequences == list(range(len(sequences))) for sequences in found.values())
    assert len({record["value"] for record in memory.sent}) == 4_001


def test_threads_that_wait_have_their_turns_in_order(eventually):
    turns, had = Turns(), []

    def take(number: int) -> None:
        with turns:
            had.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(5)]
    with turns:
        for waiting, thread in enumerate(threads, 1):
            thread.start()
            eventually(lambda waiting=waiting: len(turns._waiting) == waiting)
        assert had == []
    for thread in threads:
        thread.join()
    assert had == [0, 1, 2, 3, 4]


def test_a_turn_ends_when_the_sender_fails():
    turns = Turns()
    with pytest.raises(UserError), turns:
        raise UserError("gone")
    with turns:
        pass


def test_every_thread_sends_its_own_readings_in_its_turns(eventually):
    memory, turns = Marking(), Turns()
    plan = make_plan("custom", "confluent-kafka", 20_000, 3)
    job = Job(plan, "", {}, "topic", "run1", [0, 1, 2])
    lanes = [Lane(job, thread, memory, threading.Event(), turns) for thread in job.threads]
    threads = [threading.Thread(target=lane.send_flat_out) for lane in lanes]
    with turns:
        for thread in threads:
            thread.start()
        eventually(lambda: len(turns._waiting) == 3)
    for thread in threads:
        thread.join()
    # Sensor n is one of thread n modulo 3.
    owners = [int(record["key"].removeprefix(b"sensor_")) % 3 for record in memory.sent]
    turns_of = [owner for number, owner in enumerate(owners) if number == 0 or owners[number - 1] != owner]
    assert sorted(turns_of) == [0, 0, 1, 1, 2, 2]
    assert turns_of[:3] == turns_of[3:]
    assert len(owners) == 20_000


def test_warm_up_is_sent_and_not_measured():
    memory = Marking()
    sending = lane(make_plan("custom", "kafka-python", 1_000, 1), memory)
    sending.send_flat_out()
    memory.acknowledge()
    assert len(memory.sent) == 1_000
    assert len(sending.latencies_s) == 950


def test_of_the_fast_path_one_in_a_hundred_is_followed():
    memory = Marking()
    sending = lane(make_plan("custom", "confluent-kafka", 20_000, 1), memory)
    sending.send_flat_out()
    assert [decode(record["value"]).sequence for record in memory.sent if "callback" in record] == list(range(200))
    memory.acknowledge()
    assert len(sending.latencies_s) == 190


def test_a_failed_reading_has_no_latency():
    memory = Marking()
    sending = lane(make_plan("custom", "kafka-python", 10, 1), memory)
    sending.send_flat_out()
    memory.marks.pop()(OSError("gone"), None)
    memory.acknowledge()
    assert len(sending.latencies_s) == 9


def test_no_more_than_the_window_is_in_flight(eventually):
    memory = Marking()
    sending = lane(make_plan("custom", "kafka-python", 30, 1, in_flight=4), memory)
    thread = threading.Thread(target=sending.send_flat_out)
    thread.start()
    most = 0
    while thread.is_alive():
        eventually(lambda: len(memory.marks) == 4 or len(memory.sent) == 30 or not thread.is_alive())
        most = max(most, len(memory.marks))
        memory.acknowledge()
    thread.join()
    assert (most, len(memory.sent)) == (4, 30)


def test_a_late_reading_counts_from_when_it_was_due():
    memory = Marking()
    sending = lane(make_plan("custom", "kafka-python", 50, 1, rate_per_s=1_000.0), memory)
    sending.send_paced(Schedule(1_000.0, time.monotonic() - 10))
    memory.acknowledge()
    assert min(sending.latencies_s) > 9.9
    assert min(sending.delays_s) > 9.9
    # Without the warm-up of both.
    assert len(sending.latencies_s) == len(sending.delays_s) == 48


@pytest.mark.parametrize("client", [*CLIENTS, COURSE])
def test_a_worker_without_a_broker_says_so(client, monkeypatch):
    for module in (sender, course):
        monkeypatch.setattr(module, "START_S", 0.5)
    job = Job(make_plan("burst", client), f"localhost:{find_free_port()}", {}, "any", "run1", [0])
    with pytest.raises(UserError, match="cannot send to any at localhost"):
        Work(job, threading.Event())


# What comes out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "is_success"),
    [
        ({}, True),
        ({"topic_grew_by": 1_500}, True),
        ({"topic_grew_by": 999}, False),
        ({"topic_grew_by": None}, False),
        ({"messages_acknowledged": 999}, False),
        ({"error": "stopped"}, False),
        ({"stages": [Stage(name="a", expected=1, arrived=2, lost=0, doubled=1, latency_ms=Milliseconds())]}, False),
    ],
)
def test_a_success_is_acknowledged_and_in_the_topic(changes, is_success):
    made = result(**changes)
    assert made.is_success == is_success
    assert results.details(made)[0].startswith("success" if is_success else "FAILED")


def test_what_the_contract_promises_is_in_the_output():
    report = Report(environment=results.environment("iot-sensors", "localhost:9092"), tests=[result()])
    written = json.loads(results.encode(report))
    assert written["environment"]["cores"] >= 1
    (test,) = written["tests"]
    promised = "test client threads messages_sent messages_acknowledged messages_failed success_rate_pct duration_s"
    promised += " throughput_per_s latency_ms cpu_pct throughput_per_cpu_pct memory_peak_mb"
    assert set(promised.split()) <= test.keys()
    assert set(test["latency_ms"]) == {"mean", "p50", "p95", "p99", "p99_9", "max"}


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({}, 0),
        ({"throughput_per_s": 1_801.0}, 0),
        ({"throughput_per_s": 1_799.0}, 1),
        ({"throughput_per_s": 9_000.0}, 0),
        ({"success_rate_pct": 99.9}, 1),
        ({"latency_ms": Milliseconds(50, 40, 80, 100, 200, 300)}, 0),
        ({"rate_per_s": 100.0, "latency_ms": Milliseconds(5, 4, 8, 10.9, 20, 30)}, 0),
        ({"rate_per_s": 100.0, "latency_ms": Milliseconds(5, 4, 8, 11.1, 20, 30)}, 1),
    ],
)
def test_what_is_a_regression(now, found):
    old = result(rate_per_s=now.get("rate_per_s"))
    earlier = msgspec.json.decode(results.encode(Report(environment={}, tests=[old])), type=Earlier)
    lines, compared = regressions(earlier, [result(**now)], 0.1)
    assert (len(lines), compared) == (found, 1)


def test_a_test_that_was_not_in_the_earlier_run_is_not_compared():
    earlier = msgspec.json.decode(results.encode(Report(environment={}, tests=[result()])), type=Earlier)
    assert regressions(earlier, [result(threads=5), result(client="x"), result(test="y")], 0.1) == ([], 0)


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"tests": [{"test": 1}]}'])
def test_an_earlier_run_that_cannot_be_read(content, tmp_path):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"old\.json"):
        read_earlier(path)


def test_the_report_is_one_file_that_escapes_what_it_shows(tmp_path):
    report = Report(environment={"cpu": "<b>&"}, tests=[result(error="</script><script>alert(1)</script>")])
    write_report(tmp_path / "r.html", report)
    page = (tmp_path / "r.html").read_text()
    assert "&lt;b&gt;&amp;" in page
    assert "<script>alert(1)" not in page
    assert "Plotly.newPlot" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=.?(http|//|/)", page)


def contender(name: str, rates: list[float], seconds: float = 4.0) -> Contender:
    made = Contender(name, 1, 10, 10, lambda count, topic: result(), 100)
    made.results = [result(throughput_per_s=rate, duration_s=seconds) for rate in rates]
    return made


def test_ratios_are_of_medians_and_of_no_short_run():
    runs = [contender("tool", [100, 900, 200]), contender("course", [10, 10, 50]), contender("short", [400] * 3, 2.9)]
    tool, course, short = versus.ratios(runs)
    assert (tool.throughput_per_s, tool.times_kafka_tool, tool.times_course) == (200, 1, 20)
    assert (course.times_kafka_tool, course.times_course) == (0.05, 1)
    assert (short.times_kafka_tool, short.times_course) == (None, None)
    assert runs[0].median.throughput_per_s == 200


def test_how_many_are_sent_after_the_first_round():
    assert messages_of(7_501, 1_000, 1_000) == 8_000
    assert messages_of(500_000, 3_000_000, 300_000) == 3_000_000


# End to end -----------------------------------------------------------------------------------------------------------


def test_lost_and_doubled_are_told_by_key():
    arrivals = Arrivals()
    arrivals.add("a", 1.5)
    arrivals.add("b", 2.0, times=3)
    arrivals.add("stranger", 3.0)
    stage = arrivals.compare("s", {"a": [1.0], "b": [1.0, 1.9], "c": [1.0], "d": [1.0, 2.0]})
    assert (stage.expected, stage.arrived, stage.lost, stage.doubled) == (6, 5, 3, 2)
    assert sorted(stage.which) == [
        "doubled b 1 times",
        "doubled stranger 1 times",
        "lost c 1 times",
        "lost d 2 times",
    ]
    assert stage.latency_ms.max == pytest.approx(1000, rel=0.01)
    assert stage.latency_ms.p50 == pytest.approx(500, rel=0.01)


@pytest.mark.parametrize("second", [0, 9, 10, 29, 1_764_038_407])
def test_a_reading_is_in_the_three_windows_that_hold_it(second):
    for time_us in (second * 1_000_000, second * 1_000_000 + 999_999):
        all_ends = range(second // 10 * 10 - 50, second + 100, 10)
        assert window_ends(time_us) == [end for end in all_ends if (end - 30) * 10**6 <= time_us < end * 10**6]


def test_the_load_breaks_rules_as_said_and_counts_up():
    load = Load(400, 1_000.0, "run1", "here", time.monotonic())
    readings = [decode(load.record(number)["value"]) for number in range(400)]
    assert {(r.location, r.run_id) for r in readings} == {("here", "run1")}
    assert len({(r.sensor_id, r.sequence) for r in readings}) == 400
    breaking = [r for r in readings if r.value in (34.0, 24.0, 1037.0)]
    assert len(breaking) == 400 // 20
    assert len({r.sensor_id for r in breaking}) == 20
    assert sum(map(len, load.expected_windows().values())) == 1_200
    places = {"t-0-5": ("load_0", 0)}
    assert "t-0-5" in load.expected_alerts(places)
    assert len(load.expected_alerts(places)) == 20


def test_without_a_dashboard_it_says_how_to_start_one():
    with pytest.raises(
        UserError, match=r"no dashboard answers at http://localhost:\d+; .*python iot_streaming_app\.py"
    ):
        Dashboard(f"http://localhost:{find_free_port()}/", None).require()


def test_kafka_is_needed_for_the_plan_of_nothing_else():
    # Plans travel to the workers as JSON.
    job = Job(make_plan("sustained", COURSE, rate_per_s=5.0), "h:1", Kafka().properties, "t", "r", [0, 2])
    assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job


def test_who_may_not_join_a_group_may_still_read_and_a_broker_that_is_away_is_told(eventually):
    follower = TopicFollower(Kafka(f"localhost:{find_free_port()}"), "readings", {0: 0}, "run")
    follower._note_away(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    assert follower.away == ""
    follower.start()
    eventually(lambda: "refused" in follower.away)
    follower.close()
    assert follower.arrivals.count == 0
