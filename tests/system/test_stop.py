"""Ctrl-C and SIGTERM at any moment: every script ends cleanly, with the right status, and leaves nothing behind.

The moments are random, from a seed. They begin when the script handles signals, which it does within its first import:
before that, Python itself starts, and no code of ours runs.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from iot.broker.broker import Broker, find_free_port
from iot.settings import CACHE_DIR
from tests.support.scripts import ROOT
from tests.support.stopping import Ended, stop_after

SEED = 20_261_126
# What a script may print as its last words instead of a summary.
LAST_WORDS = {
    "producer": r"stopped before anything was sent|sent [\d,]+ messages in",
    "consumer": r"stopped before anything was read|processed [\d,]+ messages",
    "processor": r"stopped before anything was processed|processed in [\d,]+ batches",
    "application": r"stopped before anything was processed|stopped: [\d,]+ readings processed",
    "demo": r"stopped before (anything was processed|Kafka was ready)|stopped: [\d,]+ readings processed",
    "broker": r"stopped before Kafka was ready|Kafka stopped after",
    "java": r"stopped before all jars were fetched",
}


@dataclass(frozen=True)
class Script:
    """A script, and when to stop it."""

    name: str
    flags: Callable[[Site, Path], list[str]]
    longest_s: float
    """The last moment after its start."""
    moments: int
    """How often it is stopped in the ordinary suite."""
    status: int = 0
    environment: Callable[[Site, Path], dict[str, str]] = field(default=lambda site, folder: {})


@dataclass(frozen=True)
class Site:
    """What the scripts find: a broker, a FIFO that nobody writes, and a repository of jars that never answers."""

    broker: Broker
    topic: str
    fifo: Path
    silent_port: int

    @property
    def kafka(self) -> list[str]:
        return ["--bootstrap-servers", self.broker.bootstrap_servers]


def script(name: str) -> list[str]:
    return [str(ROOT / f"{name}.py")]


def state(folder: Path) -> list[str]:
    return ["--checkpoint-dir", str(folder / "checkpoints"), "--master", "local[2]"]


def database(folder: Path) -> list[str]:
    return ["--database-url", f"sqlite:///{folder / 'results.db'}"]


def new_cache(folder: Path) -> dict[str, str]:
    """A cache with all jars and no archives of classes, so that the training runs."""
    (folder / "cache").mkdir()
    (folder / "cache" / "jars").symlink_to(CACHE_DIR / "jars")
    return {"IOT_CACHE_DIR": str(folder / "cache")}


def without_jars(site: Site, folder: Path) -> dict[str, str]:
    return {"IOT_CACHE_DIR": str(folder / "cache"), "IOT_MAVEN_MIRROR": f"http://127.0.0.1:{site.silent_port}"}


SCRIPTS = [
    Script("producer", lambda s, _: [*script("iot_producer"), *s.kafka, "--topic", s.topic, "--rate", "200"], 2, 4),
    Script("producer", lambda s, _: [*script("iot_producer"), *s.kafka, "--replay", str(s.fifo)], 2, 2),
    Script("producer", lambda s, _: [*script("iot_producer"), *s.kafka, "--replay", "-"], 2, 2),
    Script("producer", lambda s, _: [*script("iot_producer"), *s.kafka, "--kafka-config", str(s.fifo)], 2, 1),
    Script("consumer", lambda s, _: [*script("iot_consumer"), *s.kafka, "--topic", s.topic, "--from-beginning"], 3, 3),
    Script("consumer", lambda s, _: [*script("iot_consumer"), *s.kafka, "--rules", str(s.fifo)], 2, 1),
    Script("load test", lambda s, _: [*script("performance_test"), *s.kafka], 2, 3),
    Script(
        "load test",
        lambda s, _: [*script("performance_test"), *s.kafka, "--topic", s.topic, "--rate", "100", "--duration", "60"],
        4,
        3,
    ),
    Script("load test", lambda s, _: [*script("performance_test"), *s.kafka, "--test", "compare"], 12, 1),
    Script(
        "processor",
        lambda s, f: [*script("structured_streaming_processor"), *s.kafka, "--topic", s.topic, *state(f)],
        14,
        2,
    ),
    Script(
        "application",
        lambda s, f: [
            *script("iot_streaming_app"),
            *s.kafka,
            "--topic",
            s.topic,
            *state(f),
            *database(f),
            "--port",
            str(find_free_port()),
        ],
        14,
        2,
    ),
    Script(
        "demo",
        lambda s, f: [
            *script("iot_streaming_app"),
            "--demo",
            "--bootstrap-servers",
            f"localhost:{find_free_port()}",
            *state(f),
            *database(f),
            "--port",
            str(find_free_port()),
        ],
        20,
        1,
    ),
    Script("broker", lambda s, f: ["-m", "iot.broker", "--port", str(find_free_port())], 8, 1),
    Script("web", lambda s, f: ["-m", "iot.web", *s.kafka, *database(f), "--port", str(find_free_port())], 2, 2),
    Script("rejected", lambda s, f: ["-m", "iot.rejected", *s.kafka, "--to", str(f / "rejected")], 2, 2),
    Script("java", lambda s, f: ["-m", "iot.java"], 2, 2, 130, without_jars),
    Script("training", lambda s, f: ["-m", "iot.pipeline.training"], 30, 0, 130, lambda s, f: new_cache(f)),
]


@pytest.fixture(scope="module")
def site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    fifo = tmp_path_factory.mktemp("fifo") / "fifo"
    os.mkfifo(fifo)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield Site(broker, "iot-sensors", fifo, silent.getsockname()[1])


def problems(found: Script, ended: Ended) -> list[str]:
    """What is wrong with the end of a script, in words."""
    wrong = []
    # A script that had finished before the signal has its own status.
    if ended.status not in {found.status, 0}:
        wrong.append(f"status {ended.status}")
    for bad in ("Traceback", "Exception ignored", "Fatal Python error", "error: "):
        if bad in ended.output:
            wrong.append(f"it printed {bad!r}")
    if not re.search(LAST_WORDS.get(found.name, ""), ended.output):
        wrong.append("no last words")
    if ended.left:
        wrong.append(f"it left {ended.left}")
    return wrong


def stop_at_random_moments(site: Site, folder: Path, times: int) -> list[str]:
    """Stop every script at random moments, two at a time; returns what was wrong, in words."""
    chance = random.Random(SEED + times)
    runs = [
        # Half of the moments are in the first second, in which most happens.
        (found, chance.choice((1.0, found.longest_s)) * chance.random(), chance.choice((signal.SIGINT, signal.SIGTERM)))
        for found in SCRIPTS
        for _ in range(found.moments * times or (times > 1) * times)
    ]

    def stop(number: int, found: Script, delay_s: float, signal_number: signal.Signals) -> list[str]:
        place = folder / str(number)
        place.mkdir()
        command = [sys.executable, *found.flags(site, place)]
        ended = stop_after(command, delay_s, signal_number, place, found.environment(site, place))
        what = f"{' '.join(command[1:])}, {signal_number.name} after {delay_s:.3f} s"
        return [f"{what}: {wrong}\n{ended.output}" for wrong in problems(found, ended)]

    with ThreadPoolExecutor(2) as pool:
        return [wrong for found in pool.map(stop, range(len(runs)), *zip(*runs, strict=True)) for wrong in found]


def test_every_script_can_be_stopped_at_any_moment(site, tmp_path):
    found = stop_at_random_moments(site, tmp_path, 1)
    assert not found, "\n".join(found)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_every_script_can_be_stopped_at_hundreds_of_moments(site, tmp_path):
    found = stop_at_random_moments(site, tmp_path, 12)
    assert not found, "\n".join(found)
