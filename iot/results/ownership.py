"""Which process owns a results database: a lease on the file of SQLite, an advisory lock of PostgreSQL.

The lock keeps a second process from starting. Its owner also writes a token into the database, and each transaction
that writes checks that the token is still there. So a process that was cut off and replaced changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
from sqlalchemy import Connection, select
from sqlalchemy.pool import NullPool

from iot.owner import Held, Owner, Protected
from iot.results.advisory_lock import AdvisoryLock, connect_args
from iot.results.database import Database
from iot.results.file_lease import FileLease
from iot.results.tables import key_values

OWNER = "owner"
"""The name of the owner's row among the key values. Earlier versions ignore it."""


def take(
    database: Database, owner: Owner, protected: Protected, say: Callable[[str], None], stop: threading.Event
) -> Held:
    """Make ``owner`` the only process that writes; see ``Store.own``."""
    if database.server is None:
        assert database.path
        return FileLease(database.path, owner, protected, say, stop)
    engine = database.server.engine(connect_args(owner), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with database.own_errors():
        return AdvisoryLock(engine, owner, protected)


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
