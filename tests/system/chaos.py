"""Kill broker, application and producer at random moments, and check that no reading is lost or counted twice.

Each is a process of its own. It is killed with SIGKILL while readings are sent, some of them malformed or late, and
started again. At the end, sequence numbers show whether the topic is complete, and the independent reference checks the
API. Only the last readings of a killed producer may be missing, because Kafka never acknowledged them.

    python -m tests.system.chaos --rounds 20 --seed 1
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from kafka.errors import KafkaError

from iot.broker.broker import find_free_port
from iot.cli import HelpFormatter, positive_float, positive_int
from iot.processes import spawn
from iot.settings import ALERTS_TOPIC, READINGS_TOPIC, REJECTED_TOPIC, Kafka
from tests.support import oracle
from tests.support.app import App
from tests.support.scripts import ROOT

# In the order in which they are restarted: without a broker the others end.
NAMES = ("broker", "app", "producer")
RATE_PER_S = 300
SENSORS = 60
# Maximum time between a recovery and the next kill.
MAX_CALM_S = 5.0
# Maximum time between a kill and the restart.
MAX_DOWN_S = 3.0
# Share of the rounds, after the first three, in which a second process is killed too.
TWO_AT_ONCE = 0.25
# How long to wait for a recovery.
PATIENCE_S = 600.0


class Round(NamedTuple):
    """What was killed, when it was killed after the first recovery, and how long the recovery took."""

    what: str
    at_s: float
    recovered_after_s: float


class World:
    """Broker, application and producer, with all state and logs in one folder. ``with`` starts and stops them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.kafka = Kafka(f"localhost:{find_free_port()}")
        self.app = App(self.kafka, READINGS_TOPIC, folder)
        port = self.kafka.bootstrap_servers.rpartition(":")[2]
        script, producer = [sys.executable, "-m", "iot.broker"], [sys.executable, str(ROOT / "iot_producer.py")]
        producer += ["--bootstrap-servers", self.kafka.bootstrap_servers, "--rate", str(RATE_PER_S)]
        producer += ["--sensors", str(SENSORS), "--malformed-ratio", "0.01", "--late-ratio", "0.005"]
        self._commands = {
            "broker": [*script, "--port", port, "--data-dir", str(folder / "broker")],
            "app": self.app.command,
            "producer": [*producer, "--seed", str(seed)],
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}
        self._numbers = itertools.count(1)

    def __enter__(self) -> World:
        try:
            for name in NAMES:
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(NAMES):
            self.kill(name)

    def start(self, name: str) -> None:
        """Start a process; for the broker, wait until it is ready."""
        self._logs[name] = self.folder / f"{name}-{next(self._numbers)}.log"
        environment = os.environ | {"IOT_LOG_DIR": str(self.folder / "log"), "PYTHONPATH": str(ROOT)}
        with self._logs[name].open("wb") as log:
            self._processes[name] = spawn(
                self._commands[name], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        if name == "broker":
            self.wait_for("broker that is ready", lambda: "is ready on" in self.said("broker"))

    def kill(self, name: str) -> None:
        """Kill a process; its children end with it."""
        if process := self._processes.pop(name, None):
            process.kill()
            process.wait()

    def finish(self, name: str) -> int:
        """Stop a process with SIGINT; return its exit status."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGINT)
        return process.wait(PATIENCE_S)

    def said(self, name: str) -> str:
        """What a process has printed since its last start."""
        return self._logs[name].read_text(errors="replace")

    def pause_broker(self, for_s: float) -> None:
        """Suspend Kafka's process for this long."""
        [pid] = re.findall(r"\(process (\d+),", self.said("broker"))
        os.kill(int(pid), signal.SIGSTOP)
        try:
            time.sleep(for_s)
        finally:
            os.kill(int(pid), signal.SIGCONT)

    def end_of_topic(self) -> int:
        """How many messages were written to the topic; -1 if Kafka does not answer."""
        try:
            return oracle.end_of(self.kafka.bootstrap_servers, READINGS_TOPIC)
        except KafkaError:
            return -1

    def wait_for_recovery(self) -> None:
        """Wait until the application is healthy and has processed readings that were sent after this call."""
        self.wait_for("broker that answers", lambda: self.end_of_topic() >= 0)
        least = self.end_of_topic() + RATE_PER_S
        self.wait_for("application that has caught up", lambda: self.app.messages() >= least)
        self.wait_for("application that is healthy", lambda: self.app.status("/healthz") == 200)

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true.

        Raises:
            TimeoutError: it is false for ``PATIENCE_S``, or a process has ended.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise TimeoutError(f"the {name} ended with status {process.returncode}: {self.said(name)[-500:]}")
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no {what} within {PATIENCE_S:.0f} s; healthz: {self.app.status('/healthz')}")
            time.sleep(0.1)


def victims(chance: random.Random, rounds: int) -> Iterator[list[str]]:
    """Choose what to kill in each round: the three in turn, in random order, and sometimes a second one."""
    order: list[str] = []
    for number in range(rounds):
        if not order:
            order = chance.sample(NAMES, len(NAMES))
        chosen = {order.pop()}
        if number >= len(NAMES) and chance.random() < TWO_AT_ONCE:
            chosen.add(chance.choice(NAMES))
        yield [name for name in NAMES if name in chosen]


def rounds_of(world: World, chance: random.Random, rounds: int, pause_s: float) -> Iterator[Round]:
    """Kill and restart processes, round by round; at the end suspend the broker for ``pause_s``."""
    world.wait_for_recovery()
    begun_s = time.monotonic()
    for chosen in victims(chance, rounds):
        time.sleep(chance.uniform(0, MAX_CALM_S))
        at_s = time.monotonic()
        for name in chosen:
            world.kill(name)
        time.sleep(chance.uniform(0, MAX_DOWN_S))
        for name in chosen:
            world.start(name)
        world.wait_for_recovery()
        yield Round(" and ".join(chosen) + " killed", at_s - begun_s, time.monotonic() - at_s)
    if pause_s:
        at_s = time.monotonic()
        world.pause_broker(pause_s)
        world.wait_for_recovery()
        yield Round(f"broker suspended for {pause_s:.0f} s", at_s - begun_s, time.monotonic() - at_s)


class Verdict(NamedTuple):
    messages: int
    lost: list[str]
    doubled: list[str]
    others: list[str]
    """Other differences from the reference."""
    late: int
    """How many readings were too late for one or more of their windows."""


def verdict(world: World) -> Verdict:
    """Stop the producer, wait until everything is processed, and compare with the reference."""
    others = []
    if status := world.finish("producer"):
        others.append(f"the producer ended with status {status}")
    summary = world.said("producer")
    records = oracle.read_topic(world.kafka.bootstrap_servers, READINGS_TOPIC)
    lost, doubled = oracle.gaps_and_repeats(records)
    # Of a run that was not killed, every reading must be in the topic.
    if ended := re.search(r"^acknowledged: (\S+)\n(?:.*\n)*malformed: (\S+)\n(?:.*\n)*run_id: (\S+)$", summary, re.M):
        sent, malformed = (int(number.replace(",", "")) for number in ended.groups()[:2])
        of_run = sum((reading or {}).get("run_id") == ended[3] for reading in map(oracle.reading_of, records))
        lost += [f"{sent - malformed - of_run} acknowledged readings of run {ended[3]}"] * (of_run < sent - malformed)
        doubled += [f"{of_run} readings of run {ended[3]}, not {sent - malformed}"] * (of_run > sent - malformed)
    else:
        others.append(f"the producer printed no summary: {summary[-500:]}")
    alerts = oracle.alert_ids(records, READINGS_TOPIC)
    world.wait_for("application that has processed everything", lambda: world.app.messages() >= len(records))
    world.wait_for("all alerts kept", lambda: world.app.get("/api/metrics")["total_alerts"] >= len(alerts))
    wanted = oracle.expected(records)
    for what, found, due in (*in_api(world.app, records, wanted, alerts), *in_topics(world.kafka, records, alerts)):
        if found != due:
            others.append(f"{what}: {found} instead of {due}")
    others += oracle.differences(world.app.windows(), oracle.over_all_locations(wanted.windows))
    return Verdict(len(records), lost, doubled, others, wanted.late)


Finding = tuple[str, object, object]
"""What was compared, the value found, and the expected value."""


def in_api(app: App, records: list[oracle.Record], wanted: oracle.Expected, alerts: set[str]) -> Iterator[Finding]:
    """Compare the API, except for its windows."""
    metrics = app.get("/api/metrics")
    yield "total_messages", metrics["total_messages"], wanted.readings
    yield "rejected_messages", metrics["rejected_messages"], wanted.rejected
    yield "late_messages", metrics["late_messages"], wanted.late
    yield "total_alerts", metrics["total_alerts"], len(alerts)
    values: dict[str, list[float]] = {}
    sensors = set()
    for reading in filter(None, map(oracle.reading_of, records)):
        values.setdefault(reading["sensor_type"], []).append(reading["value"])
        sensors.add(reading["sensor_id"])
    rows = {row.pop("sensor_type"): row for row in metrics["sensor_stats"]}
    for name, of in values.items():
        row = rows.pop(name, {})
        yield f"{name}", [row.get(key) for key in ("count", "min_value", "max_value")], [len(of), min(of), max(of)]
        yield f"average {name}", row.get("avg_value"), pytest.approx(sum(of) / len(of), rel=1e-9)
    yield "other sensor types", rows, {}
    kept = [
        alert["alert_id"]
        for sensor in sensors
        for alert in app.get(f"/api/alerts?limit=1000&sensor_id={sensor}")["alerts"]
    ]
    yield "alerts in the API", (len(kept), set(kept) - alerts, alerts - set(kept)), (len(alerts), set(), set())


def in_topics(kafka: Kafka, records: list[oracle.Record], alerts: set[str]) -> Iterator[Finding]:
    """Compare the topics of alerts and of rejected messages, which may have repeats."""
    of_alerts = oracle.read_topic(kafka.bootstrap_servers, ALERTS_TOPIC)
    raised = {json.loads(record.value or b"")["alert_id"] for record in of_alerts}
    yield f"alerts in {ALERTS_TOPIC}", (raised - alerts, alerts - raised), (set(), set())
    rejected = {}
    for record in oracle.read_topic(kafka.bootstrap_servers, REJECTED_TOPIC):
        headers = dict(record.headers)
        rejected[int(headers["source.partition"]), int(headers["source.offset"])] = record.value
    due = {(of.partition, of.offset): of.value for of in records if oracle.reading_of(of) is None}
    yield f"messages in {REJECTED_TOPIC}", rejected, due


def run(rounds: int, seed: int, pause_s: float, folder: Path) -> Verdict:
    """Run all rounds and print a row for each, then the verdict."""
    begun_s = time.monotonic()
    kills = 0
    with World(folder, seed) as world:
        print(f"seed {seed}, {RATE_PER_S} readings a second, all state in {folder}\n")
        print(f"{'round':>5}  {'after':>8}  {'recovered':>10}  what", flush=True)
        for number, of in enumerate(rounds_of(world, random.Random(seed), rounds, pause_s), 1):
            kills += of.what.count(" and ") + 1 if "killed" in of.what else 0
            print(f"{number:>5}  {of.at_s:>6.1f} s  {of.recovered_after_s:>8.1f} s  {of.what}", flush=True)
        found = verdict(world)
    for line in [*found.lost, *found.doubled, *found.others][:50]:
        print(line)
    print(
        f"\n{rounds} rounds, {kills} kills, {time.monotonic() - begun_s:,.0f} s: {found.messages:,} messages, "
        f"{len(found.lost)} lost, {len(found.doubled)} doubled, {len(found.others)} other differences "
        f"({found.late:,} readings were late)"
    )
    return found


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.chaos",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--rounds",
        type=positive_int,
        default=20,
        metavar="N",
        help="number of rounds; a round kills one or two processes",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="random seed; the same seed kills in the same order (default: a new one)"
    )
    parser.add_argument(
        "--pause",
        type=positive_float,
        default=30.0,
        metavar="S",
        help="how long to suspend the broker at the end, in seconds",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    seed = random.randrange(2**16) if args.seed is None else args.seed
    folder = Path(tempfile.mkdtemp(prefix="iot-chaos-"))
    try:
        found = run(args.rounds, seed, args.pause, folder)
    except TimeoutError as error:
        print(f"error: {error}; all state is in {folder}", file=sys.stderr)
        return 1
    if found.lost or found.doubled or found.others:
        print(f"error: not exact; all state is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
