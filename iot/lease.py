"""A lease on a file or a folder: one process at a time owns it, also between machines.

A lease is a file beside what it protects. Its owner holds a lock (``flock``) on the file, which the kernel releases
however the process ends. Not every network folder shares such locks between machines, so the owner also renews a sign
of life in the file. A process of another machine takes a lease over once that sign has stood still for ``EXPIRY_S``. It
never compares the clocks of two machines.

An owner that was suspended for longer may find that it was replaced. It asks ``require`` before it writes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from iot import lock_file
from iot.owner import Held, LeaseUnknown, Owner, Protected
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


class Lease(Held):
    """A lease on a file.

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
        super().__init__()
        self.path = path
        self._owner, self._protected, self._clock = owner, protected, clock
        self._stop_waiting = stop or threading.Event()
        self._sign = 0
        self._mutex = threading.Lock()
        # Whether the file system has locks.
        self._has_locks = True
        self._file = self._locked_file()
        try:
            self._take_over(say)
        except BaseException:
            os.close(self._file)
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
        if self._lost is None and self._clock() - self._renewed_s > EXPIRY_S / 2:
            try:
                self._renew()
            except OSError as error:
                raise LeaseUnknown(f"cannot read {self.path}: {reason(error)}") from error
        super().require()

    # The file ---------------------------------------------------------------------------------------------------------

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

    def _take_over(self, say: Callable[[str], None]) -> None:
        """Write the first sign of life, once the owner on another machine, if there is one, counts as dead.

        Raises:
            InUse: it lives.
        """
        first = lock_file.read(self.path)
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
            if (now := lock_file.read(self.path)) != first:
                raise self._protected.in_use_by(_owner_in(now or first))
        self._write_sign()
        # Of two machines that take over at the same moment, the first one finds the record of the second.
        self._stop_waiting.wait(2 * LOOK_EVERY_S)
        if not self._is_ours():
            raise self._protected.in_use_by(_owner_in(lock_file.read(self.path)))
        say(f"{before.owner} gave no sign of life for {EXPIRY_S:.0f} s: taking over {what}")

    def _try_to_renew(self) -> None:
        # ``require`` tries again, and reports it.
        with suppress(OSError):
            self._renew()

    def _release(self) -> None:
        with suppress(OSError):
            # Nobody relies on a file that was removed, see _locked_file.
            if self._is_ours():
                self.path.unlink()
        with suppress(OSError):
            os.close(self._file)

    def _renew(self) -> None:
        """Check that no other process has taken over, and write a sign of life."""
        if not self._mutex.acquire(timeout=HANGING_S):
            raise TimeoutError("its folder does not answer")
        try:
            if self._lost or self._released.is_set():
                return
            if not self._is_ours() and not self._restored():
                self._lost = self._protected.taken_over_by(_owner_in(lock_file.read(self.path)))
                return
            self._write_sign()
            self._renewed_s = self._clock()
        finally:
            self._mutex.release()

    def _is_ours(self) -> bool:
        """Whether the file is still the one that this process locked, and has its token."""
        if not lock_file.is_at(self.path, self._file):
            return False
        found = _decode(lock_file.read(self.path))
        return found is None or found.owner.token == self._owner.token

    def _restored(self) -> bool:
        """Whether the file could be made again, after somebody removed it."""
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

    def _write_sign(self) -> None:
        self._sign += 1
        record = msgspec.json.encode(_Record(self._owner, self._sign)).ljust(RECORD_BYTES - 1) + b"\n"
        os.pwrite(self._file, record, 0)
        os.ftruncate(self._file, len(record))
        # A network folder shows it to other machines only then.
        os.fsync(self._file)


def _decode(content: bytes) -> _Record | None:
    try:
        return msgspec.json.decode(content, type=_Record)
    except msgspec.DecodeError:
        return None


def _owner_in(content: bytes) -> Owner | str:
    """Return the owner for a message. Earlier versions wrote only the number of the process."""
    record = _decode(content)
    return record.owner if record else f"process {content.decode(errors='replace').strip() or 'unknown'}"
