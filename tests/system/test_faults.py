"""Faults of database, checkpoints and topic: each is reported, and recovers or is fixed by one command.

After each fault the API equals the reference exactly.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iot.broker.broker import Broker, find_free_port
from iot.settings import READINGS_TOPIC
from tests.support import oracle
from tests.support.app import App, require_exact
from tests.support.streams import stream, write

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_200)]
# How long the application may take to report a fault, or to catch up.
PATIENCE_S = 300
# Size of the disk that is filled. Once it is free, there must be room for a copy of the results that are set aside.
SMALL_BYTES = 64 * 2**20


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a file system of ``SMALL_BYTES`` at a folder; yield False if this process may not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs", str(folder)]
    made = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(database: Path, is_small: bool, pid: int) -> Iterator[None]:
    """Fill the disk of a database; if it is not small, forbid the process to extend any file instead."""
    if is_small:
        ballast = database.with_name("ballast")
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(bytes(SMALL_BYTES))
        yield
        ballast.unlink()
    else:
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (database.stat().st_size, before[1]))
        yield
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def send(broker: Broker, count: int, seed: int, sensors: int = 100) -> None:
    """Send readings of the last seconds, so that none is late."""
    write(broker.kafka, READINGS_TOPIC, stream(count, seed, span_s=1, sensors=sensors))


def unhealthy(app: App) -> str:
    """The health reasons of the API; empty unless both ``/healthz`` and the metrics report a failure."""
    metrics = app.get("/api/metrics")
    if app.status("/healthz") != 503 or not metrics or metrics["system_health"] != "Critical":
        return ""
    return "; ".join(metrics["health_reasons"])


def require_recovered(app: App, broker: Broker, eventually) -> None:
    """Wait until the application has processed the topic and is healthy; compare its API with the reference."""
    records = oracle.read_topic(broker.bootstrap_servers, READINGS_TOPIC)
    eventually(lambda: app.messages() >= len(records), PATIENCE_S)
    require_exact(app, records, READINGS_TOPIC, eventually)
    eventually(lambda: app.status("/healthz") == 200, 120)


def fix(text: str) -> None:
    """Run the last reset command that a message names."""
    [command] = re.findall(r"to reset: (rm -r [^;\n\"]+)", text)[-1:]
    subprocess.run(command, shell=True, check=True)


def stop(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Stop the application with Ctrl-C; return its exit status and its output."""
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def test_the_application_reports_each_fault_and_recovers(tmp_path, eventually):
    port = find_free_port()
    with small_disk(tmp_path / "small") as is_small, Broker(port, tmp_path / "broker") as broker:
        app = App(broker, READINGS_TOPIC, tmp_path)
        database = tmp_path / "small" / "results.db"
        app.command[app.command.index("--database-url") + 1] = f"sqlite:///{database}"

        with app.running() as process:
            send(broker, 3_000, seed=31)
            require_recovered(app, broker, eventually)
            check_locked_database(app, broker, database, eventually)
            check_full_disk(app, broker, database, eventually, is_small=is_small, pid=process.pid)
            status, said = stop(process)
            assert status == 0
            assert "Traceback" not in said

        check_damaged_checkpoints(app, tmp_path / "checkpoints", eventually)

        with app.running() as process:
            require_recovered(app, broker, eventually)
            broker.stop()
            shutil.rmtree(tmp_path / "broker")
            with Broker(port, tmp_path / "broker") as empty:
                check_replaced_topic(app, empty, process, eventually)
                with app.running():
                    require_recovered(app, empty, eventually)


def check_locked_database(app: App, broker: Broker, database: Path, eventually) -> None:
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    send(broker, 2_000, seed=32)
    eventually(lambda: f"{database} is locked by another process" in unhealthy(app), PATIENCE_S)
    holder.execute("COMMIT")
    holder.close()
    require_recovered(app, broker, eventually)


def check_full_disk(app: App, broker: Broker, database: Path, eventually, *, is_small: bool, pid: int) -> None:
    with full(database, is_small, pid):
        # 20,000 sensors need space in the database.
        send(broker, 40_000, seed=33, sensors=20_000)
        why = f"no room for {database}" if is_small else f"cannot use {database}"
        eventually(lambda: why in unhealthy(app), PATIENCE_S)
    require_recovered(app, broker, eventually)


def check_damaged_checkpoints(app: App, checkpoints: Path, eventually) -> None:
    """The newest offsets file of both queries is cut short."""
    folders = [checkpoints / f"dashboard-{name}-checkpoint" for name in ("sensors", "alerts")]
    for log, size in (folders[0] / "offsets", 300), (folders[1] / "offsets", 0):
        # In real-time mode the first offsets file may not exist yet.
        written = (path for path in log.iterdir() if path.name.isdigit())
        last = max(written, key=lambda path: int(path.name), default=log / "0")
        last.touch()
        os.truncate(last, size)
    with app.running() as process:
        eventually(lambda: unhealthy(app).count("its checkpoint is damaged") == 2, PATIENCE_S)
        status, said = stop(process)
    assert status == 0
    assert "the windows query failed: its checkpoint is damaged" in said
    assert "Traceback" not in said
    fix(said)


def check_replaced_topic(app: App, broker: Broker, process: subprocess.Popen[str], eventually) -> None:
    """The broker came back without its data: the topic has the same name and the same offsets, but is another one."""
    kept = app.get("/api/metrics")
    send(broker, 60_000, seed=34)
    eventually(lambda: f"the topic {READINGS_TOPIC} was deleted and made again" in unhealthy(app), PATIENCE_S)
    told = app.get("/api/metrics")
    assert told["state"] == "failed"
    # No message of the new topic was counted.
    for name in ("total_messages", "rejected_messages", "total_alerts", "sensor_stats"):
        assert told[name] == kept[name]
    assert app.windows()
    again = oracle.alert_ids(oracle.read_topic(broker.bootstrap_servers, READINGS_TOPIC), READINGS_TOPIC)
    assert {alert["alert_id"] for alert in app.get("/api/alerts?limit=1000")["alerts"]} & again
    status, said = stop(process)
    assert status == 1
    assert "was deleted and made again while it was read; stop this; to reset: rm -r " in said
    assert "Traceback" not in said
    with app.running() as refused:
        text, _ = refused.communicate(timeout=240)
    assert refused.returncode == 1
    [line] = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "is of an earlier topic iot-sensors, which was deleted and made again" in line
    fix(line)
