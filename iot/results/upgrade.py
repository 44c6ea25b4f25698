"""Add what an earlier version of the results database lacks, and change nothing else in it."""

from __future__ import annotations

from sqlalchemy import Connection, select, text, update

from iot.results.advisory_lock import SCHEMA_NAME
from iot.results.tables import ALARM_TABLES, SCHEMA_VERSION, latest_heard, metadata, summary


def upgrade(connection: Connection) -> None:
    """Create the tables of alarms and the index for silent sensors; the summary row must be locked."""
    if connection.scalar(select(summary.c.schema_version)) == SCHEMA_VERSION:
        return
    if connection.dialect.name == "postgresql":
        # The other tables may be in a later schema of the search path.
        quote = connection.dialect.identifier_preparer.quote_identifier
        schema = quote(connection.scalar(text(f"SELECT {SCHEMA_NAME}")) or "public")
        connection.exec_driver_sql(f"SET LOCAL search_path TO {schema}")
    metadata.create_all(connection, ALARM_TABLES)
    latest_heard.create(connection, checkfirst=True)
    connection.execute(update(summary).values(schema_version=SCHEMA_VERSION))
