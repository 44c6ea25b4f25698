"""A lock in PostgreSQL: the process that holds it owns the results. It has a session of its own, and ends with that."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Engine, exc, select, text

from iot.owner import Held, LeaseLost, Owner, Protected
from iot.results.errors import StoreUnavailable
from iot.settings import UserError

# The first number of the lock; the second is the id of the schema. Both make it a lock of this program's tables.
LOCK_CLASS = 0x10_7D_A7A

# The schema of our tables if they exist, else the one in which they will be created.
SCHEMA_ID = """
coalesce((SELECT relnamespace FROM pg_class WHERE oid = to_regclass('iot_results')),
         (SELECT oid FROM pg_namespace WHERE nspname = current_schema()))
"""
SCHEMA_NAME = f"(SELECT nspname FROM pg_namespace WHERE oid = {SCHEMA_ID})"
SCHEMA = f"SELECT cast({SCHEMA_ID} AS bigint)"
# Ids have 32 bits without a sign, and the numbers of a lock have one.
LOCK = "SELECT pg_try_advisory_lock(:class, cast(cast(cast(:schema AS bigint) AS bit(32)) AS integer))"
SESSION = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
OF_HOLDER = """
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted
  AND classid = cast(:class AS bigint)::oid AND objid = cast(:schema AS bigint)::oid
  AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
HOLDER = f"""
SELECT coalesce(nullif(application_name, ''), 'a session') || coalesce(' at ' || host(client_addr), '') {OF_HOLDER}
"""
END_HOLDER = f"SELECT pg_terminate_backend(pid) {OF_HOLDER} AND pid = :pid AND backend_start = :backend_start"
# How often to look whether a session that was told to end has ended.
LOOK_EVERY_S = 0.1


class AdvisoryLock(Held):
    """A lock of PostgreSQL on the schema of our tables.

    A thread looks every second whether the session is there, and makes a new one where it was lost, as after a restart
    of the server.

    Args:
        engine: makes the session; of ``make_engine``.
        owner: this process.

    Raises:
        InUse: another process has the lock.
        sqlalchemy.exc.SQLAlchemyError: the server does not answer.
    """

    def __init__(self, engine: Engine, owner: Owner, protected: Protected) -> None:
        super().__init__()
        self._engine, self._owner, self._protected = engine, owner, protected
        self._session: Connection | None = None
        # Identifies the last session that had the lock, on the server.
        self._held_by: dict[str, Any] | None = None
        self._lock()
        self._start_renewing("database-lease")

    def _lock(self) -> None:
        session = self._engine.connect()
        try:
            while True:
                schema = session.scalar(text(SCHEMA))
                if schema is None:
                    raise UserError("the database has no schema for tables: set one with options=-csearch_path=NAME")
                numbers = {"class": LOCK_CLASS, "schema": schema}
                if not session.scalar(text(LOCK), numbers):
                    # The server may not know yet that the session before this one was lost.
                    if self._held_by and session.scalar(text(END_HOLDER), numbers | self._held_by):
                        self._released.wait(LOOK_EVERY_S)
                        continue
                    raise self._protected.in_use_by(session.scalar(text(HOLDER), numbers) or "another session")
                # Another process may have created the tables meanwhile, in another schema of the search path.
                if session.scalar(text(SCHEMA)) == schema:
                    self._held_by = dict(session.execute(text(SESSION)).one()._mapping)
                    break
        except BaseException:
            session.close()
            raise
        self._session = session

    def _try_to_renew(self) -> None:
        try:
            if self._session is None:
                self._lock()
            else:
                self._session.scalar(select(1))
        except StoreUnavailable:
            self._disconnect()
        except UserError as error:
            self._lost = LeaseLost(f"{error}; this process had lost its connection, and writes nothing more")
        except exc.SQLAlchemyError:
            self._disconnect()

    def _release(self) -> None:
        self._disconnect()
        self._engine.dispose()

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            # A session that is lost cannot be closed in an orderly way.
            with suppress(exc.SQLAlchemyError):
                session.invalidate()
            with suppress(exc.SQLAlchemyError):
                session.close()


def connect_args(owner: Owner) -> dict[str, Any]:
    """The arguments of the session of a lock, by which others see who has it."""
    return {
        # PostgreSQL cuts it at 63 bytes.
        "application_name": f"{owner.script} on {owner.host[:20]} (process {owner.pid})",
    }
