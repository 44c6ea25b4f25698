"""What the database drivers raise, as errors that say what failed, on what, and how to fix it."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import exc

from iot.results.damage import DamageCheck
from iot.settings import UserError, reason

# How every file of SQLite begins.
SQLITE_MAGIC = b"SQLite format 3\0"


class StoreUnavailable(UserError):  # noqa: N818  # a temporary condition
    """The database is locked, full or unreachable. Nothing was changed; a retry may succeed."""


class BatchesMissing(UserError):  # noqa: N818  # a state, not only an error
    """The database lacks batches that it once had. Spark does not process them again."""


@contextmanager
def own_errors(name: str, check: DamageCheck | None, wait_s: float) -> Iterator[None]:
    """Turn errors of the driver into ``StoreUnavailable`` and ``UserError``.

    Args:
        name: of the database, for messages.
        check: of the file of SQLite, made once SQLite has reported damage; None for PostgreSQL.
        wait_s: how long a lock of another process was waited for.
    """
    file = check.file if check else None
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, sqlite3.OperationalError) as error:
        why = reason(getattr(error, "orig", None) or error)
        raise StoreUnavailable(_describe(name, file, wait_s, why)) from error
    except exc.TimeoutError as error:
        raise StoreUnavailable(f"cannot use {name}: all connections are busy, try again") from error
    except exc.DatabaseError as error:
        why = reason(error.orig or error)
        if not file and ("read-only transaction" in why or "during recovery" in why):
            fix = "name the one that takes writes, or all of them with target_session_attrs=read-write"
            raise StoreUnavailable(f"{name} is on a server that only reads, perhaps a standby: {fix}") from error
        if check and type(error) is exc.DatabaseError:
            raise _damage(name, check, why) from error
        if isinstance(error, exc.ProgrammingError) and not file:
            raise UserError(f"cannot use {name}: {why}") from error
        raise


def _damage(name: str, check: DamageCheck, why: str) -> UserError:
    """The error where SQLite reports damage: only a file that is damaged is to be removed."""
    if not _is_sqlite(check.file):
        # It may be any file of the user.
        fix = "choose another with --database-url"
        return UserError(f"{name} is not an SQLite database, or its beginning is damaged; {fix}")
    try:
        found = check.find()
    except sqlite3.Error as error:
        return StoreUnavailable(f"cannot use {name} ({why}), and cannot check it ({reason(error)}): try again")
    if not found:
        return StoreUnavailable(f"cannot use {name} ({why}), but a check found no damage: try again")
    return UserError(f"{name} is damaged ({why}); to reset it: rm {shlex.quote(name)}")


def cannot_write(file: Path, why: str) -> UserError:
    """The error where a file cannot be written."""
    return UserError(_cannot_write(file, why))


def _describe(name: str, file: Path | None, wait_s: float, why: str) -> str:
    if "locked" in why or "lock timeout" in why:
        return f"{name} is locked by another process for more than {wait_s:g} s: stop that process"
    if "full" in why or "No space" in why:
        return f"no room for {name} ({why}): free some space"
    # Another user's file or folder, or a read-only file system.
    if file and ("readonly" in why or "unable to open" in why):
        return _cannot_write(file, why)
    return f"cannot use {name}: {why}"


def _cannot_write(file: Path, why: str) -> str:
    return f"cannot write {file}: {why}; choose another file with --database-url"


def _is_sqlite(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError:
        return False
