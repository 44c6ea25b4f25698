"""A PostgreSQL server for the tests: it lives in a temporary folder and listens on a Unix socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from iot.processes import spawn

START_S = 30.0
# Debian installs the binaries outside PATH.
DEBIAN = "/usr/lib/postgresql"
# The data need not survive a crash of the machine.
OPTIONS = {"listen_addresses": "", "fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB"}
DROP_EVERYTHING = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'iot' AND pid <> pg_backend_pid()",
    "DROP SCHEMA public CASCADE",
    "CREATE SCHEMA public",
)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server's database; skips where PostgreSQL is not installed, but fails in CI."""
    binaries = find_binaries()
    if binaries is None:
        missing = "PostgreSQL is not installed; on Debian and Ubuntu: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with running_server(binaries) as url:
        yield url


def find_binaries() -> Path | None:
    """The folder of ``initdb`` and ``postgres``: the one on PATH, else Debian's newest; None where there is none."""
    on_path = shutil.which("initdb")
    folders = sorted(Path(DEBIAN).glob("[0-9]*/bin"), key=lambda folder: float(folder.parent.name))
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


@contextmanager
def running_server(binaries: Path) -> Iterator[str]:
    """Run a server with one user, ``iot``, who needs no password; yields the URL of its database."""
    # pytest's own temporary folders are too deep for the path of a socket.
    folder = Path(tempfile.mkdtemp(prefix="iot-postgres-"))
    data = folder / "data"
    try:
        prefix = _as_other_user(folder) if os.geteuid() == 0 else []
        initdb = [str(binaries / "initdb"), f"--pgdata={data}", "--username=iot", "--auth=trust", "--encoding=UTF8"]
        initdb += ["--locale=C", "--no-sync", "--no-instructions"]
        subprocess.run([*prefix, *initdb], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        server = [str(binaries / "postgres"), "-D", str(data), "-k", str(folder)]
        server += [f"--{name}={value}" for name, value in OPTIONS.items()]
        with (folder / "server.log").open("wb") as log:
            process = spawn([*prefix, *server], cwd=folder, stdout=log, stderr=log)
        try:
            _wait_until_ready(process, folder)
            yield f"postgresql://iot@/postgres?host={folder}"
        finally:
            # SIGTERM would wait for clients to leave.
            process.send_signal(signal.SIGINT)
            process.wait(START_S)
    finally:
        shutil.rmtree(folder)


def drop_everything(url: str) -> None:
    """Disconnect all other clients and drop all tables."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in DROP_EVERYTHING:
            connection.execute(statement)


@contextmanager
def suspended(url: str) -> Iterator[None]:
    """Suspend the server with all its processes until the end of the block."""
    folder = Path(url.rpartition("host=")[2])
    server = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    processes = [server, *(int(line.split()[0]) for line in listed.splitlines() if int(line.split()[1]) == server)]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def _as_other_user(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: the beginning of a command that runs as another user, who owns the folder."""
    names = {user.pw_name: user for user in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    # A change of user unties a process from its parent, so setpriv ties it again.
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=KILL"]


def _wait_until_ready(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with suppress(psycopg.OperationalError):
            psycopg.connect(host=str(folder), user="iot", dbname="postgres").close()
            return
        time.sleep(0.02)
    pytest.fail(f"PostgreSQL did not start: {(folder / 'server.log').read_text(errors='replace')}")
