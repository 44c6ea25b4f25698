"""Opens the results database, a SQLite file or PostgreSQL, and says in one line what is wrong with it.

Readers never wait for a writer, nor a writer for them: SQLite's write-ahead log, PostgreSQL's versions. A commit is on
the disk before it returns, because Spark's checkpoint, written after it, must never be ahead of the results.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import ARRAY, Connection, Engine, Table, bindparam, create_engine, event, exc, func, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.pool import QueuePool

from iot.results.tables import escaped
from iot.settings import UserError, reason

PRAGMAS = (
    "synchronous=FULL",
    "cache_size=-16000",  # KiB
    "temp_store=MEMORY",
    "journal_size_limit=16777216",
)
PAGES_AT_ONCE = 1_000


class StoreUnavailable(UserError):  # noqa: N818  # a condition that passes
    """The database cannot be used now: locked, full or away. Nothing was changed, and later it may work again."""


class Database:
    """Connections to the results database, for several threads.

    ``name`` is the database for people: a path, or a URL without its password. ``generation`` rises when the file turns
    out to be another than before.
    """

    def __init__(self, url: str, wait_s: float) -> None:
        """Nothing is opened yet.

        Args:
            wait_s: how long to wait for a lock that another process holds.

        Raises:
            UserError: the URL is malformed, or its driver is not installed.
        """
        self._wait_s = wait_s
        self._path: Path | None = None
        self._file: tuple[int, int] | None = None
        self.generation = 0
        self._writing = threading.Lock()
        try:
            parsed = make_url(url)
            backend = parsed.get_backend_name()
        except (exc.ArgumentError, ValueError):
            backend = ""
        if backend == "sqlite" and parsed.database and parsed.database != ":memory:":
            self._path = Path(parsed.database).absolute()
            self.name = str(self._path)
            self._reader: Engine = self._sqlite()
            self._writer: Engine = self._reader.execution_options(begin="BEGIN IMMEDIATE")
        elif backend in ("postgresql", "postgres"):
            self.name = parsed.render_as_string()
            self._writer = self._postgresql(parsed.set(drivername="postgresql+psycopg"))
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        else:
            raise UserError(
                "--database-url is neither a file, as sqlite:////path/to/file.db, nor postgresql://user@host/database"
            )

    def _sqlite(self) -> Engine:
        def connect() -> sqlite3.Connection:
            # Only create() makes the file.
            uri = f"file:{quote(self.name)}?mode=rw"
            # The sqlite3 module begins no transaction by itself: begin() does, before a read too.
            return sqlite3.connect(uri, self._wait_s, uri=True, isolation_level=None, check_same_thread=False)

        engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, max_overflow=20)

        @event.listens_for(engine, "connect")
        def set_pragmas(connection: sqlite3.Connection, _: object) -> None:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

        return engine

    def _postgresql(self, url: Any) -> Engine:
        options = {"connect_timeout": 5, "options": f"-c lock_timeout={int(self._wait_s * 1000)}"}
        try:
            return create_engine(url, connect_args=options, pool_pre_ping=True, max_overflow=20)
        except ImportError as error:
            cure = "pip install 'psycopg[binary]'"
            raise UserError(f"--database-url of PostgreSQL needs its driver ({reason(error)}): {cure}") from error

    def close(self) -> None:
        self._writer.dispose()

    def exists(self) -> bool:
        """Whether there is a file with something in it; connections to one that was removed or replaced are dropped."""
        if self._path is None:
            return True
        try:
            found = self._path.stat()
        except FileNotFoundError:
            found = None
        file = (found.st_dev, found.st_ino) if found else None
        if file != self._file:
            self._writer.dispose()
            self._file = file
            self.generation += 1
        return found is not None and found.st_size > 0

    def create(self) -> None:
        """Make the file where there is none.

        Raises:
            UserError: it cannot be written.
        """
        if self._path is None or self.exists():
            return
        try:
            self._path.touch()
            self.exists()
        except OSError as error:
            cure = "choose another file with --database-url"
            raise UserError(f"cannot write {self.name}: {reason(error)}; {cure}") from error
        with self._plainly():
            connection = self._writer.raw_connection()
            try:
                # Only an empty file takes the first, and no transaction the second.
                for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL"):
                    connection.cursor().execute(f"PRAGMA {pragma}")
            finally:
                connection.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees the database as it is now, all the while.

        Raises:
            StoreUnavailable: it cannot be read now.
            UserError: it is damaged, or may not be read.
        """
        with self._plainly(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is kept as a whole, or not at all when something is raised; one at a time.

        Raises:
            StoreUnavailable: it cannot be written now.
            UserError: it is damaged, or may not be written.
        """
        with self._writing, self._plainly():
            if not self.exists():
                raise StoreUnavailable(f"{self.name} was removed while in use: start again")
            with self._writer.begin() as connection:
                yield connection

    def give_back(self) -> bool:
        """Shrink the file by a part of what was deleted; returns whether there is more."""
        if self._path is None:
            return False
        with self._writing, self._plainly():
            raw: Any = self._writer.raw_connection()
            try:
                before = raw.cursor().execute("PRAGMA freelist_count").fetchone()[0]
                # A cursor would free a single page.
                raw.driver_connection.executescript(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})")
                after = raw.cursor().execute("PRAGMA freelist_count").fetchone()[0]
            finally:
                raw.close()
        return bool(0 < after < before)

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Turn the driver's errors into ours."""
        try:
            yield
        except (exc.OperationalError, exc.InterfaceError, sqlite3.OperationalError) as error:
            raise StoreUnavailable(self._why(reason(getattr(error, "orig", None) or error))) from error
        except exc.TimeoutError as error:
            raise StoreUnavailable(f"cannot use {self.name}: too many requests at once") from error
        except exc.DatabaseError as error:
            why = reason(error.orig or error)
            if self._path and type(error) is exc.DatabaseError:
                raise UserError(f"{self.name} is damaged ({why}); to start afresh: rm {self.name}") from error
            if isinstance(error, exc.ProgrammingError) and not self._path:
                raise UserError(f"cannot use {self.name}: {why}") from error
            raise

    def _why(self, why: str) -> str:
        if "locked" in why or "lock timeout" in why:
            return f"{self.name} is locked by another process, for more than {self._wait_s:g} s: end that one"
        if "full" in why or "No space" in why:
            return f"no room for {self.name} ({why}): free some space"
        return f"cannot use {self.name}: {why}"


Merge = Callable[[Any, Any], dict[str, Any]]
"""From the columns of the row that is there and of the new one: the values of the columns that change, by name."""


def upsert(connection: Connection, table: Table, rows: Iterable[Sequence[Any]], merge: Merge | None = None) -> None:
    """Insert rows; one whose key is there replaces the old one, or is merged with it.

    Args:
        rows: each with values for all columns of the table, in their order; no two of the same key.
    """
    found = list(rows)
    if not found:
        return
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_statement("sqlite", table, merge), found)
    else:
        # Row by row, each would cost as much as the whole.
        columns = [[escaped(of) if isinstance(of, str) else of for of in column] for column in zip(*found, strict=True)]
        connection.exec_driver_sql(_statement("postgresql", table, merge), tuple(columns))


@cache
def _statement(dialect: str, table: Table, merge: Merge | None) -> str:
    """With a positional parameter for each column, of values or of arrays; SQLAlchemy would compile it at every use."""
    insert: Any
    if dialect == "sqlite":
        compiler: Any = sqlite.dialect(paramstyle="qmark")
        insert = sqlite.insert(table)
    else:
        compiler = psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
        names = table.columns.keys()
        arrays = func.unnest(*(bindparam(column.name, type_=ARRAY(column.type)) for column in table.columns))
        source = arrays.table_valued(*names).render_derived()
        insert = postgresql.insert(table).from_select(names, select(source))
    new = insert.excluded
    if merge:
        changes = merge(table.columns, new)
    else:
        changes = {column.name: new[column.name] for column in table.columns if not column.primary_key}
    insert = insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes)
    return str(insert.compile(dialect=compiler))
