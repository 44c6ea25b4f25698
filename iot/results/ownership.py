"""Which process owns a results database: a lease beside the file of SQLite, an advisory lock of PostgreSQL.

The lock keeps a second process from starting. Its owner also writes a token into the database, and each transaction
that writes checks that the token is still there. So a process that was cut off and replaced changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from sqlalchemy import Connection, select
from sqlalchemy.pool import NullPool

from iot.lease import Lease
from iot.owner import Held, Owner, Protected
from iot.results.advisory_lock import AdvisoryLock, connect_args
from iot.results.database import Database
from iot.results.errors import cannot_write
from iot.results.tables import key_values
from iot.settings import UserError, reason

OWNER = "owner"
"""The name of the owner's row among the key values. Earlier versions ignore it."""


def take(
    database: Database, owner: Owner, protected: Protected, say: Callable[[str], None], stop: threading.Event
) -> Held:
    """Make ``owner`` the only process that writes; see ``Store.own``."""
    if database.server is None:
        assert database.path
        return _lease(database.path, owner, protected, say, stop)
    engine = database.server.engine(connect_args(owner), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with database.own_errors():
        return AdvisoryLock(engine, owner, protected)


def _lease(path: Path, owner: Owner, protected: Protected, say: Callable[[str], None], stop: threading.Event) -> Lease:
    """Take the lease beside the file. A file with a second name is refused."""
    # SQLite, too, keeps its log beside the file that a symbolic link leads to.
    file = path.resolve()
    lock = file.with_name(f"{file.name}.lock")
    try:
        names = _hard_links(file)
        for other in names:
            # Raises InUse if an application has the file by that name.
            Lease(other.with_name(f"{other.name}.lock"), owner, protected, say=say, stop=stop).close()
        if names or (file.exists() and file.stat().st_nlink > 1):
            raise UserError(
                f"{file} has another name (a hard link), and SQLite damages a file that is used by two names: "
                f"remove the other name, or choose another --checkpoint-dir and --database-url"
            )
        return Lease(lock, owner, protected, say=say, stop=stop)
    except OSError as error:
        raise cannot_write(lock, reason(error)) from error


def _hard_links(file: Path) -> list[Path]:
    """Return the other names of a file in its folder."""
    if not file.exists() or file.stat().st_nlink == 1:
        return []
    return [other for other in file.parent.iterdir() if other != file and other.exists() and other.samefile(file)]


def read_owner(connection: Connection) -> Owner | None:
    """Return the last process that owned the database."""
    value = connection.scalar(select(key_values.c.value).where(key_values.c.name == OWNER))
    try:
        return msgspec.json.decode(value, type=Owner) if value else None
    except msgspec.DecodeError:
        return None


def require_owner(connection: Connection, owner: Owner, protected: Protected) -> None:
    """Check, inside a transaction, that nobody has taken over since ``owner`` wrote its row.

    Raises:
        LeaseLost: another process has taken over.
    """
    found = read_owner(connection)
    if found is None or found.token != owner.token:
        raise protected.taken_over_by(found or "another process")
