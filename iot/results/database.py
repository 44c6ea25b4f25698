"""Connections and transactions of the results database, a SQLite file or PostgreSQL.

Readers and writers never wait for each other: SQLite has its write-ahead log, PostgreSQL its row versions. A commit is
on disk before it returns, because Spark's checkpoint, written after it, must never be ahead of the results.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, text
from sqlalchemy.pool import QueuePool

from iot.results.damage import DamageCheck
from iot.results.errors import StoreUnavailable, cannot_write, own_errors
from iot.results.server import Server, parse_url
from iot.results.tables import metadata
from iot.settings import UserError, reason

PRAGMAS = (
    "synchronous=FULL",
    "cache_size=-16000",  # KiB
    "temp_store=MEMORY",
    "journal_size_limit=16777216",
)
# A table that does not exist yet has no size.
TABLES_BYTES = "SELECT sum(pg_total_relation_size(to_regclass(name))) FROM unnest(CAST(:names AS text[])) AS name"
# Maximum number of pages that one call of ``shrink`` frees.
MAX_FREED_PAGES = 1_000


class Database:
    """Connections to the results database; safe to use from several threads.

    ``name`` is for messages: a path, or a URL without its password. ``generation`` grows when the file was replaced.
    """

    def __init__(self, url: str, wait_s: float) -> None:
        """Nothing is opened yet.

        Args:
            url: ``sqlite:////path/to/file.db`` or ``postgresql://user@host/database``; for several hosts see
                ``iot.results.server.parse_url``.
            wait_s: How long to wait for a lock that another process holds.

        Raises:
            UserError: The URL is malformed, or its driver is not installed.
        """
        self._wait_s = wait_s
        self.path: Path | None = None
        """The file of SQLite; None for PostgreSQL."""
        self.server: Server | None = None
        """The server of PostgreSQL; None for SQLite."""
        self._file: tuple[int, int] | None = None
        self.generation = 0
        self._damage: DamageCheck | None = None
        self._writing = threading.Lock()
        try:
            parsed = parse_url(url)
            backend = parsed.get_backend_name()
        except (exc.ArgumentError, ValueError):
            backend = ""
        if backend == "sqlite" and parsed.database and parsed.database != ":memory:":
            if parsed.query:
                raise UserError("--database-url has a question mark, which an SQLite path cannot have: rename the file")
            self.path = Path(parsed.database).absolute()
            self.name = str(self.path)
            self._damage = DamageCheck(self.path)
            self._reader: Engine = self._sqlite()
            self._writer: Engine = self._reader.execution_options(begin="BEGIN IMMEDIATE")
        elif backend in ("postgresql", "postgres"):
            self.name = parsed.render_as_string()
            self._writer = self._postgresql(parsed)
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        else:
            raise UserError("--database-url must be sqlite:////path/to/file.db or postgresql://user@host/database")

    def _sqlite(self) -> Engine:
        def connect() -> sqlite3.Connection:
            # mode=rw: only create() may create the file.
            uri = f"file:{quote(os.fsencode(self.name))}?mode=rw"
            # isolation_level=None: begin() starts all transactions, also those that only read.
            return sqlite3.connect(uri, timeout=self._wait_s, uri=True, isolation_level=None, check_same_thread=False)

        engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, max_overflow=20)

        @event.listens_for(engine, "connect")
        def set_pragmas(connection: sqlite3.Connection, _: object) -> None:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

        return engine

    def _postgresql(self, url: URL) -> Engine:
        self.server = Server(url)
        args = {"options": f"-c lock_timeout={int(self._wait_s * 1000)}"}
        return self.server.engine(args, pool_pre_ping=True, max_overflow=20)

    @property
    def is_sqlite(self) -> bool:
        return self.path is not None

    def close(self) -> None:
        """Close all connections."""
        self._writer.dispose()

    def give_up_without_answer(self) -> None:
        """As ``Store.give_up_without_answer``."""
        if self.server:
            self.server.give_up_without_answer()

    def exists(self) -> bool:
        """Return whether the file exists and is not empty; always true for PostgreSQL.

        Connections to a file that was removed or replaced are closed.

        Raises:
            UserError: Its folder cannot be read.
        """
        if self.path is None:
            return True
        try:
            found = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError as error:
            fix = "choose another file with --database-url"
            raise UserError(f"cannot read {self.name}: {reason(error)}; {fix}") from error
        file = (found.st_dev, found.st_ino) if found else None
        if file != self._file:
            self._writer.dispose()
            self._damage = DamageCheck(self.path)
            self._file = file
            self.generation += 1
        return found is not None and found.st_size > 0

    def create(self) -> None:
        """Create the file if it does not exist.

        Raises:
            UserError: It cannot be written.
        """
        if self.path is None or self.exists():
            return
        try:
            self.path.touch()
            self.exists()
        except OSError as error:
            raise cannot_write(self.path, reason(error)) from error
        with self.driver() as connection:
            # The first has no effect on a file with tables, and the second none in a transaction.
            for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL"):
                connection.execute(f"PRAGMA {pragma}")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads; it sees the same snapshot throughout.

        Raises:
            StoreUnavailable: The database cannot be read now.
            UserError: It is damaged, or access is denied.
        """
        with self.own_errors(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes; it is committed at the end and rolled back on an exception. One runs at a time.

        Raises:
            StoreUnavailable: The database cannot be written now.
            UserError: It is damaged, or access is denied.
        """
        with self._writing, self.own_errors():
            if not self.exists():
                raise StoreUnavailable(f"{self.name} was removed while in use: restart the application")
            with self._writer.begin() as connection:
                yield connection

    def size_bytes(self) -> int:
        """Return how much space our tables take, with indexes and the write-ahead log of SQLite.

        Raises:
            StoreUnavailable: The database cannot be read now.
            UserError: Access is denied.
        """
        if self.path is not None:
            files = (Path(f"{self.path}{ending}") for ending in ("", "-wal", "-shm"))
            sizes = [size for file in files if (size := _size_bytes(file)) is not None]
            if not sizes:
                raise StoreUnavailable(f"{self.name} does not exist")
            return sum(sizes)
        with self.reading() as connection:
            return int(connection.scalar(text(TABLES_BYTES), {"names": list(metadata.tables)}) or 0)

    def shrink(self) -> bool:
        """Return some free pages of the file to the file system.

        Returns:
            Whether free pages are left.

        Raises:
            StoreUnavailable: The database cannot be written now.
            UserError: It is damaged, or access is denied.
        """
        if self.path is None:
            return False
        with self.driver() as connection:
            before = connection.execute("PRAGMA freelist_count").fetchone()[0]
            # A cursor would stop after the first page.
            connection.executescript(f"PRAGMA incremental_vacuum({MAX_FREED_PAGES})")
            after = connection.execute("PRAGMA freelist_count").fetchone()[0]
        return bool(0 < after < before)

    @contextmanager
    def driver(self) -> Iterator[Any]:
        """A connection of the driver itself, outside of a transaction, while nothing else is written.

        Raises: as ``writing``.
        """
        with self._writing, self.own_errors():
            raw: Any = self._writer.raw_connection()
            try:
                yield raw.driver_connection
            finally:
                raw.close()

    @contextmanager
    def own_errors(self) -> Iterator[None]:
        """Turn errors of the driver into ``StoreUnavailable`` and ``UserError``."""
        try:
            with own_errors(self.name, self._damage, self._wait_s):
                yield
        except StoreUnavailable as error:
            if self.server and self.server.is_given_up:
                raise StoreUnavailable(f"cannot use {self.name}: its server does not answer") from error
            raise


def _size_bytes(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None
