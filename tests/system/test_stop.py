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
from dataclasses import dataclass
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
    "gateway": r"stopped before anything was received|received for .* messages refused",
    "java": r"stopped before all jars were fetched",
}


@dataclass(frozen=True)
class Site:
    """What the scripts find: a broker, a FIFO that nobody writes, and a repository of jars that never answers."""

    kafka: str
    fifo: Path
    silent_port: int

    def command(self, template: str, folder: Path) -> list[str]:
        """Fill in a command. Each has a folder and ports of its own."""
        filled = template.format(
            kafka=f"--bootstrap-servers {self.kafka}",
            fifo=self.fifo,
            state=f"--checkpoint-dir {folder}/checkpoints --master local[2]",
            results=f"--database-url sqlite:///{folder}/results.db --port {find_free_port()}",
            folder=folder,
            port=find_free_port(),
        )
        script, *flags = filled.split()
        return [sys.executable, *([str(ROOT / script)] if script.endswith(".py") else ["-m", script]), *flags]


@dataclass(frozen=True)
class Script:
    """A script, and when to stop it."""

    name: str
    command: str
    longest_s: float
    """The last moment after its start."""
    moments: int
    """How often it is stopped in the ordinary suite."""
    status: int = 0
    environment: Callable[[Site, Path], dict[str, str]] = lambda site, folder: {}


def new_cache(_: Site, folder: Path) -> dict[str, str]:
    """A cache with all jars and no archives of classes, so that the training runs."""
    (folder / "cache").mkdir()
    (folder / "cache" / "jars").symlink_to(CACHE_DIR / "jars")
    return {"IOT_CACHE_DIR": str(folder / "cache")}


def without_jars(site: Site, folder: Path) -> dict[str, str]:
    return {"IOT_CACHE_DIR": str(folder / "cache"), "IOT_MAVEN_MIRROR": f"http://127.0.0.1:{site.silent_port}"}


SCRIPTS = [
    Script("producer", "iot_producer.py {kafka} --rate 200", 2, 3),
    Script("producer", "iot_producer.py {kafka} --replay {fifo}", 2, 1),
    Script("producer", "iot_producer.py {kafka} --replay -", 2, 1),
    Script("producer", "iot_producer.py --kafka-config {fifo}", 2, 1),
    Script("consumer", "iot_consumer.py {kafka} --from-beginning", 3, 2),
    Script("consumer", "iot_consumer.py {kafka} --rules {fifo}", 2, 1),
    Script("processor", "structured_streaming_processor.py {kafka} {state}", 14, 2),
    Script("application", "iot_streaming_app.py {kafka} {state} {results}", 14, 2),
    Script("demo", "iot_streaming_app.py --demo --bootstrap-servers localhost:{port} {state} {results}", 20, 0),
    Script("load test", "performance_test.py {kafka}", 2, 2),
    Script("load test", "performance_test.py {kafka} --rate 100 --duration 60", 4, 2),
    Script("load test", "performance_test.py {kafka} --test compare", 12, 0),
    Script("load test", "performance_test.py {kafka} --test burst --compare {fifo}", 2, 1),
    Script("broker", "iot.broker --port {port}", 8, 1),
    Script("gateway", "iot.gateway {kafka} --topic readings-{port} --http-port {port}", 4, 2),
    Script("web", "iot.web {kafka} {results}", 2, 2),
    Script("rejected", "iot.rejected {kafka} --to {folder}/rejected", 2, 1),
    Script("java", "iot.java", 2, 1, 130, without_jars),
    Script("training", "iot.pipeline.training", 30, 0, 130, new_cache),
]


@pytest.fixture(scope="module")
def site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    fifo = tmp_path_factory.mktemp("fifo") / "fifo"
    os.mkfifo(fifo)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield Site(broker.bootstrap_servers, fifo, silent.getsockname()[1])


def problems(found: Script, ended: Ended) -> list[str]:
    """What is wrong with the end of a script, in words."""
    wrong = []
    # A script that had finished before the signal has its own status.
    if ended.status not in {found.status, 0}:
        wrong.append(f"status {ended.status}")
    for bad in ("Traceback", "Exception ignored", "Fatal Python error", "^error: "):
        if re.search(bad, ended.output, re.MULTILINE):
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
        for _ in range(max(found.moments, times > 1) * times)
    ]

    def stop(number: int, found: Script, delay_s: float, signal_number: signal.Signals) -> list[str]:
        place = folder / str(number)
        place.mkdir()
        command = site.command(found.command, place)
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
