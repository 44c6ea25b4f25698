"""Insert or update many rows with one statement, in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Connection, Table, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg

from iot.results.tables import escape_nul

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
