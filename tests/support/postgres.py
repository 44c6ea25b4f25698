"""PostgreSQL for the tests: a server on a Unix socket, a pair with a standby, and a proxy that breaks connections."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from iot.broker.broker import find_free_port
from iot.cluster.postgres import PostgresServer, as_other_user, find_binaries
from iot.results.server import KEEPALIVES, TCP_USER_TIMEOUT_MS

# The data need not survive a crash of the machine.
OPTIONS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB"}
# Those of a session on the server, as the names of a socket's options.
SOCKET_OPTIONS = {
    "TCP_KEEPIDLE": KEEPALIVES["keepalives_idle"],
    "TCP_KEEPINTVL": KEEPALIVES["keepalives_interval"],
    "TCP_KEEPCNT": KEEPALIVES["keepalives_count"],
    "TCP_USER_TIMEOUT": TCP_USER_TIMEOUT_MS,
}
DROP_EVERYTHING = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'iot' AND pid <> pg_backend_pid()",
    "DROP SCHEMA public CASCADE",
    "CREATE SCHEMA public",
)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server's database; skips where PostgreSQL is not installed, but fails in CI."""
    with running_server(require_binaries()) as server:
        yield server.url


def require_binaries() -> Path:
    """The folder of PostgreSQL's binaries; skips the test where it is not installed, but fails in CI."""
    binaries = find_binaries()
    if binaries is None:
        missing = "PostgreSQL is not installed; on Debian and Ubuntu: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return binaries


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


class Pair:
    """A primary and its standby, which has each commit on disk before the client gets its answer."""

    def __init__(self, binaries: Path, folder: Path, stack: ExitStack) -> None:
        """Start both.

        Args:
            folder: for their data; PostgreSQL's user may enter it.
            stack: stops both.
        """
        self._binaries = binaries
        self.ports = find_free_port(), find_free_port()
        self.primary, self.standby = (
            PostgresServer(binaries, folder / str(port), OPTIONS | {"listen_addresses": "127.0.0.1", "port": str(port)})
            for port in self.ports
        )
        stack.enter_context(self.primary)
        self._copy()
        stack.enter_context(self.standby)
        with psycopg.connect(self.primary.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            while not connection.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone():
                time.sleep(0.02)

    @property
    def url(self) -> str:
        """For ``--database-url``: whichever of the two takes writes."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"postgresql://iot@{hosts}/postgres?target_session_attrs=read-write"

    def fail_over(self) -> None:
        """Kill the primary and promote the standby."""
        os.kill(self.primary.pid, signal.SIGKILL)
        with psycopg.connect(self.standby.url, autocommit=True) as connection:
            while connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
                # The recovery may cancel the query that asks for its end.
                with suppress(psycopg.errors.SerializationFailure):
                    connection.execute("SELECT pg_promote()")

    def _copy(self) -> None:
        """Copy the primary's data to the standby, with its configuration as a standby."""
        self.standby.folder.mkdir()
        source = f"host=127.0.0.1 port={self.ports[0]} user=iot"
        command = [*(as_other_user(self.standby.folder) if os.geteuid() == 0 else [])]
        command += [str(self._binaries / "pg_basebackup"), "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        command += [f"--dbname={source}", f"--pgdata={self.standby.folder / 'data'}"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.standby.folder)


@contextmanager
def running_pair() -> Iterator[Pair]:
    """Run a primary and a standby in a folder of their own, which is removed at the end."""
    binaries = require_binaries()
    folder = Path(tempfile.mkdtemp(prefix="iot-postgres-data-"))
    folder.chmod(0o711)
    try:
        with ExitStack() as stack:
            yield Pair(binaries, folder, stack)
    finally:
        shutil.rmtree(folder)


class Proxy:
    """Passes connections on to a server that listens on a Unix socket, and breaks them. ``with`` starts and ends it."""

    def __init__(self, url: str, listening: socket.socket | None = None) -> None:
        """
        Args:
            url: of the server, as ``PostgresServer.url``.
            listening: where clients connect; by default on loopback.
        """
        self._path = f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"
        self._listening = listening or socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._break_at = b""
        self.broken = 0
        """How many connections it has broken."""

    @property
    def address(self) -> str:
        """Host and port."""
        host, port = self._listening.getsockname()
        return f"{host}:{port}"

    @property
    def url(self) -> str:
        """For ``--database-url``."""
        return f"postgresql://iot@{self.address}/postgres"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self.reset_all()

    def reset_all(self) -> None:
        """Reset all connections."""
        for client, server in list(self._pairs):
            self._reset(client, server)

    def lose_answer_to(self, statement: bytes) -> None:
        """Reset the connection on which this is sent next, once the server has carried it out."""
        self._break_at = statement

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                # The server would notice the end of a machine by the options of its sessions, but here it sees only us.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in SOCKET_OPTIONS.items():
                    # Not every system has all of them.
                    if hasattr(socket, name):
                        client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._path)
                except OSError:
                    client.close()
                    continue
                self._pairs.append((client, server))
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pass_back, args=(client, server), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self._break_at and self._break_at in data:
                    self._break_at = b""
                    # The other thread no longer passes answers back.
                    self._pairs.remove((client, server))
                    server.sendall(data)
                    return
                server.sendall(data)
        self._reset(client, server)

    def _pass_back(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while (data := server.recv(65536)) and (client, server) in self._pairs:
                client.sendall(data)
        self._reset(client, server)

    def _reset(self, client: socket.socket, server: socket.socket) -> None:
        """Close both sides; the client gets a reset, not an orderly end."""
        with suppress(ValueError):
            self._pairs.remove((client, server))
        self.broken += 1
        for one in (client, server):
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # This also ends a call of another thread that waits for data.
                one.shutdown(socket.SHUT_RD)
            one.close()
