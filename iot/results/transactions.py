"""Transactions on results: their tables are ours, and this process owns them where it said so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Row, inspect, select, text

from iot.owner import Held, LeaseLost, Owner, Protected
from iot.results import ownership
from iot.results.database import Database
from iot.results.file_lease import FileLease
from iot.results.tables import SCHEMA_VERSION, WITHOUT_ALARMS, metadata, summary
from iot.results.upgrade import upgrade
from iot.results.writes import put_key_values
from iot.settings import UserError


class Transactions:
    """Makes the transactions of a ``Store``; safe to use from several threads. For the errors see there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # The generation of the database whose tables were checked.
        self._checked_generation: int | None = None
        self.owner: Owner | None = None
        """This process, as it is in the database once it is the owner."""
        self.lease: Held | None = None
        self._protected = Protected(f"the results database {database.name}", "stop it")

    @contextmanager
    def own(self, owner: Owner, fix: str, say: Callable[[str], None], stop: threading.Event) -> Iterator[Held]:
        """As ``Store.own``."""
        self._protected = self._protected._replace(fix=fix)
        self.lease = ownership.take(self._database, owner, self._protected, say, stop)
        try:
            with self.reading() as opened:
                has_results = opened is not None
            self.owner = owner
            if has_results:
                with self._database.writing() as connection:
                    connection.execute(select(summary).with_for_update()).one()
                    upgrade(connection)
                    put_key_values(connection, owner=owner)
            yield self.lease
        finally:
            self.lease.close()

    def create(self) -> None:
        """Create the database's file if it is missing, and own it."""
        self._database.create()
        if isinstance(self.lease, FileLease):
            self.lease.lock_database()

    def forget_tables(self) -> None:
        """Look for the tables again before they are read."""
        self._checked_generation = None

    @contextmanager
    def reading(self) -> Iterator[tuple[Connection, Row[Any]] | None]:
        """A transaction that reads, with the summary row; None if there are no results yet."""
        if not self._database.exists():
            yield None
            return
        with self._database.reading() as connection:
            generation = self._database.generation
            if self._checked_generation != generation and self.has_results(connection):
                self._checked_generation = generation
            checked = self._checked_generation == generation
            yield (connection, connection.execute(select(summary)).one()) if checked else None

    @contextmanager
    def writing(self) -> Iterator[tuple[Connection, Row[Any]]]:
        """A transaction that writes, with the summary row, which it has locked.

        Raises:
            LeaseLost: This process owned the database, and another one has taken over.
        """
        self.require_lease()
        with self._database.writing() as connection:
            current = connection.execute(select(summary).with_for_update()).one()
            self.require_owner(connection)
            yield connection, current

    def require_lease(self) -> None:
        if self.lease:
            self.lease.require()

    def require_owner(self, connection: Connection) -> None:
        if self.owner and self.lease:
            try:
                ownership.require_owner(connection, self.owner, self._protected)
            except LeaseLost as error:
                self.lease.lose(error)
                raise

    def has_results(self, connection: Connection) -> bool:
        """Return whether our tables exist; False if the database is empty.

        Raises:
            UserError: The tables are another program's, or of another version.
        """
        fix = "choose another with --database-url"
        found = set(inspect(connection).get_table_names())
        if summary.name in found:
            if connection.scalar(select(summary.c.schema_version)) not in (WITHOUT_ALARMS, SCHEMA_VERSION):
                raise UserError(f"{self._database.name} was written by another version of this program; {fix}")
            return True
        if not self._database.is_sqlite and connection.scalar(text("SELECT to_regclass('iot_results')")) is not None:
            # The tables are in a later schema of the search path.
            return True
        if found & metadata.tables.keys() or (found and connection.dialect.name == "sqlite"):
            raise UserError(f"{self._database.name} is the database of another program; {fix}")
        return False
