"""A PostgreSQL server for the tests: it lives in a temporary folder and listens on a Unix socket there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from iot.cluster.postgres import PostgresServer, find_binaries

# The data need not survive a crash of the machine.
OPTIONS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB"}
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
    with running_server(binaries) as server:
        yield server.url


@contextmanager
def running_server(binaries: Path) -> Iterator[PostgresServer]:
    """Run a server in a folder of its own, which is removed at the end."""
    # Its user may not enter pytest's own temporary folders.
    folder = Path(tempfile.mkdtemp(prefix="iot-postgres-data-"))
    try:
        with PostgresServer(binaries, folder, OPTIONS) as server:
            yield server
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
    server = int((folder / ".s.PGSQL.5432.lock").read_text().split()[0])
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
