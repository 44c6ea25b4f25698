"""Connections, transactions and upsert for the results database, a SQLite file or PostgreSQL.

Readers and writers never wait for each other: SQLite has its write-ahead log, PostgreSQL its row versions. A commit is
on disk before it returns, because Spark's checkpoint, written after it, must never be ahead of the results.
"""

from __future__ import annotations

import os
import shlex
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
from sqlalchemy.pool import NullPool, QueuePool

from iot.lease import Lease
from iot.owner import Held, Owner, Protected
from iot.results import ownership
from iot.results.tables import escape_nul
from iot.settings import UserError, reason

PRAGMAS = (
    "synchronous=FULL",
    "cache_size=-16000",  # KiB
    "temp_store=MEMORY",
    "journal_size_limit=16777216",
)
# How every file of SQLite begins.
SQLITE_MAGIC = b"SQLite format 3\0"
# Maximum number of pages that one call of ``shrink`` frees.
MAX_FREED_PAGES = 1_000


class StoreUnavailable(UserError):  # noqa: N818  # a temporary condition
    """The database is locked, full or unreachable. Nothing was changed; a retry may succeed."""


class Database:
    """Connections to the results database; safe to use from several threads.

    ``name`` is for messages: a path, or a URL without its password. ``generation`` grows when the file was replaced.
    """

    def __init__(self, url: str, wait_s: float) -> None:
        """Nothing is opened yet.

        Args:
            url: ``sqlite:////path/to/file.db`` or ``postgresql://user@host/database``.
            wait_s: How long to wait for a lock that another process holds.

        Raises:
            UserError: The URL is malformed, or its driver is not installed.
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
            if parsed.query:
                raise UserError("--database-url has a question mark, which an SQLite path cannot have: rename the file")
            self._path = Path(parsed.database).absolute()
            self.name = str(self._path)
            self._reader: Engine = self._sqlite()
            self._writer: Engine = self._reader.execution_options(begin="BEGIN IMMEDIATE")
        elif backend in ("postgresql", "postgres"):
            self.name = parsed.render_as_string()
            self._writer = self._postgresql(parsed.set(drivername="postgresql+psycopg"))
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        else:
            raise UserError("--database-url must be sqlite:////path/to/file.db or postgresql://user@host/database")

    def _sqlite(self) -> Engine:
        def connect() -> sqlite3.Connection:
            # mode=rw: only create() may create the file.
            uri = f"file:{quote(os.fsencode(self.name))}?mode=rw"
            # isolation_level=None: begin() starts all transactions, also those that only read.
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
        self._url = url
        options = _with_options(url, {"connect_timeout": 5, "options": f"-c lock_timeout={int(self._wait_s * 1000)}"})
        try:
            return create_engine(url, connect_args=options, pool_pre_ping=True, max_overflow=20)
        except ImportError as error:
            fix = "pip install 'psycopg[binary]'"
            raise UserError(f"the PostgreSQL driver is not installed ({reason(error)}): {fix}") from error

    @property
    def is_sqlite(self) -> bool:
        return self._path is not None

    def close(self) -> None:
        """Close all connections."""
        self._writer.dispose()

    def lease(self, owner: Owner, protected: Protected, say: Callable[[str], None], stop: threading.Event) -> Held:
        """Make ``owner`` the only process that writes; see ``Store.own``."""
        if self._path is None:
            args = _with_options(self._url, ownership.connect_args(owner))
            engine = create_engine(self._url, connect_args=args, poolclass=NullPool, isolation_level="AUTOCOMMIT")
            with self._own_errors():
                return ownership.AdvisoryLock(engine, owner, protected)
        # SQLite, too, keeps its log beside the file that a symbolic link leads to.
        file = self._path.resolve()
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
            raise UserError(_cannot_write(lock, reason(error))) from error

    def exists(self) -> bool:
        """Return whether the file exists and is not empty; always true for PostgreSQL.

        Connections to a file that was removed or replaced are closed.

        Raises:
            UserError: Its folder cannot be read.
        """
        if self._path is None:
            return True
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError as error:
            fix = "choose another file with --database-url"
            raise UserError(f"cannot read {self.name}: {reason(error)}; {fix}") from error
        file = (found.st_dev, found.st_ino) if found else None
        if file != self._file:
            self._writer.dispose()
            self._file = file
            self.generation += 1
        return found is not None and found.st_size > 0

    def create(self) -> None:
        """Create the file if it does not exist.

        Raises:
            UserError: It cannot be written.
        """
        if self._path is None or self.exists():
            return
        try:
            self._path.touch()
            self.exists()
        except OSError as error:
            raise UserError(_cannot_write(Path(self.name), reason(error))) from error
        with self._own_errors():
            connection = self._writer.raw_connection()
            try:
                # The first has no effect on a file with tables, and the second none in a transaction.
                for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL"):
                    connection.cursor().execute(f"PRAGMA {pragma}")
            finally:
                connection.close()

    def copy_aside(self, suffix: str) -> Path:
        """Copy the file of SQLite to a new name beside it, completely or not at all.

        Raises: as ``writing``.
        """
        assert self._path
        real = self._path.resolve()
        copy = _unused(real.with_name(f"{real.name}.{suffix}"))
        part = copy.with_name(f"{copy.name}.part")
        with self._writing, self._own_errors():
            raw: Any = self._writer.raw_connection()
            try:
                target = sqlite3.connect(part)
                try:
                    raw.driver_connection.backup(target)
                finally:
                    target.close()
                part.rename(copy)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            finally:
                raw.close()
        return copy

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads; it sees the same snapshot throughout.

        Raises:
            StoreUnavailable: The database cannot be read now.
            UserError: It is damaged, or access is denied.
        """
        with self._own_errors(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes; it is committed at the end and rolled back on an exception. One runs at a time.

        Raises:
            StoreUnavailable: The database cannot be written now.
            UserError: It is damaged, or access is denied.
        """
        with self._writing, self._own_errors():
            if not self.exists():
                raise StoreUnavailable(f"{self.name} was removed while in use: restart the application")
            with self._writer.begin() as connection:
                yield connection

    def shrink(self) -> bool:
        """Return some free pages of the file to the file system.

        Returns:
            Whether free pages are left.

        Raises:
            StoreUnavailable: The database cannot be written now.
            UserError: It is damaged, or access is denied.
        """
        if self._path is None:
            return False
        with self._writing, self._own_errors():
            raw: Any = self._writer.raw_connection()
            try:
                before = raw.cursor().execute("PRAGMA freelist_count").fetchone()[0]
                # A cursor would stop after the first page.
                raw.driver_connection.executescript(f"PRAGMA incremental_vacuum({MAX_FREED_PAGES})")
                after = raw.cursor().execute("PRAGMA freelist_count").fetchone()[0]
            finally:
                raw.close()
        return bool(0 < after < before)

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """Turn errors of the driver into ``StoreUnavailable`` and ``UserError``."""
        try:
            yield
        except (exc.OperationalError, exc.InterfaceError, sqlite3.OperationalError) as error:
            raise StoreUnavailable(self._describe(reason(getattr(error, "orig", None) or error))) from error
        except exc.TimeoutError as error:
            raise StoreUnavailable(f"cannot use {self.name}: all connections are busy, try again") from error
        except exc.DatabaseError as error:
            why = reason(error.orig or error)
            if self._path and type(error) is exc.DatabaseError and not _is_sqlite(self._path):
                # It may be any file of the user.
                fix = "choose another with --database-url"
                raise UserError(f"{self.name} is not an SQLite database, or its beginning is damaged; {fix}") from error
            if self._path and type(error) is exc.DatabaseError:
                raise UserError(f"{self.name} is damaged ({why}); to reset it: rm {shlex.quote(self.name)}") from error
            if isinstance(error, exc.ProgrammingError) and not self._path:
                raise UserError(f"cannot use {self.name}: {why}") from error
            raise

    def _describe(self, why: str) -> str:
        if "locked" in why or "lock timeout" in why:
            return f"{self.name} is locked by another process for more than {self._wait_s:g} s: stop that process"
        if "full" in why or "No space" in why:
            return f"no room for {self.name} ({why}): free some space"
        # Another user's file or folder, or a read-only file system.
        if self._path and ("readonly" in why or "unable to open" in why):
            return _cannot_write(Path(self.name), why)
        return f"cannot use {self.name}: {why}"


def _hard_links(file: Path) -> list[Path]:
    """Return the other names of a file in its folder."""
    if not file.exists() or file.stat().st_nlink == 1:
        return []
    return [other for other in file.parent.iterdir() if other != file and other.exists() and other.samefile(file)]


def _unused(path: Path) -> Path:
    """Return the path, or with a number behind it if it exists."""
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1_000)))
    return next(name for name in names if not name.exists())


def _with_options(url: Any, args: dict[str, Any]) -> dict[str, Any]:
    """Add the options of the URL, such as ``-c search_path=NAME``, which arguments would replace."""
    given = url.query.get("options", "")
    of_url = given if isinstance(given, str) else " ".join(given)
    return args | {"options": f"{of_url} {args['options']}".strip()}


def _cannot_write(file: Path, why: str) -> str:
    return f"cannot write {file}: {why}; choose another file with --database-url"


def _is_sqlite(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError:
        return False


Update = Callable[[Any, Any], dict[str, Any]]
"""Takes the columns of the old row and of the new one; returns the values to set, by column name."""


def upsert(connection: Connection, table: Table, rows: Iterable[Sequence[Any]], update: Update | None = None) -> None:
    """Insert rows; where the key exists, update the old row.

    Args:
        rows: Values for all columns of the table, in their order; no two rows with the same key.
        update: Computes the updated row; by default the new row replaces the old one.
    """
    found = list(rows)
    if not found:
        return
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_statement("sqlite", table, update), found)
    else:
        # One statement with arrays: PostgreSQL would need as long for each single row as for all together.
        columns = [
            [escape_nul(value) if isinstance(value, str) else value for value in column]
            for column in zip(*found, strict=True)
        ]
        connection.exec_driver_sql(_statement("postgresql", table, update), tuple(columns))


@cache
def _statement(dialect: str, table: Table, update: Update | None) -> str:
    """The SQL of an upsert, with a positional parameter for each column: a value, in PostgreSQL an array.

    It is cached, because SQLAlchemy would compile it at every use.
    """
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
    if update:
        changes = update(table.columns, new)
    else:
        changes = {column.name: new[column.name] for column in table.columns if not column.primary_key}
    insert = insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes)
    return str(insert.compile(dialect=compiler))
