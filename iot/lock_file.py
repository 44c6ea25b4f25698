"""Files that hold a lock: opened without following links, locked without waiting, and read past all caches."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

# A byte far behind the largest file of SQLite, which has less than 2**48.
BEYOND_END = 2**62


def open_file(path: Path) -> int:
    """Open a file to be locked, and create it if it is missing; returns its descriptor.

    Raises:
        OSError: it cannot be opened, or is a symbolic link.
    """
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
        return _refused(error)
    return True


def try_lock_beyond_end(file: int) -> bool | None:
    """As ``try_lock``, for a file that another library locks too: the lock is on a byte that no file reaches.

    It belongs to the descriptor and not, as other locks of bytes, to the process. It is one of the file itself, so it
    is the same on every path. ``unlock_beyond_end`` releases it.
    """
    return _set_beyond_end(file, fcntl.F_WRLCK)


def unlock_beyond_end(file: int) -> None:
    """Release the lock. The descriptor stays open: closing one drops all locks of the process on the file."""
    _set_beyond_end(file, fcntl.F_UNLCK)


def _set_beyond_end(file: int, kind: int) -> bool | None:
    # Only Linux has it.
    command = getattr(fcntl, "F_OFD_SETLK", None)
    if command is None:
        return None
    try:
        # A struct flock: kind, from where, first byte, number of bytes, process.
        fcntl.fcntl(file, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, BEYOND_END, 1, 0))
    except OSError as error:
        return _refused(error)
    return True


def _refused(error: OSError) -> bool | None:
    """Return False if another process has the lock, None if the file system has no locks; otherwise raise the error."""
    if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
        return False
    if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
        raise error
    return None


def is_at(path: Path, file: int) -> bool:
    """Whether an open file still has this path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def read(path: Path) -> bytes:
    """Return the content; empty if there is no file. It is opened each time, or a network folder would answer from its
    cache."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
