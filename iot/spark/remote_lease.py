"""The lease on a folder of a remote file system, which has no locks: a file that only one process can create.

Its owner rewrites a sign of life every few seconds. Another process takes over once that has stood still for half a
minute, on the same machine too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from iot.lease import SignedLease, now_s
from iot.owner import Owner, Protected
from iot.spark.remote_path import OBJECT_STORES, RemotePath, write_whole

# How often to renew the sign of life.
RENEW_S = 5.0
# How long a sign of life may stand still until its owner counts as dead.
EXPIRY_S = 30.0
# How often to look at the sign of life of another process.
LOOK_EVERY_S = 1.0


class RemoteLease(SignedLease):
    """A lease on a file of a remote file system; see ``SignedLease``. The file is removed when it is released."""

    def __init__(
        self,
        path: RemotePath,
        owner: Owner,
        protected: Protected,
        *,
        say: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = now_s,
    ) -> None:
        self.path = path
        self._is_new = False
        super().__init__(path, owner, protected, say=say, stop=stop, clock=clock)

    @property
    def renew_s(self) -> float:
        return RENEW_S

    @property
    def expiry_s(self) -> float:
        return EXPIRY_S

    @property
    def look_every_s(self) -> float:
        return LOOK_EVERY_S

    def _open(self) -> None:
        self._is_new = self._created()

    def _created(self) -> bool:
        """Whether this process has just created the file, with its record. Of several, only one does."""
        try:
            if self.path.scheme in OBJECT_STORES:
                self.path.create(self._record())
            else:
                self._rename_new()
        except FileExistsError:
            return False
        return True

    def _rename_new(self) -> None:
        """Write a file and rename it, so that nobody ever finds the lease without a record."""
        new = self._own_file()
        new.create(self._record(), overwrite=True)
        try:
            new.rename(self.path)
        finally:
            new.unlink(missing_ok=True)

    def _own_file(self) -> RemotePath:
        """A name that no other process uses."""
        return self.path.with_name(f"{self.path.name}.{self._owner.token}")

    def _is_free(self, before: Owner | None) -> bool:
        return self._is_new and before == self._owner

    def _replace(self, first: bytes) -> None:
        if self.path.scheme in OBJECT_STORES:
            super()._replace(first)
            return
        old = self._own_file()
        try:
            # Of several that take over at the same moment, only one renames this file.
            self.path.rename(old)
        except FileExistsError:
            raise self._in_use_by(self._read()) from None
        if (found := old.read_bytes()) != first:
            # It is the file of one that was faster, and gets it back unless it has made a new one.
            with suppress(FileExistsError):
                old.rename(self.path)
            old.unlink(missing_ok=True)
            raise self._in_use_by(found)
        if not self._created():
            raise self._in_use_by(self._read())

    def _take_over(self, say: Callable[[str], None]) -> None:
        super()._take_over(say)
        # Not every object store refuses to create a file that another process is creating.
        if self._is_new and self.path.scheme in OBJECT_STORES:
            self._require_no_rival()

    def _is_same(self) -> bool:
        return self.path.exists()

    def _restored(self) -> bool:
        return self._created()

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def _write(self, record: bytes) -> None:
        # Of two processes that take over at the same moment, each writes a file of its own.
        write_whole(self.path, record, f".{self._owner.token}")

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)
