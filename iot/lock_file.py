"""Files that hold a lock: opened without following links, locked without waiting, and read past all caches."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path


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


def _refused(error: OSError) -> bool | None:
    """Return False if another process has the lock, None if the file system has no locks; otherwise raise the error."""
    if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
        return False
    if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
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
