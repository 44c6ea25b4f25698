"""The load tests as a user runs them: the menu on a terminal, output and files, and failures."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaConsumer

from iot.broker.broker import Broker, find_free_port
from iot.kafka.sender import CLIENTS
from iot.loadtest import backlog, end_to_end, growth, max_rate, stepper, steps, versus
from iot.loadtest.stepper import MaxRatePlan
from iot.readings import decode
from iot.terminal import StatusLine
from tests.support.scripts import read_until
from tests.support.small_dashboard import SmallDashboard
from tests.support.topics import read_back

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "performance_test.py")


def command(broker: Broker | int, flags: str) -> list[str]:
    port = broker if isinstance(broker, int) else broker.port
    return [sys.executable, SCRIPT, "--bootstrap-servers", f"localhost:{port}", *flags.split()]


def run(broker: Broker | int, flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(broker, flags), capture_output=True, text=True, timeout=90, check=False)


def start(broker: Broker | int, flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(broker, flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Terminal:
    """A process on a pseudo-terminal: wait for its output, then type."""

    def __init__(self, command: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self._said = ""

    def expect(self, pattern: str) -> None:
        while not (found := re.search(pattern, self._said)):
            try:
                more = os.read(self._ours, 65_536).decode(errors="replace")
            except OSError:
                more = ""
            assert more, f"ended without {pattern!r}: {self._said}"
            self._said += more
        self._said = self._said[found.end() :]

    def type(self, line: str) -> None:
        os.write(self._ours, f"{line}\n".encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


class Said(StatusLine):
    """A status line that keeps what was printed, and calls ``on_line`` with each line."""

    def __init__(self, lines: list[str], on_line: Callable[[str], None] = lambda line: None) -> None:
        super().__init__(plain_every_s=60)
        self._lines, self._on_line = lines, on_line

    def print(self, *lines: str) -> None:
        super().print(*lines)
        for line in lines:
            self._lines.append(line)
            self._on_line(line)


def test_the_menu_on_a_terminal(broker, topic, tmp_path):
    output = tmp_path / "results.json"
    terminal = Terminal(command(broker, f"--topic {topic} --client confluent-kafka --output {output}"))
    try:
        terminal.expect("0  Exit")
        terminal.expect("Your choice: ")
        terminal.type("10")
        terminal.expect("'10' is not in the menu: type a number from 0 to 9")
        terminal.expect("Your choice: ")
        terminal.type("5")
        terminal.expect(r"Readings \[99,990\]: ")
        terminal.type("many")
        terminal.expect("'many' is not a whole number above zero")
        terminal.expect(r"Readings \[99,990\]: ")
        terminal.type("300")
        terminal.expect(r"Threads \[18\]: ")
        terminal.type("3")
        terminal.expect("success: 300 of 300 readings acknowledged")
        terminal.expect("Your choice: ")
        terminal.type("1")
        terminal.expect("success: 1,000 of 1,000 readings acknowledged")
        terminal.expect("Your choice: ")
        terminal.type("0")
        terminal.expect("results in ")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.close()
    tests = json.loads(output.read_text())["tests"]
    assert [(test["test"], test["messages_acknowledged"], test["threads"]) for test in tests] == [
        ("custom", 300, 3),
        ("burst", 1_000, 4),
    ]


def test_a_sweep_with_both_clients_is_printed_and_written(broker, topic, tmp_path):
    output, page = tmp_path / "results.json", tmp_path / "report.html"
    ran = run(broker, f"--topic {topic} --messages 700 --threads 1,3 --output {output} --report {page}")
    assert (ran.returncode, ran.stderr) == (0, "")
    tests = json.loads(output.read_text())["tests"]
    assert [(test["client"], test["threads"]) for test in tests] == [(c, t) for t in (1, 3) for c in CLIENTS]
    for test in tests:
        counts = [test[f"messages_{name}"] for name in ("sent", "acknowledged", "failed")]
        assert (counts, test["topic_grew_by"], test["success_rate_pct"]) == ([700, 700, 0], 700, 100)
        assert test["throughput_per_s"] == pytest.approx(700 / test["duration_s"], rel=0.01)
        ordered = [test["latency_ms"][name] for name in ("p50", "p95", "p99", "p99_9", "max")]
        assert ordered == sorted(ordered)
        assert ordered[0] > 0
    assert all(f"{client}: fastest with " in ran.stdout for client in CLIENTS)
    assert page.stat().st_size > 1_000_000
    found = [decode(value) for records in read_back(broker.bootstrap_servers, topic).values() for _, value in records]
    assert len({(reading.run_id, reading.sensor_id, reading.sequence) for reading in found}) == len(found) == 2_800

    better = json.loads(output.read_text())
    better["tests"] = [test | {"throughput_per_s": 1e9} for test in better["tests"]]
    output.write_text(json.dumps(better))
    compared = run(broker, f"--topic {topic} --messages 700 --threads 1 --client kafka-python --compare {output}")
    assert compared.returncode == 1
    assert "REGRESSION custom with kafka-python" in compared.stdout


def test_a_paced_test_keeps_its_rate(broker, topic, tmp_path):
    output = tmp_path / "results.json"
    flags = f"--topic {topic} --rate 400 --duration 2 --threads 2 --in-flight 50 --client confluent-kafka"
    ran = run(broker, f"{flags} --output {output}")
    assert (ran.returncode, ran.stderr) == (0, "")
    (test,) = json.loads(output.read_text())["tests"]
    assert test["messages_acknowledged"] == 800
    assert test["duration_s"] >= 2
    assert test["publish_delay_ms"]["p50"] is not None
    found = [decode(value) for records in read_back(broker.bootstrap_servers, topic).values() for _, value in records]
    times_us = sorted(reading.time_us for reading in found)
    assert times_us[-1] - times_us[0] == pytest.approx(799 * 2_500, abs=1_000)


def test_a_broker_killed_during_a_test_fails_it_without_a_hang(tmp_path):
    with Broker(find_free_port(), tmp_path / "broker") as killed:
        flags = "--rate 500 --duration 600 --threads 2 --delivery-timeout 2"
        processes = {c: start(killed, f"{flags} --client {c} --output {tmp_path / c}.json") for c in CLIENTS}
        try:
            for process in processes.values():
                read_until(process, r"custom, .* [1-9][\d,]* acknowledged")
            os.kill(killed.pid, signal.SIGKILL)
            ended = {client: (process.communicate(timeout=60), process) for client, process in processes.items()}
        finally:
            for process in processes.values():
                process.kill()
    for client, ((out, err), process) in ended.items():
        assert (process.returncode, err) == (1, "")
        assert re.search(r"FAILED: [\d,]+ of 300,000", out)
        (test,) = json.loads((tmp_path / f"{client}.json").read_text())["tests"]
        assert test["messages_sent"] - test["messages_acknowledged"] == test["messages_failed"] > 0
        assert test["success_rate_pct"] < 100
        assert test["error"]


def test_ctrl_c_ends_early_with_a_summary_and_results(broker, topic, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / "results"
    folder.mkdir()
    output = folder / "new.json"
    process = start(broker, f"--topic {topic} --client kafka-python --rate 100 --duration 600 --output {output}")
    read_until(process, "custom, .* acknowledged")
    # The place that was checked at the start may be gone in the end.
    folder.rmdir()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    [elsewhere] = tmp_path.glob("*.json")
    why = "No such file or directory"
    assert err == f"error: cannot write {output}: {why}; the results are in {elsewhere} instead\n"
    (test,) = json.loads(elsewhere.read_text())["tests"]
    assert test["messages_acknowledged"] > 0
    assert re.search(r"stopped: \d+ of 60,000 readings acknowledged \(.*, (\d+) sent, 0 failed; \S+ grew by \1\n", out)
    assert "error: stopped before the end" in out


def test_comparison_with_kafkas_own_tool_and_the_courses_method(broker, monkeypatch):
    monkeypatch.setattr(versus, "WANTED_S", 0.01)
    monkeypatch.setattr(versus, "SHORTEST_S", 0.001)
    monkeypatch.setattr(versus, "FAST_FIRST", 1_000)
    plan = versus.ComparisonPlan(["confluent-kafka"], 2_000, threads=4, rounds=1)
    with StatusLine(plain_every_s=60) as status:
        found = versus.compare(plan, broker.kafka, status, threading.Event())
    assert found.is_complete
    assert [test.client for test in found.tests] == ["ProducerPerformance", "course", "confluent-kafka"]
    for test in found.tests:
        assert test.messages_acknowledged == test.topic_grew_by == test.messages
        assert test.throughput_per_s > 0
        assert test.latency_ms.p50 is not None
        assert (test.cpu_pct or 0) > 0 or test.duration_s < 0.25
    tool, course, *_ = found.comparison
    assert (tool.times_kafka_tool, course.times_course) == (1, 1)
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
    assert not [name for name in consumer.topics() if name.startswith("iot-load-test-")]
    consumer.close()


def test_a_missing_broker_error_says_how_to_start_one():
    port = find_free_port()
    begun_s = time.monotonic()
    ran = run(port, "--test burst")
    assert time.monotonic() - begun_s < 10
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch(rf"error: no Kafka .*localhost:{port}; .*python -m iot.broker --port {port}\n", ran.stderr)


def test_what_cannot_be_written_or_compared_is_reported_before_the_test(tmp_path):
    old = {"test": "burst", "client": "kafka-python", "threads": 4, "success_rate_pct": 100.0, "throughput_per_s": 1.0}
    old["latency_ms"] = dict.fromkeys(("mean", "p50", "p95", "p99", "p99_9", "max"))
    (tmp_path / "old.json").write_text(json.dumps({"tests": [old]}))
    unreadable = "No such file or directory; choose another file with --compare"
    nothing = "has no test with the same name, client, threads and rate; run that test again with --output"
    for flags, said in {
        f"--output {tmp_path}": f"cannot write {tmp_path}: it is a folder; choose another file with --output",
        f"--compare {tmp_path}/none.json": f"cannot read {tmp_path}/none.json: {unreadable}",
        f"--compare {tmp_path}/old.json": f"nothing to compare: {tmp_path}/old.json {nothing}",
    }.items():
        # No broker is there: nothing of this needs one.
        ran = run(find_free_port(), f"--test burst --client confluent-kafka {flags}")
        assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"error: {said}\n")


@pytest.mark.parametrize(("client", "wrong"), [("kafka-python", False), ("confluent-kafka", True)])
def test_end_to_end_counts_lost_and_doubled_readings(client, wrong, broker, topic, monkeypatch):
    monkeypatch.setattr(end_to_end, "PATIENCE_S", 1.0)
    monkeypatch.setattr(end_to_end, "SETTLE_S", 0.5)
    with SmallDashboard(broker, topic, wrong).running() as dashboard, StatusLine(plain_every_s=60) as status:
        plan = end_to_end.EndToEndPlan(
            dashboard_url=dashboard.url, topic=topic, client=client, messages=300, rate_per_s=200.0
        )
        found = end_to_end.run(plan, broker.kafka, status, threading.Event())
    expected = [300, 300, 14, 14, 14, 900]
    lost, doubled = [0, 0, 0, 0, int(wrong), int(wrong)], [0, 0, 0, int(wrong), 0, 0]
    assert [stage.expected for stage in found.stages] == expected
    assert [stage.lost for stage in found.stages] == lost
    assert [stage.doubled for stage in found.stages] == doubled
    assert found.is_success == (not wrong)
    assert found.messages_acknowledged == found.topic_grew_by == 300
    assert all(stage.latency_ms.p50 for stage in found.stages)


def test_the_search_for_the_highest_rate_finds_what_a_dashboard_takes(broker, topic, monkeypatch):
    # However slow the machine is at the moment, it takes these rates.
    monkeypatch.setattr(max_rate, "MOST_PER_S", 800.0)
    monkeypatch.setattr(stepper, "PART_S", 1.0)
    monkeypatch.setattr(steps, "SENT", 0.5)
    monkeypatch.setattr(steps, "ALERTS_P99_MS", 30_000.0)
    monkeypatch.setattr(growth, "TOLERATED", 100.0)
    said: list[str] = []
    with SmallDashboard(broker, topic, wrong=False).running() as dashboard, Said(said) as status:
        plan = MaxRatePlan(
            dashboard_url=dashboard.url, topic=topic, target_p99_ms=30_000.0, first_per_s=400.0, confirm_s=3.0
        )
        found = max_rate.run(plan, broker.kafka, status, threading.Event())
    held = [step for step in found.steps if step.held]
    assert [(step.kind, step.rate_per_s) for step in held] == [
        ("doubling", 400),
        ("doubling", 800),
        ("confirmation", 800),
    ]
    assert found.is_success
    assert found.max_rate_per_s
    assert found.latency_ms.p50
    assert found.latency_ms.p99
    assert 400 <= found.max_rate_per_s <= min(800, round(held[-1].sent_per_s, 1))
    assert found.latency_ms.p50 <= found.latency_ms.p99 < 30_000
    assert found.messages_acknowledged == found.messages_sent
    assert found.topic_grew_by == found.messages_sent
    assert {"broker", "generator"} <= {usage.role for usage in found.process_cpu}
    assert any(re.match(r"  confirmation at 800/s: holds; [\d,]+/s sent, windows p99 ", line) for line in said)


def test_a_dashboard_that_stands_still_does_not_hold_and_a_stop_gives_the_result_so_far(broker, topic, monkeypatch):
    monkeypatch.setattr(steps, "SENT", 0.5)
    monkeypatch.setattr(steps, "ALERTS_P99_MS", 3_000.0)
    monkeypatch.setattr(growth, "TOLERATED", 100.0)
    stop = threading.Event()
    said: list[str] = []
    with SmallDashboard(broker, topic, wrong=False).running() as dashboard:

        def on_line(line: str) -> None:
            if "doubling at 400/s: holds" in line:
                # From now on it answers, but counts nothing.
                dashboard.stand_still()
            elif "does not hold" in line:
                stop.set()

        plan = MaxRatePlan(
            dashboard_url=dashboard.url, topic=topic, target_p99_ms=3_000.0, first_per_s=400.0, confirm_s=1.5
        )
        with Said(said, on_line) as status:
            found = max_rate.run(plan, broker.kafka, status, stop)
    assert found.steps[-2].held
    assert not found.steps[-1].held
    assert found.steps[-1].gave_out == "Spark's batch or the database"
    assert (found.max_rate_per_s, found.is_confirmed, found.is_stopped) == (400, False, True)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_backlog_is_measured_and_checked(wrong, broker, topic, monkeypatch):
    monkeypatch.setattr(backlog, "PATIENCE_S", 3.0)
    monkeypatch.setattr(backlog, "SETTLE_S", 0.5)
    said: list[str] = []
    with SmallDashboard(broker, topic, wrong).running() as dashboard:

        def on_line(line: str) -> None:
            if line.startswith("stop the application now"):
                dashboard.stop()
            elif line.startswith("start the application again"):
                dashboard.start()

        plan = backlog.BacklogPlan(dashboard_url=dashboard.url, topic=topic, client="confluent-kafka", messages=3_000)
        with Said(said, on_line) as status:
            found = backlog.run(plan, broker.kafka, status, threading.Event())
    assert [stage.name for stage in found.stages] == ["reading counted", "alert stored", "alert in iot-alerts"]
    assert [stage.lost for stage in found.stages] == [int(wrong), 0, 0]
    assert found.stages[0].expected == found.messages_acknowledged == found.topic_grew_by == 3_000
    assert found.is_success == (not wrong)
    if not wrong:
        assert found.drain_s
        assert found.drain_alerts_s
        assert found.drain_rate_per_s == pytest.approx(3_000 / found.drain_s, rel=0.01)
        assert found.drain[-1].messages == 3_000


def test_a_crossed_threshold_exits_99_and_is_in_both_files(broker, topic, tmp_path):
    output, page = tmp_path / "results.json", tmp_path / "report.html"
    flags = f"--topic {topic} --test burst --client confluent-kafka --output {output} --report {page}"
    ran = run(broker, f"{flags} --threshold success_rate_pct>=100 --threshold throughput_per_s>1e9")
    assert (ran.returncode, ran.stderr) == (99, "")
    assert "threshold throughput_per_s>1000000000 CROSSED: " in ran.stdout
    kept, crossed = json.loads(output.read_text())["thresholds"]
    assert (kept["ok"], crossed["ok"], crossed["test"]) == (True, False, "burst")
    assert '<li class="crossed">threshold throughput_per_s' in page.read_text()


@pytest.mark.long
@pytest.mark.parametrize(("test", "flags"), [("max-rate", "--rate 800 --duration 6"), ("backlog", "--messages 20000")])
def test_through_an_application_of_its_own(test, flags, tmp_path):
    output = tmp_path / "results.json"
    command = [sys.executable, SCRIPT, "--test", test, "--demo", "--output", str(output), *flags.split()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    (found,) = json.loads(output.read_text())["tests"]
    if test == "backlog":
        assert [(stage["lost"], stage["doubled"]) for stage in found["stages"]] == [(0, 0)] * 3
        assert found["stages"][0]["expected"] == 20_000
        assert found["stages"][1]["expected"] > 0
        assert found["drain_rate_per_s"] > 0
    else:
        assert found["max_rate_per_s"] >= 400
        assert found["steps"][-1]["spark_s"] > 0
    roles = {usage["role"] for usage in found["process_cpu"]}
    assert {"broker", "application", "JVM", "workers", "web"} <= roles
