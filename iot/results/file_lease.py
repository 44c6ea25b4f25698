"""Who owns a file of SQLite: a lease beside it, and a lock on the file itself, which has the same one on every path.

The lease alone would not do: a file that is linked, or mounted into a container, has another folder there. The lock
alone would not do either, because not every network folder shares locks between machines.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from iot import lock_file
from iot.lease import Lease
from iot.owner import Owner, Protected
from iot.results.errors import cannot_write
from iot.settings import UserError, reason

# An attribute of the file: who holds its lock.
HOLDER = "user.iot-streaming.owner"


class FileLease(Lease):
    """A lease beside a file of SQLite, with a lock on the file.

    Args:
        path: of the file, which may not exist yet.

    Raises:
        InUse: another process owns the file, perhaps by another path.
        UserError: it has a second hard link, or cannot be written.
        Stopped: ``stop`` was set.
    """

    def __init__(
        self, path: Path, owner: Owner, protected: Protected, say: Callable[[str], None], stop: threading.Event
    ) -> None:
        # SQLite, too, keeps its log beside the file that a symbolic link leads to.
        self._database = path.resolve()
        self._locked: int | None = None
        lock = self._database.with_name(f"{self._database.name}.lock")
        try:
            super().__init__(lock, owner, protected, say=say, stop=stop)
        except OSError as error:
            raise cannot_write(lock, reason(error)) from error
        try:
            self.lock_database()
            self._require_one_name()
        except BaseException:
            self.close()
            raise

    def lock_database(self) -> None:
        """Lock the file, once it exists.

        Raises:
            InUse: another process has locked it.
            UserError: it cannot be written.
        """
        if self._locked is not None:
            return
        try:
            # It is never closed: that would drop SQLite's locks, which are the process's, too.
            file = os.open(self._database, os.O_RDWR | os.O_CLOEXEC)
            is_ours = lock_file.try_lock_beyond_end(file)
        except FileNotFoundError:
            return
        except OSError as error:
            raise cannot_write(self._database, reason(error)) from error
        if is_ours is False:
            raise self._protected.in_use_by(_holder(file))
        self._locked = file
        if is_ours:
            _set_holder(file, self._owner)

    def _require_one_name(self) -> None:
        if self._locked is not None and os.fstat(self._locked).st_nlink > 1:
            raise UserError(
                f"{self._database} has another name (a hard link), and SQLite damages a file that is used by two "
                "names: remove the other name, or choose another --checkpoint-dir and --database-url"
            )

    def _release(self) -> None:
        super()._release()
        if self._locked is not None:
            with suppress(OSError):
                lock_file.unlock_beyond_end(self._locked)


def _set_holder(file: int, owner: Owner) -> None:
    # Not every system and file system has attributes.
    with suppress(OSError):
        if sys.platform == "linux":
            os.setxattr(file, HOLDER, str(owner).encode())


def _holder(file: int) -> str:
    """Return who has locked a file, for a message."""
    with suppress(OSError):
        if sys.platform == "linux":
            return os.getxattr(file, HOLDER).decode(errors="replace")
    return "another process"
