"""A database of the version without alarms is upgraded by its owner, and keeps everything."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import inspect, select, text

from iot.owner import this_process
from iot.results.store import Store
from iot.results.tables import ALARM_TABLES, SCHEMA_VERSION, latest_heard, metadata
from tests.support.alarm_batches import NOW_US, AlarmStream
from tests.support.results import DAY_S, IDENTITY, NOW_S, Sample, delivered, write_batch


def make_old(store: Store) -> None:
    """Make the database what the version without alarms wrote."""
    with store._database.writing() as connection:
        metadata.drop_all(connection, ALARM_TABLES)
        latest_heard.drop(connection)
        connection.execute(text("UPDATE iot_results SET schema_version = 1"))


def rows(store: Store) -> dict[str, Any]:
    """All rows of the tables that both versions have, but for the owner's."""
    with store._database.reading() as connection:
        found: dict[str, Any] = {
            name: sorted(connection.execute(select(table)).all())
            for name, table in metadata.tables.items()
            if table not in ALARM_TABLES
        }
    found["iot_notes"] = [row for row in found["iot_notes"] if row.name != "owner"]
    found["iot_results"] = [dict(row._mapping) | {"schema_version": 0} for row in found["iot_results"]]
    return found


@pytest.fixture
def old(store):
    write_batch(store, 0, [Sample(), Sample(31.0, 1, sensor_id="hot")], next_offsets={0: 2})
    store.write_alerts([delivered(1)], {0: 1}, "topic")
    make_old(store)
    return store


def test_a_database_that_is_only_read_has_no_alarms(old):
    before = rows(old)
    assert old.read(NOW_S).messages == 2
    assert old.alarms.page().total == 0
    assert old.alarms.acknowledge("x", "", "", NOW_US) is None
    assert old.alarms.changes() == []
    assert old.silences.all() == []
    assert old.silences.expire("x", NOW_US) is None
    assert old.notifications.read() == {}
    assert rows(old) == before
    with old._database.reading() as connection:
        assert connection.scalar(text("SELECT schema_version FROM iot_results")) == 1
        assert "alarms" not in inspect(connection).get_table_names()


def test_its_owner_upgrades_it_and_everything_is_kept(old, url):
    before = rows(old)
    old.close()
    for _ in range(2):
        store = Store(url)
        with store.own(this_process("test"), "stop it"):
            assert rows(store) == before
            assert store.identity() == (IDENTITY, "state")
        store.close()
    store = Store(url)
    with store._database.reading() as connection:
        assert connection.scalar(text("SELECT schema_version FROM iot_results")) == SCHEMA_VERSION
    with store.own(this_process("test"), "stop it"):
        stream = AlarmStream(store)
        # The first batch was written before.
        stream.make([Sample()])
        stream.send(Sample(31.0, 2))
        assert store.alarms.page().total == 1
        store.prune(NOW_S, DAY_S)
        assert store.set_aside("now")
    store.close()


def test_a_reset_upgrades_it(old):
    old.reset(IDENTITY, "new")
    assert old.alarms.page().total == 0
    AlarmStream(old).send(Sample(31.0))
    assert old.alarms.page().total == 1


def test_the_new_tables_are_beside_the_old_ones_in_a_later_schema_of_the_search_path(postgres, url):
    if not url.startswith("postgres"):
        pytest.skip("a file of SQLite has no schemas")
    store = Store(url)
    store.reset(IDENTITY, "state")
    make_old(store)
    with store._database.writing() as connection:
        connection.execute(text('CREATE SCHEMA "first one"'))
    store.close()
    separator = "&" if "?" in url else "?"
    other = Store(f"{url}{separator}options=-csearch_path%3D%22first%5C%20one%22%2Cpublic")
    with other.own(this_process("test"), "stop it"):
        assert other.alarms.page().total == 0
    with other._database.reading() as connection:
        assert connection.scalar(text("SELECT current_schema()")) == "first one"
        assert "alarms" in inspect(connection).get_table_names(schema="public")
        assert inspect(connection).get_table_names(schema="first one") == []
    other.close()
    drop = Store(url)
    with drop._database.writing() as connection:
        connection.execute(text('DROP SCHEMA "first one" CASCADE'))
    drop.close()
