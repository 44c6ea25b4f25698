"""A PostgreSQL server from the system's packages, which listens on a Unix socket in a private folder only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from iot.processes import end, how_ended, spawn
from iot.restarts import Restarts
from iot.settings import UserError, reason

# Debian installs the binaries outside PATH.
DEBIAN = Path("/usr/lib/postgresql")
USER = "iot"
# How long the server may take to start: after a crash it first recovers its data.
START_S = 60.0
LOOK_EVERY_S = 0.02


def find_binaries() -> Path | None:
    """The folder of ``initdb`` and ``postgres``: the one on PATH, else Debian's newest; None where there is none."""
    folders = sorted(DEBIAN.glob("[0-9]*/bin"), key=lambda folder: float(folder.parent.name))
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


class PostgresServer:
    """``with PostgresServer(binaries, folder) as server`` starts it, waits until it answers, and stops it.

    It has one user, ``iot``, who needs no password: only who may enter the folder of the socket can connect.
    """

    def __init__(self, binaries: Path, folder: Path, options: Mapping[str, str] | None = None) -> None:
        """
        Args:
            binaries: as ``find_binaries`` finds them.
            folder: for data and log; created if missing.
            options: settings of the server, on top of its defaults.
        """
        self._binaries = binaries
        self.folder = folder
        # The path of a socket can be 107 characters long, and the other folder's may be longer.
        self._socket = Path(tempfile.mkdtemp(prefix="iot-postgres-"))
        self._options = {"listen_addresses": "", "unix_socket_directories": str(self._socket)} | dict(options or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = Restarts(0)

    @property
    def url(self) -> str:
        """For ``--database-url``."""
        port = f"&port={self._options['port']}" if "port" in self._options else ""
        return f"postgresql://{USER}@/postgres?host={self._socket}{port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def pid(self) -> int:
        """The process id of the server, which has a child for each connection."""
        assert self._process, "not started"
        return self._process.pid

    def __enter__(self) -> PostgresServer:
        try:
            self.start(threading.Event())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, stop: threading.Event) -> bool:
        """Start the server; returns True once it answers, False if ``stop`` was set before.

        Raises:
            UserError: the folder cannot be written, or the server does not start.
        """
        self._launch()
        self._restarts = Restarts(time.monotonic())
        return self._await_ready(stop)

    def watch(self, now_s: float) -> list[str]:
        """Start the server again if it has ended, after a pause. Call this several times a second.

        Returns:
            A line for each end and each start.

        Raises:
            UserError: it does not start.
        """
        if self._process is None or (status := self._process.poll()) is None:
            return []
        if pause_s := self._restarts.ended(now_s):
            return [f"PostgreSQL {how_ended(status)}: starting it again in {pause_s:.0f} s"]
        if not self._restarts.is_due(now_s):
            return []
        self._launch()
        return [f"PostgreSQL was started again, process {self.pid}"]

    def require_alive(self) -> None:
        """Return if the server still runs.

        Raises:
            UserError: it has ended.
        """
        if self._process and self._process.poll() is not None:
            lines = self.log.read_text(errors="replace").splitlines()
            said = next((line for line in reversed(lines) if "FATAL" in line or "ERROR" in line), "")
            raise UserError(f"PostgreSQL in {self.folder} ended; {self.log} says: {said or 'nothing'}")

    def stop(self) -> None:
        """Stop the server. Clients that are connected lose their connection."""
        if self._process:
            # SIGTERM would wait for clients to leave.
            end(self._process, signal.SIGINT)

    def close(self) -> None:
        """Stop the server, and remove the folder of its socket."""
        self.stop()
        shutil.rmtree(self._socket, ignore_errors=True)

    def _launch(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            prefix = as_other_user(self.folder, self._socket) if os.geteuid() == 0 else []
            data = self.folder / "data"
            if not (data / "PG_VERSION").exists():
                self._make_data(prefix, data)
            command = [*prefix, str(self._binaries / "postgres"), "-D", str(data)]
            command += [f"--{name}={value}" for name, value in self._options.items()]
            with self.log.open("ab") as log:
                self._process = spawn(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"cannot start PostgreSQL in {self.folder}: {reason(error)}; see {self.log}") from error

    def _make_data(self, prefix: list[str], data: Path) -> None:
        command = [str(self._binaries / "initdb"), f"--pgdata={data}", f"--username={USER}", "--auth=trust"]
        command += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
        with self.log.open("ab") as log:
            subprocess.run([*prefix, *command], cwd=self.folder, check=True, stdout=log, stderr=log)

    def _await_ready(self, stop: threading.Event) -> bool:
        import psycopg

        deadline_s = time.monotonic() + START_S
        while True:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.url).close()
                return True
            self.require_alive()
            if time.monotonic() > deadline_s:
                raise UserError(f"PostgreSQL did not answer within {START_S:.0f} s; see {self.log}")
            if stop.wait(LOOK_EVERY_S):
                return False


def as_other_user(*folders: Path) -> list[str]:
    """PostgreSQL refuses to run as root: the beginning of a command that runs as another user, who owns the folders."""
    names = {user.pw_name: user for user in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    for folder in folders:
        os.chown(folder, user.pw_uid, user.pw_gid)
    # A change of user unties a process from its parent, so setpriv ties it again.
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=KILL"]
