"""The scripts on a cluster: a standalone Spark whose executors are processes of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iot.broker.broker import Broker, find_free_port
from iot.cluster.spark import SparkCluster
from iot.environment import UTF8_LOCALE, plain
from iot.java.jars import jars
from tests.support import oracle
from tests.support.app import App, require_exact
from tests.support.scripts import ROOT, command_line, descendants, executors, read_until, sockets, started
from tests.support.streams import stream, write

pytestmark = pytest.mark.timeout(600)
READINGS = 5_000
# Addresses of this machine on which other machines can connect.
ALL_ADDRESSES = {"00000000", "0" * 32}


@pytest.fixture(autouse=True)
def no_other_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cluster, what the profile says of Spark and its Python counts."""
    for name in os.environ:
        if name.startswith(("SPARK_", "PYSPARK_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    with SparkCluster(tmp_path_factory.mktemp("spark"), port=find_free_port(), workers=2, cores=3) as made:
        yield made


def run_processor(
    broker: Broker, topic: str, cluster: SparkCluster, folder: Path, *, with_submit: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Process what is in the topic, and stop."""
    script = "structured_streaming_processor.py"
    flags = ["--bootstrap-servers", broker.bootstrap_servers, "--topic", topic, "--checkpoint-dir", str(folder)]
    flags += ["--starting-offsets", "earliest", "--by-location", "--available-now"]
    scripts = Path(sys.executable).parent
    # As the page on scaling shows it, but for jars that are there already.
    submit = [str(scripts / "spark-submit"), "--master", cluster.url, "--jars", ",".join(map(str, jars("spark")))]
    start = [*submit, script] if with_submit else [sys.executable, script, "--master", cluster.url]
    known = os.environ | {"IOT_LOG_DIR": str(folder / "log"), "PATH": f"{scripts}:{os.environ['PATH']}"}
    # They take no path with a blank.
    known |= {"PYSPARK_PYTHON": str(plain(scripts.parent) / scripts.name / "python")} | environment
    # Spark's own scripts know paths of the locale only.
    known["LC_ALL"] = UTF8_LOCALE
    return subprocess.run(
        [*start, *flags], cwd=ROOT, env=known, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.long
@pytest.mark.parametrize("with_submit", [False, True])
def test_the_processor_is_exact_on_a_cluster(
    broker: Broker, topic: str, cluster: SparkCluster, tmp_path: Path, with_submit: bool
) -> None:
    write(broker.kafka, topic, stream(READINGS, 1, 600, late=0.01))
    done = run_processor(broker, topic, cluster, tmp_path, with_submit=with_submit)
    assert done.returncode == 0, done.stderr
    assert with_submit or done.stderr == ""
    assert "Traceback" not in done.stderr
    records = oracle.read_topic(broker.bootstrap_servers, topic)
    wanted, alerts = oracle.expected(records), oracle.alert_ids(records, topic)
    numbers = f"{wanted.readings:,} readings, {wanted.rejected:,} rejected, {wanted.late:,} late"
    assert f"{numbers} (at most" in done.stdout
    assert f", {len(alerts):,} alerts\n" in done.stdout


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("/no/python", "there is no /no/python: install Python"),
        ("without modules", "lacks the module"),
    ],
)
def test_what_executors_lack_is_said_with_their_machine(
    broker: Broker, topic: str, cluster: SparkCluster, tmp_path: Path, python: str, said: str
) -> None:
    if python == "without modules":
        # This Python without its packages.
        empty = tmp_path / "python"
        empty.write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -S -I "$@"\n')
        empty.chmod(0o755)
        python = str(empty)
    write(broker.kafka, topic, stream(100, 1, 60))
    done = run_processor(
        broker, topic, cluster, tmp_path / "state", PYSPARK_PYTHON=python, PYSPARK_DRIVER_PYTHON=sys.executable
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert "127.0.0.1" in done.stderr


class WithOneBlindWorker(SparkCluster):
    """The second worker is in a mount namespace of its own, where a folder is another one, as on another machine."""

    blind_to = Path()

    def command(self, name: str, host: str) -> list[str]:
        command = super().command(name, host)
        if name != "worker-2":
            return command
        return ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(self.blind_to), *command]


@pytest.mark.long
def test_a_folder_that_a_machine_does_not_share_is_said_before_anything_is_written(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        missing = "root and unshare are needed, to mount a folder for one worker only"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    state = tmp_path / "state"
    state.mkdir()
    blind = WithOneBlindWorker(tmp_path / "spark", port=find_free_port(), workers=2, cores=3)
    blind.blind_to = state
    with blind as cluster:
        done = run_processor(broker, topic, cluster, state, IOT_LOG_DIR=str(tmp_path / "log"))
    assert done.returncode == 1
    wanted = f"error: {os.uname().nodename} does not see the checkpoint folder {state} of this machine: choose a folder"
    assert done.stderr.startswith(wanted)
    assert done.stderr.count("\n") == 1
    # Nothing is left, so the same command works once the folder is shared.
    assert list(state.iterdir()) == []


@pytest.mark.long
def test_the_application_survives_its_executors_and_uses_new_ones(
    broker: Broker, topic: str, tmp_path: Path, eventually: Any
) -> None:
    with SparkCluster(tmp_path / "spark", port=find_free_port(), workers=2, cores=3) as cluster:
        app = App(broker, topic, tmp_path, "--master", cluster.url)
        messages = list(stream(READINGS, 2, 300, late=0.01))
        with app.running() as process:
            write(broker.kafka, topic, messages[: READINGS // 3])
            eventually(lambda: app.messages() == READINGS // 3, 180)
            # Alerts are raised, so their mode was chosen while all executors were there.
            eventually(lambda: app.get("/api/metrics")["total_alerts"] > 0, 60)
            assert listens_only_on_loopback(process.pid)
            for pid in executors(map(cluster.pid, cluster.workers)):
                os.kill(pid, signal.SIGKILL)
            write(broker.kafka, topic, messages[READINGS // 3 : READINGS // 2])
            eventually(lambda: app.messages() == READINGS // 2, 180)
            # Both workers, one after the other: what comes next runs on executors that were not there at the start.
            for name in cluster.workers:
                os.kill(cluster.pid(name), signal.SIGKILL)
                cluster.launch(name)
                eventually(lambda: len(cluster.alive_workers()) == 2, 60)
            write(broker.kafka, topic, messages[READINGS // 2 :])
            require_exact(app, oracle.read_topic(broker.bootstrap_servers, topic), topic, eventually)
            # Six slots were counted, not those of the first executor. Of three, real-time mode would need all.
            os.kill(cluster.pid("worker-1"), signal.SIGKILL)
            said = read_until(process, ".* alerts in ")
            assert "micro-batches: real-time mode needs 5 task slots for 3 partitions, and Spark has 3" in said
            cluster.launch("worker-1")
            assert "micro-batches" not in read_until(process, ".* alerts in real-time mode")
            write(broker.kafka, topic, stream(1_000, 3, 1))
            require_exact(app, oracle.read_topic(broker.bootstrap_servers, topic), topic, eventually)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
            assert process.returncode == 0


def listens_only_on_loopback(pid: int) -> bool:
    """Whether no process that this one started, and not itself, listens on an address that others can reach."""
    inodes = set().union(*map(sockets, (pid, *descendants(pid))))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    # The state 0A means that it listens.
    ours = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]
    return bool(ours) and not ALL_ADDRESSES & set(ours)


def test_one_command_runs_everything_starts_it_again_and_leaves_nothing(tmp_path: Path, eventually: Any) -> None:
    port = find_free_port()
    command = [sys.executable, "-m", "iot.cluster", "--data-dir", str(tmp_path / "data"), "--port", str(port)]
    command += ["--kafka-port", str(find_free_port()), "--master-port", str(find_free_port())]
    environment = os.environ | {"IOT_LOG_DIR": str(tmp_path / "log"), "PYTHONPATH": str(ROOT)}
    with started(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        said = read_until(process, r".* s  page +http")
        parts = [int(pid) for pid in re.findall(r"process (\d+)", said)]
        # Three Kafka nodes, master, two workers, PostgreSQL and the producer.
        assert len(parts) == 8
        assert "at spark://127.0.0.1:" in said
        assert listens_only_on_loopback(process.pid)
        os.kill(parts[0], signal.SIGKILL)
        read_until(process, r".* node 1 \(.*\) was killed by signal 9: starting it again in 1 s")
        read_until(process, r".* node 1 \(.*\) is back")
        for pid, name in zip(parts[3:], ("master", "worker-1", "worker-2"), strict=False):
            os.kill(pid, signal.SIGKILL)
            read_until(process, f".* Spark's {name} was killed by signal 9: starting it again in 1 s")
            read_until(process, f".* Spark's {name} was started again")
        left = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=120)
    if os.geteuid() == 0:
        shutil.rmtree(Path(re.findall(r"PostgreSQL.*log (.+)", said)[0]).parent)
    assert process.returncode == 0
    assert re.search(r"stopped: [\d,]+ readings processed in this run", rest)
    assert "the cluster stopped; its data stays in" in rest
    eventually(lambda: not [pid for pid in left if command_line(pid)], 30)
