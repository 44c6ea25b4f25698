"""A file of SQLite with two paths has one owner, and the lock on it disturbs none of SQLite's own."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from iot import lock_file
from iot.owner import InUse, this_process
from iot.results.store import Store
from iot.settings import UserError
from tests.support.results import IDENTITY, NOW_S, Sample, write_batch

ROOT = Path(__file__).parents[3]
# Tries to own a database; prints why it may not.
TRY = """
import sys
from iot.owner import this_process
from iot.results.store import Store
from iot.settings import UserError
from tests.support.results import IDENTITY
store = Store(sys.argv[1])
try:
    store.identity()
    with store.own(this_process("second"), "stop it"):
        store.reset(IDENTITY, "state")
        print("owned")
except UserError as error:
    print(error)
finally:
    store.close()
"""
# SQLite's lock of a reader, which a connection in WAL mode has until it is closed: from the file unixShared.
SHARED_FIRST, SHARED_SIZE = 0x40000002, 510


@pytest.fixture
def database(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    return tmp_path / "here" / "results.db"


@pytest.fixture
def first(database: Path) -> Iterator[Store]:
    """The owner, with a result."""
    store = Store(f"sqlite:///{database}")
    with store.own(this_process("first"), "stop it"):
        store.reset(IDENTITY, "state")
        write_batch(store, 0, [Sample()])
        yield store
    store.close()


def tried(path: Path, *prefix: str) -> str:
    command = [*prefix, sys.executable, "-c", TRY, f"sqlite:///{path}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return ran.stdout.strip()


def has_usual_form(said: str, path: Path) -> bool:
    owner = rf"first on \S+ \(process {os.getpid()}\)"
    return bool(re.fullmatch(rf"the results database {re.escape(str(path))} is in use by {owner}: stop it", said))


def is_locked_for_sqlite(path: Path) -> bool:
    """Whether another process finds SQLite's lock of a reader on the file."""
    code = (
        "import fcntl, os, struct, sys\n"
        "file = os.open(sys.argv[1], os.O_RDWR)\n"
        f"asked = struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, {SHARED_FIRST}, {SHARED_SIZE}, 0)\n"
        "found = struct.unpack('hhqqi4x', fcntl.fcntl(file, fcntl.F_GETLK, asked))\n"
        "print(found[0] != fcntl.F_UNLCK)\n"
    )
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout == (
        "True\n"
    )


@pytest.mark.parametrize("where", ["there/results.db", "here/second name.db", "there/ü '1'.db"])
@pytest.mark.parametrize("link", [Path.hardlink_to, Path.symlink_to])
def test_another_path_to_the_file_of_an_owner_is_refused(first, database, tmp_path, where, link):
    other = tmp_path / where
    link(other, database)
    assert has_usual_form(tried(other), other)
    assert write_batch(first, 1, [Sample()])
    assert first.read(NOW_S).messages == 2


def test_a_mounted_file_of_an_owner_is_refused(first, database, tmp_path):
    """As a file that a container gets from its host."""
    other = tmp_path / "there" / "mounted.db"
    other.touch()
    mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mount, str(database), str(other)]
    if os.geteuid() != 0:
        prefix[1:1] = ["--user", "--map-root-user"]
    possible = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if possible.returncode != 0:
        missing = f"this user may not mount: {possible.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    assert has_usual_form(tried(other, *prefix), other)
    assert write_batch(first, 1, [Sample()])
    assert first.read(NOW_S).messages == 2
    first.close()
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_a_file_that_its_owner_creates_later_is_locked_too(database, tmp_path):
    store = Store(f"sqlite:///{database}")
    with store.own(this_process("first"), "stop it"):
        assert not database.exists()
        store.reset(IDENTITY, "state")
        other = tmp_path / "there" / "results.db"
        other.hardlink_to(database)
        assert has_usual_form(tried(other), other)
    store.close()


def test_without_an_owner_a_second_hard_link_is_still_refused(first, database, tmp_path):
    """SQLite keeps a log beside each name."""
    with ExitStack() as stack:
        other = tmp_path / "there" / "results.db"
        other.hardlink_to(database)
        stack.callback(other.unlink)
        # As after the first has ended.
        first._transactions.lease.close()
        assert "has another name (a hard link)" in tried(other)


def test_released_and_killed_owners_leave_no_lock(database):
    for _ in range(2):
        assert tried(database) == "owned"
    killed = "import os; os.kill(os.getpid(), 9)"
    command = [sys.executable, "-c", TRY.replace('print("owned")', killed), f"sqlite:///{database}"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -9
    assert tried(database) == "owned"


def test_locks_of_sqlite_outlive_a_refusal_in_the_same_process(first, database, tmp_path):
    """The kernel drops all locks of a process on a file when it closes any descriptor of the file."""
    assert is_locked_for_sqlite(database)
    other = tmp_path / "there" / "results.db"
    other.hardlink_to(database)
    second = Store(f"sqlite:///{other}")
    with pytest.raises(InUse), second.own(this_process("second"), "stop it"):
        pytest.fail("two own the file")
    assert is_locked_for_sqlite(database)


def test_sqlite_locks_the_file_as_ever(first, database):
    """Another program that uses SQLite can read and write beside the owner."""
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "connection.execute('UPDATE iot_results SET messages = messages + 10')\n"
        "connection.execute('COMMIT')\n"
    )
    subprocess.run([sys.executable, "-c", code, database], check=True, timeout=60)
    assert first.read(NOW_S).messages == 11
    assert write_batch(first, 1, [Sample()])


@pytest.mark.parametrize("missing", ["locks", "attributes"])
def test_a_file_system_without_it_is_used_all_the_same(database, tmp_path, monkeypatch, missing):
    if missing == "locks":
        monkeypatch.setattr(lock_file, "try_lock_beyond_end", lambda _: None)
    else:
        monkeypatch.setattr(os, "setxattr", _unsupported, raising=False)
    store, second = Store(f"sqlite:///{database}"), Store(f"sqlite:///{tmp_path}/there/results.db")
    with store.own(this_process("first"), "stop it"):
        store.reset(IDENTITY, "state")
        assert write_batch(store, 0, [Sample()])
        (tmp_path / "there" / "results.db").hardlink_to(database)
        said = "is in use by another process: stop it" if missing == "attributes" else "has another name"
        with pytest.raises(UserError, match=said), second.own(this_process("second"), "stop it"):
            pytest.fail("two own the file")
    store.close()
    second.close()


def _unsupported(*_: object) -> None:
    raise OSError(95, "Operation not supported")
