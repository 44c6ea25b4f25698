"""The network between the driver and a worker of a cluster is cut for a while: nothing is lost and nothing doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from iot.broker.broker import Broker, find_free_port
from iot.cluster.spark import DAEMON, SparkCluster, variables
from iot.processes import end, spawn
from iot.settings import READINGS_TOPIC, Kafka
from tests.support import oracle
from tests.support.app import App, require_exact
from tests.support.cable import HERE, NAMESPACE, THERE, Cable
from tests.support.cable import cable as cable  # a fixture
from tests.support.scripts import ROOT, started

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
CUT_S = 30.0


@pytest.fixture(autouse=True)
def plain_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster with Spark's own timeouts; what the profile says of Spark and its Python does not count."""
    for name in os.environ:
        if name.startswith(("SPARK_", "PYSPARK_")):
            monkeypatch.delenv(name)
    for name in ("SPARK_MASTER_OPTS", "SPARK_WORKER_OPTS"):
        monkeypatch.delitem(DAEMON, name)


@contextmanager
def running_cluster(folder: Path, eventually: Any) -> Iterator[tuple[Broker, str, SparkCluster]]:
    """A broker, its address on the cable, and a Spark master with a worker here and another one there."""
    inner, controller = find_free_port(), f"127.0.0.1:{find_free_port()}"
    servers = f"{HERE}:{find_free_port()}"
    both = f"PLAINTEXT://127.0.0.1:{inner},CABLE://{servers}"
    properties = {
        "listeners": f"{both},CONTROLLER://{controller}",
        "advertised.listeners": both,
        "controller.quorum.bootstrap.servers": controller,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CABLE:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
    spark = SparkCluster(folder / "spark", host=HERE, port=find_free_port(), workers=1)
    with Broker(inner, folder / "broker", properties=properties) as broker, spark:
        there = ["ip", "netns", "exec", NAMESPACE, *spark.command("worker-2", THERE)]
        with spark.log("worker-2").open("wb") as log:
            worker = spawn(there, variables=variables(THERE), cwd=folder, stdout=log, stderr=log)
        try:
            eventually(lambda: len(spark.alive_workers()) == 2, 60)
            yield broker, servers, spark
        finally:
            end(worker, signal.SIGTERM)


def test_a_worker_that_is_cut_off_for_a_while_costs_no_reading(tmp_path: Path, cable: Cable, eventually: Any) -> None:
    with running_cluster(tmp_path, eventually) as (broker, servers, spark):
        app = App(Kafka(servers), READINGS_TOPIC, tmp_path, "--master", spark.url)
        producer = [sys.executable, str(ROOT / "iot_producer.py"), "--bootstrap-servers", servers, "--rate", "1000"]
        producer += ["--sensors", "60", "--malformed-ratio", "0.01", "--late-ratio", "0.01"]
        with app.running() as process, started(producer, stdout=subprocess.DEVNULL) as sensors:
            # Executors of both workers process readings.
            eventually(lambda: app.messages() > 10_000, 300)
            cable.cut()
            stills = [still_for(app, CUT_S)]
            cable.restore()
            stills.append(still_for(app, CUT_S))
            eventually(lambda: len(spark.alive_workers()) == 2, 60)
            print(f"windows stood still for {stills[0]:.1f} s after the cut, {stills[1]:.1f} s after its end")
            sensors.send_signal(signal.SIGINT)
            assert sensors.wait(60) == 0
            records = oracle.read_topic(broker.bootstrap_servers, READINGS_TOPIC)
            assert oracle.gaps_and_repeats(records) == ([], [])
            require_exact(app, records, READINGS_TOPIC, eventually)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0


def still_for(app: App, for_s: float) -> float:
    """Return the longest time in which the count of messages did not grow, in the next ``for_s`` seconds."""
    begun_s = moved_s = time.monotonic()
    longest_s, before = 0.0, app.messages()
    while (now_s := time.monotonic()) - begun_s < for_s:
        longest_s = max(longest_s, now_s - moved_s)
        if (count := app.messages()) > before:
            before, moved_s = count, now_s
        time.sleep(0.1)
    return longest_s
