"""Checkpoints on a real HDFS: what stands beside them, who owns them, and a restart after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

from iot.batches import Identity
from iot.owner import InUse, LeaseLost, Owner, Protected, this_process
from iot.processes import Stopped
from iot.settings import UserError
from iot.spark import checkpoints, remote_lease
from iot.spark.checkpoints import NOTES, CheckpointNotes, count_kept, how_to_reset, is_empty, read_notes, set_aside
from iot.spark.contexts import KEPT, Context, ContextFiles
from iot.spark.damage import find_damage, is_readable_checkpoint
from iot.spark.remote_lease import RemoteLease
from iot.spark.remote_path import RemotePath
from tests.support import oracle
from tests.support.app import App, require_exact
from tests.support.hdfs import Hdfs
from tests.support.hdfs import hdfs as hdfs
from tests.support.scripts import ROOT, read_until, started
from tests.support.streams import stream, write

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.usefixtures("spark")]
OURS = Identity("iot-sensors", "topic-id")
PROTECTED = Protected("the checkpoint folder hdfs://x", "stop it")
READINGS = 3_000


@pytest.fixture
def name() -> str:
    return f"a b {uuid.uuid4().hex[:8]}"


@pytest.fixture
def root(hdfs: Hdfs, name: str) -> RemotePath:
    """A new folder."""
    made = RemotePath(hdfs.uri) / name
    made.mkdir()
    return made


# What stands beside the checkpoints ----------------------------------------------------------------------------------


def test_notes_and_contexts_are_read_as_they_were_written(hdfs: Hdfs, root: RemotePath, name: str) -> None:
    checkpoint = root / "windows"
    assert read_notes(checkpoint) is None
    assert is_empty(checkpoint)
    for start in (17, 18):
        notes = CheckpointNotes(OURS, {0: start}, "state")
        checkpoints.write_notes(checkpoint, notes)
        assert read_notes(checkpoint) == notes
    assert is_empty(checkpoint)
    assert json.loads(hdfs.read(f"/iot/{name}/windows/{NOTES}"))["start"] == {"0": 18}
    files = ContextFiles(checkpoint)
    assert files.read() == {0: Context()}
    for batch_id in range(1, KEPT + 3):
        files.write(batch_id, Context({}, [f"type {batch_id}"]))
    files.write(KEPT + 2, Context({}, ["again"]))
    assert hdfs.names(f"/iot/{name}/windows/contexts") == {str(batch_id) for batch_id in range(3, KEPT + 3)}
    assert ContextFiles(checkpoint).read()[KEPT + 2] == Context({}, ["again"])
    assert checkpoints.size_bytes(checkpoint) > 0
    with pytest.raises(FileNotFoundError):
        checkpoints.size_bytes(root / "another")


def test_a_checkpoint_is_set_aside_and_the_command_in_the_message_removes_it(
    hdfs: Hdfs, root: RemotePath, name: str
) -> None:
    checkpoint = root / "windows"
    for _ in range(2):
        (checkpoint / "offsets" / "0").create(b"v1")
        assert not is_empty(checkpoint)
        aside = set_aside(checkpoint, "then")
        assert is_empty(checkpoint)
    assert hdfs.names(f"/iot/{name}") == {"windows", "windows.before-then", "windows.before-then-2"}
    assert count_kept(checkpoint) == 2
    command = how_to_reset(aside, root / "none").removeprefix("to reset: ")
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert hdfs.names(f"/iot/{name}") == {"windows", "windows.before-then"}


def test_damage_is_found_and_named(hdfs: Hdfs, root: RemotePath, name: str) -> None:
    (root / NOTES).create(b"{")
    with pytest.raises(UserError, match=r"cannot read hdfs://.*iot-notes\.json.*to reset: .*FsShell -rm -r -f "):
        read_notes(root)
    (root / "offsets" / "0").create(b"v1\n{}\n{}")
    (root / NOTES).unlink()
    with pytest.raises(UserError, match="is a checkpoint of another program"):
        read_notes(root)
    (root / "metadata").create(b"{}")
    assert is_readable_checkpoint(root)
    assert find_damage(root) is None
    hdfs.write(f"/iot/{name}/offsets/0", b"v1\n{")
    found = find_damage(root)
    assert found
    assert (str(found.file), found.what) == (f"{root}/offsets/0", "is no JSON, or cut short")


# Who owns them -------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner counts as dead after three seconds: more than it needs to renew its sign on a busy machine."""
    monkeypatch.setattr(remote_lease, "EXPIRY_S", 3.0)
    monkeypatch.setattr(remote_lease, "RENEW_S", 0.1)
    monkeypatch.setattr(remote_lease, "LOOK_EVERY_S", 0.05)


@pytest.mark.usefixtures("quick")
def test_one_process_at_a_time_owns_a_folder(hdfs: Hdfs, root: RemotePath, name: str) -> None:
    with checkpoints.lock(root, this_process("script"), "stop it") as leases:
        with (
            pytest.raises(
                InUse, match=rf"the checkpoint folder {root} is in use by script on .* \(process {os.getpid()}\)"
            ),
            checkpoints.lock(root, this_process("script"), "stop it"),
        ):
            pytest.fail("both run")
        leases.require()
        assert hdfs.names(f"/iot/{name}") == {"script.lock"}
    assert hdfs.names(f"/iot/{name}") == set()


@pytest.mark.usefixtures("quick")
def test_a_dead_owner_is_replaced_after_a_pause_and_a_stop_ends_the_pause(root: RemotePath) -> None:
    owner = Owner("script", "elsewhere", "boot", 17, "token")
    for content in (msgspec.json.encode({"owner": owner, "sign": 4}), b""):
        path = root / f"{len(content)}.lock"
        path.create(content)
        stop = threading.Event()
        stop.set()
        with pytest.raises(Stopped, match="stopped while waiting for the checkpoint folder"):
            RemoteLease(path, this_process("script"), PROTECTED, stop=stop)
        assert path.read_bytes() == content
        said: list[str] = []
        with RemoteLease(path, this_process("script"), PROTECTED, say=said.append) as lease:
            lease.require()
        assert "to see whether" in said[0]
        assert "gave no sign of life for 3 s: taking over" in said[1]
    (root / "mine.lock").create(b"mine")
    with pytest.raises(UserError, match=r"mine\.lock is a file of another program"):
        RemoteLease(root / "mine.lock", this_process("script"), PROTECTED)


def test_an_owner_that_was_replaced_never_writes_again(root: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its thread would renew by itself.
    monkeypatch.setattr(remote_lease, "RENEW_S", 600.0)
    path, now_s = root / "script.lock", [0.0]
    with RemoteLease(path, this_process("first"), PROTECTED, clock=lambda: now_s[0]) as lease:
        path.unlink()
        now_s[0] += remote_lease.EXPIRY_S
        # Nobody else has it, so the owner makes it again.
        lease.require()
        assert b'"first"' in path.read_bytes()
        other = msgspec.json.encode({"owner": Owner("other", "elsewhere", "boot", 17, "token"), "sign": 1})
        path.create(other, overwrite=True)
        lease.require()
        now_s[0] += remote_lease.EXPIRY_S
        with pytest.raises(LeaseLost, match="was taken over by other on elsewhere"):
            lease.require()
    assert path.read_bytes() == other


@pytest.mark.usefixtures("quick")
def test_the_sign_of_life_changes_by_itself(root: RemotePath, eventually: Any) -> None:
    path = root / "script.lock"
    with RemoteLease(path, this_process("script"), PROTECTED):
        first = path.read_bytes()
        eventually(lambda: path.read_bytes() != first)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("is_left", [False, True])
def test_of_many_that_start_together_one_gets_it(
    root: RemotePath, is_left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "script.lock"
    if is_left:
        path.create()
    else:
        # The sign of life of the first one ends the wait of the others.
        monkeypatch.setattr(remote_lease, "EXPIRY_S", 30.0)
    got, refused = [], []
    together = threading.Barrier(6)

    def start() -> None:
        together.wait()
        try:
            got.append(RemoteLease(path, this_process("script"), PROTECTED))
        except InUse as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)
    got[0].require()
    got[0].close()


# What can be wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hdfs://127.0.0.1:{port}/other", "no permission (Permission denied: user="),
        ("hdfs://127.0.0.1:1/iot", "its server does not answer (Connection refused): check that it runs"),
        ("hdfs://no-such-host.invalid/iot", "the host does not resolve"),
        ("hdfs:///iot", "Incomplete HDFS URI, no host"),
        ("hdfx://host/iot", "Spark knows no file system hdfx://"),
        ("s3a://bucket/iot", "org.apache.hadoop:hadoop-aws:3.5.0 SCRIPT.py …"),
        ("hdfs://127.0.0.1:{port}/iot/file/below", "a file is where a folder should be"),
    ],
)
def test_one_line_says_what_is_wrong(hdfs: Hdfs, uri: str, said: str) -> None:
    hdfs.write("/iot/file", b"")
    with pytest.raises(UserError) as error:
        checkpoints.require_writable(RemotePath(uri.format(port=hdfs.port)), (), threading.Event())
    assert said in str(error.value)
    assert str(error.value).endswith("; choose another folder with --checkpoint-dir")
    assert "\n" not in str(error.value)


def test_safe_mode_is_said(hdfs: Hdfs, root: RemotePath) -> None:
    hdfs.safe_mode("enter")
    try:
        with pytest.raises(UserError, match=r"cannot write to the folder hdfs://.*: the name node is in safe mode"):
            checkpoints.require_writable(root, (), threading.Event())
    finally:
        hdfs.safe_mode("leave")
    checkpoints.require_writable(root, (), threading.Event())


def test_a_server_that_says_nothing_ends_the_wait_and_so_does_a_stop(
    broker: Any, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"hdfs://127.0.0.1:{silent.getsockname()[1]}/iot"
        monkeypatch.setattr(checkpoints, "ANSWER_S", 0.5)
        with pytest.raises(UserError, match=rf"{uri} does not answer within 0 s: check that its server runs"):
            checkpoints.require_writable(RemotePath(uri), (), threading.Event())
        command = [sys.executable, str(ROOT / "structured_streaming_processor.py"), "--master", "local[2]"]
        command += ["--bootstrap-servers", broker.bootstrap_servers, "--topic", topic, "--checkpoint-dir", uri]
        environment = os.environ | {"IOT_LOG_DIR": str(tmp_path)}
        silent.settimeout(60)
        with started(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            # The connection of this process's Spark comes first.
            connections = [silent.accept()[0] for _ in range(2)]
            process.send_signal(signal.SIGTERM)
            begun_s = time.monotonic()
            out, err = process.communicate(timeout=60)
            for connection in connections:
                connection.close()
    assert (process.returncode, err) == (0, "")
    assert "stopped before anything was processed" in out
    assert time.monotonic() - begun_s < 20


# The application -----------------------------------------------------------------------------------------------------


@pytest.fixture
def app(broker: Any, topic: str, hdfs: Hdfs, name: str, tmp_path: Path) -> App:
    return App(broker, topic, tmp_path, "--checkpoint-dir", f"{hdfs.uri}/{name}", "--master", "local[4]")


def run_to_its_error(app: App) -> str:
    """Start it; return its error, which must be one line."""
    environment = os.environ | {"IOT_LOG_DIR": str(app.folder / "log")}
    done = subprocess.run(app.command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    return done.stderr


def test_a_restart_after_a_kill_is_exact_and_a_second_application_is_refused(
    broker: Any, topic: str, hdfs: Hdfs, name: str, app: App, tmp_path: Path, eventually: Any
) -> None:
    messages = list(stream(READINGS, 7, 300, late=0.01))
    with app.running() as process:
        write(broker.kafka, topic, messages[: READINGS // 2])
        eventually(lambda: app.messages() == READINGS // 2, 180)
        (tmp_path / "second").mkdir()
        flags = ["--checkpoint-dir", f"{hdfs.uri}/{name}", "--master", "local[2]"]
        refused = run_to_its_error(App(broker, topic, tmp_path / "second", *flags))
        assert re.search(rf"is in use by iot_streaming_app on \S+ \(process {process.pid}\)", refused)
        write(broker.kafka, topic, messages[READINGS // 2 :])
        eventually(lambda: app.messages() > READINGS // 2, 180)
        process.kill()
    # Otherwise the next one waits for half a minute, to see whether the owner is still alive.
    hdfs.remove(f"/iot/{name}/iot_streaming_app.lock")
    with app.running() as process:
        require_exact(app, oracle.read_topic(broker.bootstrap_servers, topic), topic, eventually)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert hdfs.names(f"/iot/{name}") == {"dashboard-sensors-checkpoint", "dashboard-alerts-checkpoint"}
    # The newest offsets are cut short.
    written = hdfs.names(f"/iot/{name}/dashboard-sensors-checkpoint/offsets")
    newest = max(filter(str.isdigit, written), key=int)
    hdfs.write(f"/iot/{name}/dashboard-sensors-checkpoint/offsets/{newest}", b"v1\n{")
    with app.running() as process:
        said = read_until(process, ".*the windows query failed: its checkpoint is damaged")
    why = f"{hdfs.uri}/{name}/dashboard-sensors-checkpoint/offsets/{newest} is no JSON, or cut short"
    assert why in said
    assert "org.apache.hadoop.fs.FsShell -rm -r -f" in said
    assert "Traceback" not in said


@pytest.mark.long
def test_a_killed_owner_is_replaced_after_half_a_minute(app: App, eventually: Any) -> None:
    with app.running() as process:
        eventually(lambda: app.messages() == 0, 120)
        process.kill()
    begun_s = time.monotonic()
    with app.running():
        eventually(lambda: app.messages() == 0, 180)
    assert time.monotonic() - begun_s > remote_lease.EXPIRY_S
