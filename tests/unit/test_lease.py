"""Who owns a lease: processes of one machine, of several machines, killed, suspended and replaced ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from iot import lease, lock_file
from iot.lease import Lease
from iot.owner import InUse, LeaseLost, LeaseUnknown, Owner, Protected, this_process
from iot.processes import Stopped
from iot.settings import UserError
from tests.support.scripts import ROOT, started

PROTECTED = Protected("the checkpoint folder /x", "stop it")
# Holds a lease until it is killed.
HOLD = """
import sys, time
from pathlib import Path
from iot.lease import Lease
from iot.owner import Protected, this_process
with Lease(Path(sys.argv[1]), this_process("script"), Protected("it", "fix")):
    print("held", flush=True)
    time.sleep(600)
"""


class Clock:
    """A clock that goes on by a second whenever it is read, or stands still."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a b.lock"


@pytest.fixture
def unshared_locks(monkeypatch):
    """As on a network folder whose locks each machine has for itself."""
    monkeypatch.setattr(lock_file, "try_lock", lambda file: True)


def on(host: str, boot: str = "boot") -> Owner:
    return Owner("script", host, boot, 17, f"token of {host} {boot}")


def hold(path: Path, owner: Owner, clock: Clock | None = None, **options) -> Lease:
    return Lease(path, owner, PROTECTED, clock=clock or Clock(), **options)


def left_by(path: Path, owner: Owner) -> None:
    """The file of an owner that ended without releasing it."""
    path.write_bytes(msgspec.json.encode({"owner": owner, "sign": 4}))


def test_the_second_is_refused_and_the_line_names_the_owner(path):
    with hold(path, this_process("first")) as first, pytest.raises(InUse) as refused:
        hold(path, this_process("second"))
    assert str(refused.value) == (
        f"the checkpoint folder /x is in use by first on {os.uname().nodename} (process {os.getpid()}): stop it"
    )
    assert first.lost is None
    assert not path.exists()


def test_another_spelling_of_the_path_is_the_same_lease(path, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    with hold(path, this_process("first")):
        (tmp_path / "hard link").hardlink_to(path)
        for spelling in ("link/a b.lock", "sub/../a b.lock", "hard link"):
            with pytest.raises(InUse):
                hold(tmp_path / spelling, this_process("second"))
        with pytest.raises(InUse):
            hold(Path("../a b.lock"), this_process("second"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_killed_owner_is_replaced_at_once(path, number):
    command = [sys.executable, "-c", HOLD, path]
    with started(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InUse, match=rf"in use by script on .* \(process {process.pid}\)"):
            hold(path, this_process("script"))
        process.send_signal(number)
        process.wait(30)
    # The clock stands still: there is no wait.
    hold(path, this_process("script")).close()


@pytest.mark.parametrize("content", [b"", b"4711", b"4711\n", bytes(lease.RECORD_BYTES)])
def test_a_file_without_an_owner_is_free(path, content):
    path.write_bytes(content)
    hold(path, this_process("script")).close()


@pytest.mark.parametrize("content", [b"mine", b"\xff\x00", b'{"owner": 1}'])
def test_a_file_of_another_program_is_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a b\.lock is a file of another program where a lock should be"):
        hold(path, this_process("script"))
    assert path.read_bytes() == content


def test_a_link_that_leads_to_a_file_of_the_user_is_not_followed(path, tmp_path):
    mine = tmp_path / "mine"
    mine.write_bytes(b"")
    path.symlink_to(mine)
    with pytest.raises(OSError, match="symbolic links"):
        hold(path, this_process("script"))
    assert mine.read_bytes() == b""


def test_an_owner_of_an_earlier_version_is_respected(path):
    with path.open("a+") as file:
        file.write("4711")
        file.flush()
        assert lock_file.try_lock(file.fileno())
        with pytest.raises(InUse, match="in use by process 4711: stop it"):
            hold(path, this_process("script"))


@pytest.mark.usefixtures("unshared_locks")
@pytest.mark.parametrize("other", [on("a"), on("b", "another boot"), on("a", "another boot")])
def test_a_live_owner_on_another_machine_is_respected(path, other):
    with hold(path, other) as first, pytest.raises(InUse, match=rf"in use by script on {other.host} "):
        hold(path, on("b"))
    assert first.lost is None


@pytest.mark.usefixtures("unshared_locks")
@pytest.mark.parametrize("other", [on("a"), on("b", "another boot")])
def test_a_dead_owner_on_another_machine_is_replaced_after_a_while(path, other):
    left_by(path, other)
    said: list[str] = []
    clock = Clock(step_s=2)
    with hold(path, on("b"), clock, say=said.append):
        assert clock.now_s >= lease.EXPIRY_S
        # Its clock does not matter, only whether the sign of life changes.
        assert f"whether {other} is still running" in said[0]
        assert f"{other} gave no sign of life for 10 s: taking over the checkpoint folder /x" in said[1]


@pytest.mark.usefixtures("unshared_locks")
def test_a_stop_signal_ends_the_wait_for_another_machine(path):
    left_by(path, on("a"))
    stop = threading.Event()
    stop.set()
    before = path.read_bytes()
    with pytest.raises(Stopped, match="stopped while waiting"):
        hold(path, on("b"), stop=stop)
    assert path.read_bytes() == before


@pytest.mark.usefixtures("unshared_locks")
def test_a_suspended_owner_that_was_replaced_never_writes_again(path, monkeypatch):
    # The threads of both would renew by themselves; the first is suspended.
    monkeypatch.setattr("iot.owner.RENEW_S", 600.0)
    clock = Clock()
    first = hold(path, on("a"), clock)
    with hold(path, on("b"), Clock(step_s=2)) as second:
        first.require()
        clock.now_s += lease.EXPIRY_S
        with pytest.raises(LeaseLost, match=r"was taken over by script on b \(process 17\).* writes nothing more"):
            first.require()
        second.require()
        record = path.read_bytes()
        with pytest.raises(LeaseLost):
            first.require()
        assert path.read_bytes() == record


def test_a_suspended_owner_that_was_not_replaced_goes_on(path):
    clock = Clock()
    with hold(path, this_process("script"), clock) as held:
        clock.now_s += 10 * lease.EXPIRY_S
        held.require()
        assert held.lost is None


def test_an_owner_whose_file_was_removed_makes_it_again(path):
    clock = Clock()
    with hold(path, this_process("first"), clock) as held:
        path.unlink()
        clock.now_s += lease.EXPIRY_S
        held.require()
        with pytest.raises(InUse, match="in use by first"):
            hold(path, this_process("second"))


def test_an_owner_whose_file_was_replaced_by_another_one_is_out(path, monkeypatch):
    monkeypatch.setattr("iot.owner.RENEW_S", 600.0)
    clock = Clock()
    first = hold(path, this_process("first"), clock)
    path.unlink()
    with hold(path, this_process("second")) as second:
        clock.now_s += lease.EXPIRY_S
        with pytest.raises(LeaseLost, match="taken over by second"):
            first.require()
        second.require()
        assert second.lost is None


def test_a_folder_that_cannot_be_read_is_no_reason_to_give_up(path, monkeypatch):
    clock = Clock()
    with hold(path, this_process("script"), clock) as held:
        with monkeypatch.context() as patch:
            patch.setattr(lock_file, "read", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            clock.now_s += lease.EXPIRY_S
            with pytest.raises(LeaseUnknown, match=r"cannot read .*a b\.lock: Input/output error"):
                held.require()
        held.require()


def test_a_folder_that_hangs_delays_neither_a_write_nor_the_stop(path, monkeypatch):
    """As a network folder whose server does not answer."""
    clock, hangs, answers = Clock(), threading.Event(), threading.Event()
    monkeypatch.setattr("iot.owner.CLOSE_S", 0.2)
    monkeypatch.setattr(lease, "HANGING_S", 0.2)
    held = hold(path, this_process("script"), clock)

    def read(_: Path) -> bytes:
        hangs.set()
        answers.wait()
        return b""

    with monkeypatch.context() as patch:
        patch.setattr(lock_file, "read", read)
        assert hangs.wait(30)
        clock.now_s += lease.EXPIRY_S
        begun_s = time.monotonic()
        with pytest.raises(LeaseUnknown, match=r"cannot read .*a b\.lock: its folder does not answer"):
            held.require()
        held.close()
        assert time.monotonic() - begun_s < 5
        assert held.lost is None
    answers.set()
    held._thread.join(30)
    # It is released as soon as the folder answers.
    hold(path, this_process("script")).close()


def test_the_sign_of_life_changes_by_itself(path, eventually):
    with hold(path, this_process("script")):
        first = path.read_bytes()
        assert len(first) == lease.RECORD_BYTES
        eventually(lambda: path.read_bytes() != first)
        assert len(path.read_bytes()) == lease.RECORD_BYTES


def test_of_many_that_start_together_one_gets_it(path):
    got, refused = [], []
    together = threading.Barrier(8)

    def start() -> None:
        together.wait()
        try:
            got.append(hold(path, this_process("script")))
        except InUse as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    got[0].close()
