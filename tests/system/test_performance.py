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
from pathlib import Path

import pytest
from kafka import KafkaConsumer

from iot.broker.broker import Broker, find_free_port
from iot.kafka.sender import CLIENTS
from iot.loadtest import end_to_end, versus
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


def test_the_menu_on_a_terminal(broker, topic, tmp_path):
    output = tmp_path / "results.json"
    terminal = Terminal(command(broker, f"--topic {topic} --client confluent-kafka --output {output}"))
    try:
        terminal.expect("0  Exit")
        terminal.expect("Your choice: ")
        terminal.type("8")
        terminal.expect("'8' is not in the menu: type a number from 0 to 7")
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
        # Linux measures CPU time in hundredths of a second.
        assert test.cpu_pct > 0 or test.duration_s < 0.05
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
    expected = [300, 300, 15, 15, 900]
    lost, doubled = [0, 0, 0, 0, int(wrong)], [0, 0, 0, int(wrong), 0]
    assert [stage.expected for stage in found.stages] == expected
    assert [stage.lost for stage in found.stages] == lost
    assert [stage.doubled for stage in found.stages] == doubled
    assert found.is_success == (not wrong)
    assert found.messages_acknowledged == found.topic_grew_by == 300
    assert all(stage.latency_ms.p50 for stage in found.stages)
