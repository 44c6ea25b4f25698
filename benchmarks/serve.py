"""Measure how promptly the web server answers and pushes, with many streams open and a CPU that is busy.

The web server runs as in production: a process of its own, on a results database of 24 hours that changes twice a
second, following alerts in a real Kafka. Requests of /api/metrics and alerts are paced open-loop, and each delay counts
from the moment it was due. A bare server that sends the same bytes takes the same requests at the same time: a delay
that it has too is the machine's.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import harness
from benchmarks.harness import some_kafka
from iot import cli
from iot.alerts import DEFAULT_RULES, Alert, encode
from iot.batches import BatchReport, Identity, Latest, Total
from iot.broker.broker import find_free_port
from iot.kafka.sender import make_sender
from iot.processes import spawn
from iot.readings import STANDARD_UNITS
from iot.results.model import Batch, QueryStatus, Status
from iot.results.store import Store
from iot.sensors.pacing import Delays, Schedule
from iot.settings import ALERTS_TOPIC, READINGS_TOPIC, SLIDE_S, Kafka, UserError

ROOT = Path(__file__).parents[1]
SENSORS = 50
DAY_S = 24 * 3600
BATCH_EVERY_S = 0.5
CONNECTIONS = 16
START_S = 30.0
WARM_UP_S = 2.0
PATH = "/api/metrics"
# The moment at which an alert was due, which is sent as its sensor.
DUE = re.compile(rb'"sensor_id":"([0-9]+)"')


class DatabaseFiller:
    """Fills the database like the processing: a day of windows, then a batch twice a second."""

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        self._store.reset(Identity(READINGS_TOPIC, "benchmark"), "benchmark")
        self._batch = 0
        self._started_s = time.time()

    def keep_batch(self, ends_s: Sequence[int]) -> None:
        """Store a batch that changes the windows with these ends and has a reading from every sensor."""
        now_s = time.time()
        now_us = int(now_s * 1e6)
        rows = [(end_s, name, unit) for end_s in ends_s for name, unit in STANDARD_UNITS.items()]
        size = len(rows)
        ends = pa.array([end_s * 1_000_000 for end_s, _, _ in rows], pa.timestamp("us", "UTC"))
        changed = pa.table(
            {
                "end": ends,
                "sensor_type": [name for _, name, _ in rows],
                "location": ["building_a"] * size,
                "unit": [unit for _, _, unit in rows],
                "count": [300] * size,
                "total": [6_600.123456] * size,
                "min": [17.25] * size,
                "max": [31.5] * size,
            }
        )
        names = list(STANDARD_UNITS)
        report = BatchReport(
            messages=SENSORS,
            next_offsets={0: self._batch * SENSORS},
            totals={name: Total(10, 220.0, 17.25, 31.5, now_us, unit) for name, unit in STANDARD_UNITS.items()},
            latest=[
                Latest(
                    now_us, self._batch * SENSORS + number, 0, f"sensor_{number}", names[number % len(names)],
                    "building_a", 22.5, STANDARD_UNITS[names[number % len(names)]], *[int(now_s * 1000)] * 2,
                )
                for number in range(SENSORS)
            ],
            sensor_types=names,
            locations=["building_a"],
        )  # fmt: skip
        batch = Batch("windows", self._batch, changed, report)
        self._store.write_batch(batch, DEFAULT_RULES, now_s)
        queries = [QueryStatus(name, True, None, now_s) for name in ("windows", "alerts")]
        self._store.heartbeat(Status(now_s, self._started_s, queries, end_offsets={0: self._batch * SENSORS}))
        self._batch += 1

    def keep_on(self, stop: threading.Event) -> None:
        while not stop.wait(BATCH_EVERY_S):
            end_s = int(time.time()) // SLIDE_S * SLIDE_S
            self.keep_batch([end_s + SLIDE_S * ahead for ahead in range(1, 4)])


def pace(rate: float, seconds: float, workers: int, work: Callable[[], Callable[[], None]]) -> Delays:
    """Run what ``work()`` returns, open-loop in ``workers`` threads; returns the delays from when each run was due."""
    schedule, delays, stop = Schedule(rate, time.monotonic() + 0.5), Delays(), threading.Event()
    numbers = iter(range(int(rate * seconds)))
    lock = threading.Lock()

    def worker() -> None:
        do = work()
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            schedule.wait_for(number, 0, seconds, stop)
            do()
            if number >= WARM_UP_S * rate:
                delays.add(np.array([time.monotonic() - schedule.due_s(np.array([number]))[0]]))

    threads = [threading.Thread(target=worker) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return delays


def getter(port: int) -> Callable[[], Callable[[], None]]:
    """A worker for ``pace`` that requests the figures over one connection."""

    def work() -> Callable[[], None]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

        def get() -> None:
            connection.request("GET", PATH)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise UserError(f"{PATH}: {answer.status}")

        return get

    return work


def send_alerts(kafka: Kafka, rate: float, seconds: float) -> int:
    """Send alerts that carry the moment when they were due; returns how many."""
    sender = make_sender("confluent-kafka", kafka, ALERTS_TOPIC, **{"linger.ms": 0})
    schedule, stop = Schedule(rate, time.monotonic() + 0.5), threading.Event()
    sent = int(rate * seconds)
    for number in range(sent):
        schedule.wait_for(number, 0, seconds, stop)
        due_ns = int(schedule.due_s(np.array([number]))[0] * 1e9)
        alert = Alert(
            f"{READINGS_TOPIC}-0-{number}", "HIGH_TEMPERATURE", str(due_ns), "temperature", "building_a", 31.5,
            "celsius", 30.0, "2026-11-24T02:15:07.123456+00:00",
        )  # fmt: skip
        sender.send([{"key": b"%d" % number, "value": encode(alert)}], stop)
        sender.poll()
    sender.flush(10)
    sender.close()
    return sent


def watch(port: int, streams: int, deaf: int, pipe: Connection) -> None:
    """Hold ``streams`` open until something arrives on ``pipe``; ``deaf`` more are opened and never read.

    Sends through ``pipe``: "open", and in the end (delays of alerts in s, number of events of figures, closed streams).
    """
    selector, received = selectors.DefaultSelector(), {}
    ignored = []
    for number in range(streams + deaf):
        stream = socket.create_connection(("127.0.0.1", port))
        stream.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if number < streams:
            selector.register(stream, selectors.EVENT_READ)
            received[stream] = b""
        else:
            ignored.append(stream)
    pipe.send("open")
    selector.register(pipe, selectors.EVENT_READ)
    delays_s, figures, closed = [], 0, 0
    going_on = True
    while going_on:
        for key, _ in selector.select():
            if key.fileobj is pipe:
                going_on = False
                continue
            stream = key.fileobj  # type: ignore[assignment]
            part = stream.recv(1 << 16)
            now_s = time.monotonic()
            if not part:
                closed += 1
                selector.unregister(stream)
                continue
            *events, received[stream] = (received[stream] + part).split(b"\n\n")
            for event in events:
                if event.startswith(b"event: alert"):
                    due = DUE.search(event)
                    delays_s.append(now_s - int(due[1]) / 1e9 if due else 0.0)
                elif event.startswith(b"event: metrics"):
                    figures += 1
    pipe.send((np.array(delays_s), figures, closed))


def serve_bare(body: bytes, pipe: Connection) -> None:
    """Answer anything with the same bytes, as fast as Python can; sends its port through ``pipe``."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    pipe.send(listening.getsockname()[1])
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listening:
                selector.register(listening.accept()[0], selectors.EVENT_READ)
                continue
            connection = key.fileobj
            if connection.recv(1 << 16):  # type: ignore[union-attr]
                connection.sendall(answer)  # type: ignore[union-attr]
            else:
                selector.unregister(connection)


def burn() -> None:
    while True:
        pass


def await_answer(process: subprocess.Popen[bytes], url: str) -> bytes:
    """Wait for the web server, and return its first answer."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            time.sleep(0.1)
    raise UserError(f"the web server does not answer at {url}")


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used; 0 if the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100


def row(name: str, delays: Delays) -> str:
    percentiles = (delays.percentile_s(50), delays.percentile_s(99), delays.max_s)
    return f"{name:<44}" + "".join(f"{1000 * delay_s:>9.1f}" for delay_s in percentiles)


def run(args: argparse.Namespace) -> None:
    with ExitStack() as stack:
        kafka = stack.enter_context(some_kafka(None))
        print("filling a database …", flush=True)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="iot-benchmark-"))
        url = f"sqlite:///{folder}/results.db"
        results = DatabaseFiller(url)
        now_s = int(time.time()) // SLIDE_S * SLIDE_S
        results.keep_batch(range(now_s - DAY_S, now_s, SLIDE_S))
        stop = threading.Event()
        writing = threading.Thread(target=results.keep_on, args=(stop,))
        writing.start()
        stack.callback(writing.join)
        stack.callback(stop.set)

        port = find_free_port()
        command = [sys.executable, "-m", "iot.web", "--database-url", url, "--port", str(port)]
        process = spawn([*command, "--bootstrap-servers", kafka.bootstrap_servers], cwd=ROOT)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        body = await_answer(process, f"http://127.0.0.1:{port}{PATH}")

        context = multiprocessing.get_context("spawn")
        watching, ours = context.Pipe()
        bare, bares = context.Pipe()
        children = [
            context.Process(target=watch, args=(port, args.streams, args.deaf, ours), daemon=True),
            context.Process(target=serve_bare, args=(body, bares), daemon=True),
            *(context.Process(target=burn, daemon=True) for _ in range(args.burn)),
        ]
        for child in children:
            child.start()
            stack.callback(child.kill)
        watching.recv()
        bare_port = bare.recv()
        print(
            f"{args.streams} streams are open, and {args.deaf} more that nobody reads; for {args.duration:g} s "
            f"{args.rate:g} requests/s of {len(body) / 1000:.0f} kB, {args.alerts:g} alerts/s; "
            f"{args.burn} processes burn CPU",
            flush=True,
        )
        measured: dict[str, Delays] = {}

        def measure(name: str, port: int) -> None:
            measured[name] = pace(args.rate, args.duration, CONNECTIONS, getter(port))

        before_s = cpu_s(process.pid)
        clients = [threading.Thread(target=measure, args=of) for of in (("bare", bare_port), ("ours", port))]
        for client in clients:
            client.start()
        sent = send_alerts(kafka, args.alerts, args.duration)
        for client in clients:
            client.join()
        used_s = cpu_s(process.pid) - before_s
        # The last alerts are still on their way.
        time.sleep(1)
        watching.send("end")
        delays_s, figures, closed = watching.recv()

    pushed = Delays()
    pushed.add(delays_s)
    print(f"\n{'milliseconds':<44}{'p50':>9}{'p99':>9}{'max':>9}")
    print(row(f"{PATH}, from when it was due", measured["ours"]))
    print(row("the same bytes from a bare server", measured["bare"]))
    print(row("alert due to alert read from a stream", pushed))
    lost = sent * args.streams - len(delays_s)
    print(f"\n{len(delays_s):,} alerts and {figures:,} events of figures were read; {lost} alerts missing")
    print(f"{closed} of the streams that were read were closed; the server used {used_s / args.duration:.0%} of a core")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__)
    parser.add_argument("--streams", type=cli.positive_int, default=200, metavar="N", help="open event streams")
    parser.add_argument("--deaf", type=int, default=5, metavar="N", help="further streams that nobody reads")
    parser.add_argument("--rate", type=cli.positive_float, default=100, metavar="R", help="requests a second")
    parser.add_argument("--alerts", type=cli.positive_float, default=10, metavar="R", help="alerts a second")
    parser.add_argument("--burn", type=int, default=1, metavar="N", help="processes that burn CPU at the same time")
    parser.add_argument("--duration", type=cli.positive_float, default=20, metavar="S", help="seconds to measure")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
