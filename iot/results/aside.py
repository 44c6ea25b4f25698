"""Keep the results of an earlier run under another name: a copy of the file of SQLite, a schema of PostgreSQL."""

from __future__ import annotations

import shlex
import sqlite3
from pathlib import Path

from sqlalchemy import Connection, exc, text

from iot.results.advisory_lock import SCHEMA_NAME
from iot.results.database import Database
from iot.results.names import paste
from iot.results.tables import metadata
from iot.settings import UserError, reason


def copy_file(database: Database, suffix: str) -> Path:
    """Copy the file of SQLite to a new name beside it, completely or not at all.

    Raises: see ``Store``.
    """
    assert database.path
    real = database.path.resolve()
    copy = _unused(real.with_name(f"{real.name}.{suffix}"))
    part = copy.with_name(f"{copy.name}.part")
    with database.driver() as connection:
        try:
            target = sqlite3.connect(part)
            try:
                connection.backup(target)
            finally:
                target.close()
            part.rename(copy)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return copy


def move_tables(connection: Connection, suffix: str, name: str) -> str:
    """Move the tables of PostgreSQL to a new schema, in the transaction of ``connection``.

    Args:
        name: of the database, for messages.

    Returns:
        The quoted name of the schema.

    Raises:
        UserError: the database's user may not create schemas.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    schema = connection.scalar(text(f"SELECT {SCHEMA_NAME}"))
    aside = quote(f"{schema}_{suffix}".lower())
    try:
        connection.exec_driver_sql(f"CREATE SCHEMA {aside}")
        for table in metadata.tables:
            connection.exec_driver_sql(f"ALTER TABLE {quote(schema)}.{quote(table)} SET SCHEMA {aside}")
    except exc.ProgrammingError as error:
        why = reason(error.orig or error)
        raise UserError(
            f"cannot set the results in {name} aside ({why}): let its user create schemas, "
            "or choose another database with --database-url"
        ) from error
    return aside


def how_to_remove_file(file: Path) -> str:
    """The command that removes a copy."""
    return f"rm {shlex.quote(str(file))}"


def how_to_remove_schema(database: Database, schema: str) -> str:
    """The command that removes a schema."""
    return f"psql {shlex.quote(paste(database.name))} -c {shlex.quote(f'DROP SCHEMA {schema} CASCADE')}"


def _unused(path: Path) -> Path:
    """Return the path, or with a number behind it if it exists."""
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1_000)))
    return next(name for name in names if not name.exists())
