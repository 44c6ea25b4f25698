"""The load tests seen from outside: the menu on a terminal, what is printed and kept, and what fails."""

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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

import performance_test
from iot.alerts import DEFAULT_RULES, alert_id, broken_bound, encode, make_alert
from iot.broker.broker import Broker, find_free_port
from iot.kafka.sender import CLIENTS
from iot.loadtest import end_to_end, versus
from iot.loadtest.plan import COURSE_MESSAGES, COURSE_THREADS
from iot.readings import decode, format_timestamp
from iot.settings import ALERTS_TOPIC
from iot.terminal import StatusLine
from performance_test import ask, parse_args
from tests.integration.kafka.test_sender import read_back
from tests.system.test_producer import read_until

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "performance_test.py")


# Flags and questions --------------------------------------------------------------------------------------------------


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
def test_numbers_alone_mean_the_custom_test(flags, test):
    assert parse_args(flags.split()).test == test


def test_a_question_is_asked_again_and_enter_takes_the_usual(monkeypatch, capsys):
    answers = iter(["many\n", "-1\n", "99999\n", "1,200\n", "\n"])
    monkeypatch.setattr(performance_test, "read_line", lambda prompt, stop: next(answers))
    parse = performance_test.at_most(50_000)
    stop = threading.Event()
    assert ask("Readings", parse, COURSE_MESSAGES, stop) == 1_200
    said = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in said] == [
        "'many' is not a whole number above zero",
        "'-1' is not a whole number above zero",
        "99,999 is too many: at most 50,000",
    ]
    assert ask("Readings", parse, COURSE_MESSAGES, stop) == 99_990
    assert (COURSE_MESSAGES, COURSE_THREADS) == (99_990, 18)


# Against a real broker ------------------------------------------------------------------------------------------------


def command(broker: Broker | int, flags: str) -> list[str]:
    port = broker if isinstance(broker, int) else broker.port
    return [sys.executable, SCRIPT, "--bootstrap-servers", f"localhost:{port}", *flags.split()]


def run(broker: Broker | int, flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(broker, flags), capture_output=True, text=True, timeout=90, check=False)


def start(broker: Broker | int, flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(broker, flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Terminal:
    """A process on a pseudo-terminal: wait for what it says, then type."""

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


@pytest.mark.integration
def test_the_menu_on_a_terminal(broker, topic, tmp_path):
    output = tmp_path / "results.json"
    terminal = Terminal(command(broker, f"--topic {topic} --client confluent-kafka --output {output}"))
    try:
        terminal.expect("0  Exit")
        terminal.expect("Your choice: ")
        terminal.type("8")
        terminal.expect("'8' is none of them: type a number from 0 to 7")
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


@pytest.mark.integration
def test_a_sweep_with_both_clients_is_told_and_kept(broker, topic, tmp_path):
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


@pytest.mark.integration
def test_a_paced_test_keeps_its_rate_and_waits_for_nothing(broker, topic, tmp_path):
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


@pytest.mark.integration
def test_a_broker_that_is_killed_in_mid_test_fails_it_and_nothing_hangs(tmp_path):
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


@pytest.mark.integration
def test_ctrl_c_ends_early_with_a_summary(broker, topic):
    process = start(broker, f"--topic {topic} --client kafka-python --rate 100 --duration 600")
    read_until(process, "custom, .* acknowledged")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, "")
    assert re.search(r"FAILED: \d+ of 60,000 readings acknowledged \(.*, (\d+) sent, 0 failed; \S+ grew by \1\n", out)
    assert "error: stopped before the end" in out


@pytest.mark.integration
def test_beside_kafkas_own_tool_and_the_courses_method(broker, monkeypatch):
    monkeypatch.setattr(versus, "WANTED_S", 0.01)
    monkeypatch.setattr(versus, "SHORTEST_S", 0.001)
    monkeypatch.setattr(versus, "FAST_FIRST", 1_000)
    with StatusLine(plain_every_s=60) as status:
        found = versus.compare(["confluent-kafka"], 2_000, 4, 1, broker.kafka, status, threading.Event())
    assert found.is_complete
    assert [test.client for test in found.tests] == ["ProducerPerformance", "course", "confluent-kafka"]
    for test in found.tests:
        assert test.messages_acknowledged == test.topic_grew_by == test.messages
        assert test.throughput_per_s > 0
        assert test.latency_ms.p50 is not None
        # Linux counts what a process takes in hundredths of a second.
        assert test.cpu_pct > 0 or test.duration_s < 0.05
    tool, course, *_ = found.comparison
    assert (tool.times_kafka_tool, course.times_course) == (1, 1)
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
    assert not [name for name in consumer.topics() if name.startswith("iot-load-test-")]
    consumer.close()


def test_without_a_broker_it_says_how_to_start_one():
    port = find_free_port()
    begun_s = time.monotonic()
    ran = run(port, "--test burst")
    assert time.monotonic() - begun_s < 10
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch(rf"error: no Kafka .*localhost:{port}; .*python -m iot.broker --port {port}\n", ran.stderr)


# End to end, with a small dashboard in place of the real one ----------------------------------------------------------


class SmallDashboard:
    """Windows and alerts of a topic over HTTP, without Spark; it can be told to get some of it wrong."""

    def __init__(self, broker: Broker, topic: str, wrong: bool) -> None:
        self._topic, self._wrong = topic, wrong
        self._stop = threading.Event()
        self._counts: Counter[tuple[str, int, str]] = Counter()
        self._events: list[bytes] = []
        self._consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        self._consumer.assign([TopicPartition(topic, number) for number in range(3)])
        self._reader = threading.Thread(target=self._read)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def running(self) -> Iterator[SmallDashboard]:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self._reader.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._reader.join()
            self.server.shutdown()
            self.server.server_close()
            self._producer.close()
            self._consumer.close()

    def _read(self) -> None:
        number = 0
        while not self._stop.is_set():
            for partition, records in self._consumer.poll(50).items():
                for record in records:
                    number += 1
                    self._process(record.value, alert_id(self._topic, partition.partition, record.offset), number)

    def _process(self, value: bytes, name: str, number: int) -> None:
        reading = decode(value)
        first = reading.time_us // 10_000_000 * 10 + 10
        lost = self._wrong and number == 5
        for end in (first, first + 10, first + 20):
            self._counts[reading.location or "", end, reading.sensor_type] += not (lost and end == first)
        if broken := broken_bound(reading, DEFAULT_RULES):
            alert = encode(make_alert(reading, *broken, name))
            self._producer.send(ALERTS_TOPIC, alert, record_key(reading.sensor_id)).get(10)
            event = b"event: alert\nid: %b\ndata: %b\n\n" % (name.encode(), alert)
            self._events += [event] * (2 if self._wrong and not self._events else 1)

    def windows(self, location: str) -> list[dict[str, Any]]:
        return [
            {"end": format_timestamp(end * 1_000_000), "sensor_type": sensor_type, "count": count}
            for (where, end, sensor_type), count in list(self._counts.items())
            if where == location
        ]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                if url.path == "/api/stream":
                    self._stream()
                    return
                query = parse_qs(url.query)
                content: dict[str, Any] = {}
                if url.path == "/api/windows":
                    assert datetime.fromisoformat(query["since"][0]).tzinfo
                    content = {"windows": here.windows(query["location"][0])}
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def _stream(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"retry: 2000\n\n")
                sent = 0
                while not here._stop.wait(0.01):
                    for event in here._events[sent:]:
                        self.wfile.write(event)
                        sent += 1

            def log_message(self, *_: Any) -> None: ...

        return Handler


def record_key(sensor_id: str) -> bytes:
    return sensor_id.encode()


@pytest.mark.integration
@pytest.mark.parametrize(("client", "wrong"), [("kafka-python", False), ("confluent-kafka", True)])
def test_end_to_end_tells_what_was_lost_and_doubled(client, wrong, broker, topic, monkeypatch):
    monkeypatch.setattr(end_to_end, "PATIENCE_S", 1.0)
    monkeypatch.setattr(end_to_end, "SETTLE_S", 0.5)
    with SmallDashboard(broker, topic, wrong).running() as dashboard, StatusLine(plain_every_s=60) as status:
        way = end_to_end.Way(dashboard.url, topic, 200.0, None, 300, client)
        found = end_to_end.run(way, broker.kafka, status, threading.Event())
    expected = [300, 300, 15, 15, 900]
    lost, doubled = [0, 0, 0, 0, int(wrong)], [0, 0, 0, int(wrong), 0]
    assert [stage.expected for stage in found.stages] == expected
    assert [stage.lost for stage in found.stages] == lost
    assert [stage.doubled for stage in found.stages] == doubled
    assert found.is_success == (not wrong)
    assert found.messages_acknowledged == found.topic_grew_by == 300
    assert all(stage.latency_ms.p50 for stage in found.stages)
