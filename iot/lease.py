"""One process at a time owns what is written: a lease on a file, a folder or a database, also between machines.

A lease is a file beside what it protects. Its owner holds a lock (``flock``) on the file, which the kernel releases
however the process ends. Not every network folder shares such locks between machines, so the owner also renews a sign
of life in the file. A process of another machine takes a lease over once that sign has stood still for ``EXPIRY_S``. It
never compares the clocks of two machines.

An owner that was suspended for longer may find that it was replaced. It asks ``require`` before it writes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

import msgspec

from iot.processes import Stopped
from iot.settings import UserError, reason

# How often the owner renews its sign of life.
RENEW_S = 1.0
# How long a sign of life of another machine may stand still until its owner counts as dead.
EXPIRY_S = 10.0
# How often to look at the sign of life of another machine.
LOOK_EVERY_S = 0.2
# Size of the record in the file: one of constant length is never half old and half new.
RECORD_BYTES = 1_024


class InUse(UserError):  # noqa: N818  # a state, not only an error
    """Another process owns it."""


class LeaseLost(UserError):  # noqa: N818  # a state, not only an error
    """Another process has taken over, so this one must not write any more."""


class LeaseUnknown(UserError):  # noqa: N818  # a temporary condition
    """Whether another process has taken over cannot be found out now. A retry may succeed."""


class Owner(msgspec.Struct, frozen=True):
    """A process; ``token`` distinguishes it from all others, on any machine and at any time."""

    script: str
    host: str
    boot: str
    pid: int
    token: str

    def __str__(self) -> str:
        return f"{self.script} on {self.host} (process {self.pid})"

    def shares_machine_with(self, other: Owner) -> bool:
        return (self.host, self.boot) == (other.host, other.boot)


def this_process(script: str) -> Owner:
    """Return this process as an owner, with a new token."""
    return Owner(script, socket.gethostname(), _boot_id(), os.getpid(), uuid.uuid4().hex)


@cache
def _boot_id() -> str:
    """Return an id that differs between machines and between boots; empty where the system has none."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def now_s() -> float:
    """Return seconds of a clock that goes on while the machine sleeps, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Protected(NamedTuple):
    """What a lease protects, for messages."""

    what: str
    """For example ``the checkpoint folder /tmp``."""
    fix: str
    """What to do where another process owns it."""

    def in_use_by(self, owner: Owner | str) -> InUse:
        return InUse(f"{self.what} is in use by {owner}: {self.fix}")

    def taken_over_by(self, owner: Owner | str) -> LeaseLost:
        return LeaseLost(
            f"{self.what} was taken over by {owner} while this process was suspended or cut off: "
            "this one stops and writes nothing more"
        )


class Held(Protocol):
    """A lease of any kind."""

    @property
    def lost(self) -> LeaseLost | None:
        """Who has taken over; None as long as this process is known as the owner."""

    def require(self) -> None:
        """Return if this process still is the owner; otherwise raise ``LeaseLost``."""

    def lose(self, error: LeaseLost) -> None:
        """Remember that another process has taken over."""

    def close(self) -> None:
        """Release it."""


class Leases:
    """Several leases that a process needs together."""

    def __init__(self, *leases: Held) -> None:
        self.leases = leases

    def require(self) -> None:
        """Return if this process still owns everything.

        Raises:
            LeaseLost: another process has taken over.
            LeaseUnknown: that cannot be found out now.
        """
        for lease in self.leases:
            lease.require()

    def require_not_lost(self) -> None:
        """As ``require``, but it looks at nothing and so cannot fail for another reason."""
        for lease in self.leases:
            if lease.lost:
                raise LeaseLost(*lease.lost.args)


class _Record(msgspec.Struct):
    """The content of the file: the owner, and its sign of life."""

    owner: Owner
    sign: int = 0


class Lease:
    """A lease on a file; ``with Lease(...)`` or ``close`` releases it. Several threads may use it.

    Args:
        path: of the file; its folder exists. The file is removed when the lease is released.
        owner: this process.
        say: prints a line.
        stop: ends the wait for the end of an owner on another machine.
        clock: in seconds.

    Raises:
        InUse: another process owns it.
        UserError: the file is another program's.
        Stopped: ``stop`` was set.
        OSError: the file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        owner: Owner,
        protected: Protected,
        *,
        say: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = now_s,
    ) -> None:
        self.path = path
        self._owner, self._protected, self._clock = owner, protected, clock
        self._stop_waiting = stop or threading.Event()
        self._sign = 0
        self._lost: LeaseLost | None = None
        self._mutex = threading.Lock()
        self._released = threading.Event()
        # Whether the file system has locks.
        self._has_locks = True
        self._file = self._locked_file()
        try:
            self._take_over(say)
        except BaseException:
            os.close(self._file)
            raise
        self._renewed_s = clock()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lease; another process can have it at once."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        with suppress(OSError):
            # Nobody relies on a file that was removed, see _locked_file.
            if self._is_ours():
                self.path.unlink()
        os.close(self._file)

    @property
    def lost(self) -> LeaseLost | None:
        """Who has taken over; None while this process owns the lease."""
        return self._lost

    def lose(self, error: LeaseLost) -> None:
        self._lost = error

    def require(self) -> None:
        """Return if this process still owns the lease.

        Raises:
            LeaseLost: another process has taken over.
            LeaseUnknown: the file cannot be read now.
        """
        # A process that could renew its sign a moment ago was not suspended.
        if self._lost is None and self._clock() - self._renewed_s > EXPIRY_S / 2:
            try:
                self._renew()
            except OSError as error:
                raise LeaseUnknown(f"cannot read {self.path}: {reason(error)}") from error
        if self._lost:
            raise LeaseLost(*self._lost.args)

    # The file ---------------------------------------------------------------------------------------------------------

    def _locked_file(self) -> int:
        """Open and lock the file. Whoever removes the file has locked it, so a removed one is opened again."""
        while True:
            file = _open(self.path)
            try:
                locked = try_lock(file)
                self._has_locks = locked is not None
                if locked is False:
                    raise self._protected.in_use_by(_owner_in(_read(self.path)))
                if _is_at(self.path, file):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _take_over(self, say: Callable[[str], None]) -> None:
        """Write the first sign of life, once the owner on another machine, if there is one, counts as dead.

        Raises:
            InUse: it lives.
        """
        first = _read(self.path)
        before = _decode(first)
        # Earlier versions wrote the number of the process. Zeros may be left after a power cut.
        if before is None and first.strip(b"0123456789\0 \n"):
            raise UserError(f"{self.path} is a file of another program where a lock should be: rename or move it")
        # On this machine, a process whose file is not locked has ended.
        if before is None or (self._has_locks and before.owner.shares_machine_with(self._owner)):
            self._write_sign()
            return
        what = self._protected.what
        say(f"waiting {EXPIRY_S:.0f} s, to see whether {before.owner} is still running: it left a lock on {what}")
        since_s = self._clock()
        while self._clock() - since_s < EXPIRY_S:
            if self._stop_waiting.wait(LOOK_EVERY_S):
                raise Stopped(f"stopped while waiting for {what}")
            if (now := _read(self.path)) != first:
                raise self._protected.in_use_by(_owner_in(now or first))
        self._write_sign()
        # Of two machines that take over at the same moment, the first one finds the record of the second.
        self._stop_waiting.wait(2 * LOOK_EVERY_S)
        if not self._is_ours():
            raise self._protected.in_use_by(_owner_in(_read(self.path)))
        say(f"{before.owner} gave no sign of life for {EXPIRY_S:.0f} s: taking over {what}")

    def _keep_renewing(self) -> None:
        while self._lost is None and not self._released.wait(RENEW_S):
            try:
                self._renew()
            except OSError:
                # ``require`` tries again, and reports it.
                continue

    def _renew(self) -> None:
        """Check that no other process has taken over, and write a sign of life."""
        with self._mutex:
            if self._lost or self._released.is_set():
                return
            if not self._is_ours() and not self._restored():
                self._lost = self._protected.taken_over_by(_owner_in(_read(self.path)))
                return
            self._write_sign()
            self._renewed_s = self._clock()

    def _is_ours(self) -> bool:
        """Whether the file is still the one that this process locked, and has its token."""
        if not _is_at(self.path, self._file):
            return False
        found = _decode(_read(self.path))
        return found is None or found.owner.token == self._owner.token

    def _restored(self) -> bool:
        """Whether the file could be made again, after somebody removed it."""
        if self.path.exists() and _is_at(self.path, self._file):
            return False
        new = _open(self.path)
        found = _decode(_read(self.path))
        if try_lock(new) is False or not _is_at(self.path, new) or (found and found.owner.token != self._owner.token):
            os.close(new)
            return False
        os.close(self._file)
        self._file = new
        return True

    def _write_sign(self) -> None:
        self._sign += 1
        record = msgspec.json.encode(_Record(self._owner, self._sign)).ljust(RECORD_BYTES - 1) + b"\n"
        os.pwrite(self._file, record, 0)
        os.ftruncate(self._file, len(record))
        # A network folder shows it to other machines only then.
        os.fsync(self._file)


def _open(path: Path) -> int:
    # Somebody else may have put a link there, in a folder such as /tmp.
    how = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    # With O_CREAT, Linux refuses the existing file of another user in such a folder.
    while True:
        try:
            return os.open(path, how)
        except FileNotFoundError:
            pass
        try:
            return os.open(path, how | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue


def try_lock(file: int) -> bool | None:
    """Lock a file; False if another process has locked it, None if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return None
    return True


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _read(path: Path) -> bytes:
    """Return the content; empty if there is no file. It is opened each time, or a network folder would answer from its
    cache."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _decode(content: bytes) -> _Record | None:
    try:
        return msgspec.json.decode(content, type=_Record)
    except msgspec.DecodeError:
        return None


def _owner_in(content: bytes) -> Owner | str:
    """Return the owner for a message. Earlier versions wrote only the number of the process."""
    record = _decode(content)
    return record.owner if record else f"process {content.decode(errors='replace').strip() or 'unknown'}"
