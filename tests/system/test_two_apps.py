"""Two applications that share a database or a checkpoint folder: the second one refuses, the first is not disturbed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from iot.broker.broker import Broker
from iot.owner import this_process
from iot.results.store import Store
from iot.settings import ALERTS_TOPIC
from iot.spark.checkpoints import lock
from tests.support import oracle
from tests.support.app import App, require_exact
from tests.support.postgres import drop_everything
from tests.support.postgres import postgres as postgres  # a fixture
from tests.support.scripts import ROOT
from tests.support.streams import stream, write

pytestmark = pytest.mark.timeout(600)
# Runs the application as on another machine, which has its own name, and with which locks are not shared.
ELSEWHERE = """
import sys
from iot import lock_file, owner
owner.socket.gethostname = lambda: {host!r}
lock_file.try_lock = lock_file.try_lock_beyond_end = lambda file: True
import iot_streaming_app
sys.exit(iot_streaming_app.main(sys.argv[1:]))
"""


def change(app: App, **flags: object) -> App:
    """Set flags of an application."""
    for name, value in flags.items():
        app.command[app.command.index(f"--{name.replace('_', '-')}") + 1] = str(value)
    return app


def elsewhere(app: App, host: str) -> App:
    app.command[:2] = [sys.executable, "-c", ELSEWHERE.format(host=host)]
    return app


def second_of(app: App, broker: Broker, topic: str, folder: Path, **flags: object) -> App:
    """Another application with the state of the first, but for these flags and its log folder."""
    names = ("--checkpoint-dir", "--database-url")
    same = {name[2:].replace("-", "_"): app.command[app.command.index(name) + 1] for name in names}
    return change(App(broker, topic, folder), **(same | flags))


def refusal(app: App) -> str:
    """The only line that an application prints, which ends within seconds and starts nothing."""
    begun_s = time.monotonic()
    with app.running() as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert time.monotonic() - begun_s < 30
    assert said.startswith("error: "), said
    assert said.count("\n") == 1, said
    assert "--checkpoint-dir" in said
    assert "--database-url" in said
    return said


def figures(app: App) -> dict[str, object]:
    metrics = app.get("/api/metrics")
    names = ("total_messages", "rejected_messages", "late_messages", "total_alerts", "sensor_stats")
    return {name: metrics[name] for name in names}


@pytest.mark.long
def test_in_every_combination_the_second_refuses_and_the_first_stays_exact(
    broker, topic, tmp_path, postgres, eventually
):
    """The first one has its checkpoints in a folder, and its results in SQLite, then in PostgreSQL."""
    messages = list(stream(20_000, seed=12, span_s=120, late=0.005))
    drop_everything(postgres)
    with ExitStack() as stack:
        first = App(broker, topic, tmp_path / "first")
        in_postgres = change(App(broker, topic, tmp_path / "third"), database_url=postgres)
        processes = [stack.enter_context(app.running()) for app in (first, in_postgres)]
        write(broker.kafka, topic, iter(messages[:10_000]), at_once=800)
        records = oracle.read_topic(broker.bootstrap_servers, topic)
        for app in (first, in_postgres):
            require_exact(app, records, topic, eventually)
        before = figures(first), figures(in_postgres)

        (tmp_path / "link").symlink_to(tmp_path / "first")
        here = {
            "checkpoint_dir": tmp_path / "two" / "checkpoints",
            "database_url": f"sqlite:///{tmp_path}/two/results.db",
        }
        folder, database = first.folder / "checkpoints", first.folder / "results.db"
        hard_link = tmp_path / "elsewhere" / "other name.db"
        cases = [
            (first, {}, folder, 0),
            (first, {"checkpoint_dir": here["checkpoint_dir"]}, database, 0),
            (first, {"database_url": here["database_url"]}, folder, 0),
            (
                first,
                {
                    "checkpoint_dir": here["checkpoint_dir"],
                    "database_url": f"sqlite:///{tmp_path}/link/../link/results.db",
                },
                "results.db",
                0,
            ),
            (
                first,
                {"checkpoint_dir": f"{tmp_path}/link/checkpoints/../checkpoints", "database_url": here["database_url"]},
                folder,
                0,
            ),
            (
                first,
                {"checkpoint_dir": here["checkpoint_dir"], "database_url": f"sqlite:///{hard_link}"},
                hard_link,
                0,
            ),
            (in_postgres, {"checkpoint_dir": here["checkpoint_dir"]}, "postgresql://iot@", 1),
            (in_postgres, {}, in_postgres.folder / "checkpoints", 1),
        ]
        (tmp_path / "two").mkdir()
        hard_link.parent.mkdir()
        hard_link.hardlink_to(database)
        for app, flags, shared, number in cases:
            line = refusal(second_of(app, broker, topic, tmp_path / "two", **flags))
            assert str(shared) in line
            assert re.search(rf" is in use by iot_streaming_app on \S+ \(process {processes[number].pid}\)", line), line
            # It left nothing behind.
            assert not [path for path in (tmp_path / "two").rglob("*") if path.is_file()]
        hard_link.unlink()
        assert (figures(first), figures(in_postgres)) == before
        write(broker.kafka, topic, iter(messages[10_000:]), at_once=800)
        records = oracle.read_topic(broker.bootstrap_servers, topic)
        for app in (first, in_postgres):
            require_exact(app, records, topic, eventually)

        # Both wrote each alert to the same topic, and each counted it once.
        counts = Counter(alert_id for alert_id in alert_ids(broker) if alert_id.startswith(topic))
        assert set(counts) == oracle.alert_ids(records, topic)
        assert min(counts.values()) >= 2

        # The owners are killed. The next ones continue at once; but where checkpoints were removed, all is reset.
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for folder in (in_postgres.folder / "checkpoints").glob("dashboard-*-checkpoint"):
            shutil.rmtree(folder)
        again = [second_of(app, broker, topic, tmp_path / "two") for app in (first, in_postgres)]
        processes = [stack.enter_context(app.running()) for app in again]
        for app, process in zip(again, processes, strict=True):
            eventually(lambda app=app, process=process: app.messages() >= 0 or process.poll() is not None, 120)
            assert process.poll() is None, process.stdout.read()
            require_exact(app, records, topic, eventually)
        said = []
        for process in processes:
            process.send_signal(signal.SIGINT)
            said.append(process.communicate(timeout=60)[0])
        assert [process.returncode for process in processes] == [0, 0]
        assert "waiting" not in "".join(said)
        assert "kept as" not in said[0]
        [line] = [line for line in said[1].splitlines() if "a new run begins" in line]
        [schema] = re.findall(r'kept as the schema "(public_before_\w+)" \(remove it with: psql ', line)
        kept = Store(f"{postgres}&options=-c%20search_path%3D{schema}")
        assert kept.read(time.time()).messages == oracle.expected(records).readings
        kept.close()
        drop_everything(postgres)


def alert_ids(broker: Broker) -> list[str]:
    records = oracle.read_topic(broker.bootstrap_servers, ALERTS_TOPIC)
    return [json.loads(record.value or b"")["alert_id"] for record in records]


@pytest.mark.long
def test_on_two_machines_the_owner_is_respected_until_it_is_suspended_and_then_fenced_off(
    broker, topic, tmp_path, eventually
):
    messages = list(stream(6_000, seed=13, span_s=60))
    first = elsewhere(App(broker, topic, tmp_path / "first"), "host-a")
    second = elsewhere(second_of(first, broker, topic, tmp_path / "second"), "host-b")
    with first.running() as suspended:
        write(broker.kafka, topic, iter(messages[:3_000]), at_once=800)
        eventually(lambda: first.messages() == 3_000, 120)
        with second.running() as process:
            said, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "is in use by iot_streaming_app on host-a (process " in said.splitlines()[-1]
        suspended.send_signal(signal.SIGSTOP)
        with second.running() as process:
            eventually(lambda: second.messages() == 3_000, 120)
            write(broker.kafka, topic, iter(messages[3_000:]), at_once=800)
            suspended.send_signal(signal.SIGCONT)
            said, _ = suspended.communicate(timeout=90)
            assert suspended.returncode == 1
            assert "Traceback" not in said
            line = said.splitlines()[-1]
            assert line.startswith("error: ")
            assert " was taken over by iot_streaming_app on host-b (process " in line
            require_exact(second, oracle.read_topic(broker.bootstrap_servers, topic), topic, eventually)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=60)
        assert "gave no sign of life for 10 s: taking over" in said


def test_two_processors_on_one_folder(broker, topic, tmp_path):
    command = [sys.executable, str(ROOT / "structured_streaming_processor.py"), "--topic", topic]
    command += ["--bootstrap-servers", broker.bootstrap_servers]
    (tmp_path / "link").symlink_to(tmp_path / "state")
    with lock(tmp_path / "state", this_process("structured_streaming_processor"), "fix"):
        for folder in ("state", "link", "state/../state"):
            ran = subprocess.run(
                [*command, "--checkpoint-dir", folder], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 1
            assert re.fullmatch(
                r"error: the checkpoint folder \S+/state is in use by structured_streaming_processor on .*"
                r"--checkpoint-dir of its own\n",
                ran.stderr,
            )
            assert ran.stdout == ""
