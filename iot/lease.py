"""A lease on a file or a folder: one process at a time owns it, also between machines.

A lease is a file beside what it protects. Its owner holds a lock (``flock``) on the file, which the kernel releases
however the process ends. Not every network folder shares such locks between machines, so the owner also renews a sign
of life in the file. A process of another machine takes a lease over once that sign has stood still for ``EXPIRY_S``. It
never compares the clocks of two machines.

An owner that was suspended for longer may find that it was replaced. It asks ``require`` before it writes.

``SignedLease`` is what all file systems share. ``Lease`` is for a path of this machine; ``iot.spark.remote_lease`` has
the one for Spark's file systems.
"""

from __future__ import annotations

import os
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from iot import lock_file
from iot.owner import Held, InUse, LeaseUnknown, Owner, Protected
from iot.processes import Stopped
from iot.settings import UserError, reason

# How long a sign of life of another machine may stand still until its owner counts as dead.
EXPIRY_S = 10.0
# How often to look at the sign of life of another machine.
LOOK_EVERY_S = 0.2
# How long to wait for a folder that does not answer.
HANGING_S = 2.0
# Size of the record in the file: one of constant length is never half old and half new.
RECORD_BYTES = 1_024


def now_s() -> float:
    """Return seconds of a clock that goes on while the machine sleeps, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class _Record(msgspec.Struct):
    """The content of the file: the owner, and its sign of life."""

    owner: Owner
    sign: int = 0


class SignedLease(Held):
    """A lease whose owner renews a sign of life in a file. Subclasses say how the file is read and written.

    Args:
        path: of the file, for messages.
        owner: this process.
        say: prints a line.
        stop: ends the wait for the end of an owner that gives no sign of life.
        clock: in seconds.

    Raises:
        InUse: another process owns it.
        UserError: the file is another program's.
        Stopped: ``stop`` was set.
        OSError: the file cannot be opened.
    """

    def __init__(
        self,
        path: object,
        owner: Owner,
        protected: Protected,
        *,
        say: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = now_s,
    ) -> None:
        super().__init__()
        self._name = str(path)
        self._owner, self._protected, self._clock = owner, protected, clock
        self._stop_waiting = stop or threading.Event()
        self._sign = 0
        self._mutex = threading.Lock()
        self._open()
        try:
            self._take_over(say)
        except BaseException:
            self._close_file()
            raise
        self._renewed_s = clock()
        self._start_renewing("lease")

    def require(self) -> None:
        """Return if this process still owns the lease.

        Raises:
            LeaseLost: another process has taken over.
            LeaseUnknown: the file cannot be read now.
        """
        # A process that could renew its sign a moment ago was not suspended.
        if self._lost is None and self._clock() - self._renewed_s > self.expiry_s / 2:
            try:
                self._renew()
            except OSError as error:
                raise LeaseUnknown(f"cannot read {self._name}: {reason(error)}") from error
        super().require()

    # What subclasses say ----------------------------------------------------------------------------------------------

    @property
    def expiry_s(self) -> float:
        """How long a sign of life may stand still until its owner counts as dead."""
        return EXPIRY_S

    @property
    def look_every_s(self) -> float:
        """How often to look at the sign of life of another process."""
        return LOOK_EVERY_S

    @abstractmethod
    def _open(self) -> None:
        """Open or create the file. Raises ``InUse`` if it is known already that another process owns it."""

    @abstractmethod
    def _is_free(self, before: Owner | None) -> bool:
        """Whether nobody can own the file that was opened.

        Args:
            before: whose record it has; None without a record.
        """

    @abstractmethod
    def _is_same(self) -> bool:
        """Whether the file is still the one that was opened."""

    @abstractmethod
    def _restored(self) -> bool:
        """Whether the file could be made again, after somebody removed it."""

    @abstractmethod
    def _read(self) -> bytes:
        """The content of the file; empty if there is none."""

    @abstractmethod
    def _write(self, record: bytes) -> None:
        """Replace the content of the file."""

    @abstractmethod
    def _remove(self) -> None:
        """Remove the file."""

    def _replace(self, first: bytes) -> None:
        """Take over the file of an owner that counts as dead.

        Args:
            first: its content.

        Raises:
            InUse: another process was faster.
        """
        self._write_sign()

    def _close_file(self) -> None:
        """Close the file, if it stays open between two records. It does not raise."""

    # The sign of life -------------------------------------------------------------------------------------------------

    def _take_over(self, say: Callable[[str], None]) -> None:
        """Write the first sign of life, once the owner before this one, if there is one, counts as dead.

        Raises:
            InUse: it lives.
        """
        first = self._read()
        before = _decode(first)
        # Earlier versions wrote the number of the process. Zeros may be left after a power cut.
        if before is None and first.strip(b"0123456789\0 \n"):
            raise UserError(f"{self._name} is a file of another program where a lock should be: rename or move it")
        if self._is_free(before.owner if before else None):
            self._write_sign()
            return
        what, who = self._protected.what, _owner_in(first)
        say(f"waiting {self.expiry_s:.0f} s, to see whether {who} is still running: it left a lock on {what}")
        since_s = self._clock()
        while self._clock() - since_s < self.expiry_s:
            if self._stop_waiting.wait(self.look_every_s):
                raise Stopped(f"stopped while waiting for {what}")
            if (now := self._read()) != first:
                raise self._in_use_by(now or first)
        self._replace(first)
        self._require_no_rival()
        say(f"{who} gave no sign of life for {self.expiry_s:.0f} s: taking over {what}")

    def _require_no_rival(self) -> None:
        """Of two processes that take over at the same moment, the first one finds the record of the second."""
        self._stop_waiting.wait(2 * self.look_every_s)
        if not self._is_ours():
            raise self._in_use_by(self._read())

    def _in_use_by(self, content: bytes) -> InUse:
        return self._protected.in_use_by(_owner_in(content))

    def _try_to_renew(self) -> None:
        # ``require`` tries again, and reports it.
        with suppress(OSError):
            self._renew()

    def _release(self) -> None:
        with suppress(OSError):
            # Nobody relies on a file that was removed, see Lease._locked_file.
            if self._is_ours():
                self._remove()
        self._close_file()

    def _renew(self) -> None:
        """Check that no other process has taken over, and write a sign of life."""
        if not self._mutex.acquire(timeout=HANGING_S):
            raise TimeoutError("its folder does not answer")
        try:
            if self._lost or self._released.is_set():
                return
            if not self._is_ours() and not self._restored():
                self._lost = self._protected.taken_over_by(_owner_in(self._read()))
                return
            self._write_sign()
            self._renewed_s = self._clock()
        finally:
            self._mutex.release()

    def _is_ours(self) -> bool:
        """Whether the file is still the one that this process opened, and has its token."""
        if not self._is_same():
            return False
        found = _decode(self._read())
        return found is None or found.owner.token == self._owner.token

    def _write_sign(self) -> None:
        self._sign += 1
        self._write(self._record())

    def _record(self) -> bytes:
        return msgspec.json.encode(_Record(self._owner, self._sign)).ljust(RECORD_BYTES - 1) + b"\n"


class Lease(SignedLease):
    """A lease on a file of this machine's file systems.

    Args:
        path: of the file; its folder exists. The file is removed when the lease is released.
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
        # Whether the file system has locks.
        self._has_locks = True
        super().__init__(path, owner, protected, say=say, stop=stop, clock=clock)

    def _open(self) -> None:
        self._file = self._locked_file()

    def _locked_file(self) -> int:
        """Open and lock the file. Whoever removes the file has locked it, so a removed one is opened again."""
        while True:
            file = lock_file.open_file(self.path)
            try:
                locked = lock_file.try_lock(file)
                self._has_locks = locked is not None
                if locked is False:
                    raise self._protected.in_use_by(_owner_in(lock_file.read(self.path)))
                if lock_file.is_at(self.path, file):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _is_free(self, before: Owner | None) -> bool:
        # On this machine, a process whose file is not locked has ended.
        return before is None or (self._has_locks and before.shares_machine_with(self._owner))

    def _is_same(self) -> bool:
        return lock_file.is_at(self.path, self._file)

    def _restored(self) -> bool:
        if self.path.exists() and lock_file.is_at(self.path, self._file):
            return False
        new = lock_file.open_file(self.path)
        found = _decode(lock_file.read(self.path))
        is_free = lock_file.try_lock(new) is not False and lock_file.is_at(self.path, new)
        if not is_free or (found and found.owner.token != self._owner.token):
            os.close(new)
            return False
        os.close(self._file)
        self._file = new
        return True

    def _read(self) -> bytes:
        return lock_file.read(self.path)

    def _write(self, record: bytes) -> None:
        os.pwrite(self._file, record, 0)
        os.ftruncate(self._file, len(record))
        # A network folder shows it to other machines only then.
        os.fsync(self._file)

    def _remove(self) -> None:
        self.path.unlink()

    def _close_file(self) -> None:
        with suppress(OSError):
            os.close(self._file)


def _decode(content: bytes) -> _Record | None:
    try:
        return msgspec.json.decode(content, type=_Record)
    except msgspec.DecodeError:
        return None


def _owner_in(content: bytes) -> Owner | str:
    """Return the owner for a message. Earlier versions wrote only the number of the process."""
    record = _decode(content)
    return record.owner if record else f"process {content.decode(errors='replace').strip() or 'unknown'}"
