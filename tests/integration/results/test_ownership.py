"""One process at a time writes a results database, SQLite or PostgreSQL; others are refused or fenced off."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from iot import lease, lock_file
from iot.owner import InUse, LeaseLost, Owner, this_process
from iot.results.model import Status
from iot.results.store import Store
from iot.results.writes import put_key_values
from iot.settings import UserError
from tests.support.postgres import drop_everything
from tests.support.results import IDENTITY, NOW_S, Sample, delivered, write_batch
from tests.support.scripts import ROOT, started

FIX = "stop it"
# Owns the database and writes a batch, then waits for its end.
OWN = """
import sys, time
from iot.owner import this_process
from iot.results.store import Store
from tests.support.results import IDENTITY, Sample, write_batch
store = Store(sys.argv[1])
with store.own(this_process("first"), "stop it"):
    store.reset(IDENTITY, "state")
    write_batch(store, 0, [Sample()])
    print("owned", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def owning(stack: ExitStack, url: str, owner: Owner | None = None) -> Store:
    """A store that owns its database until the end of the stack."""
    store = Store(url, wait_s=2)
    stack.callback(store.close)
    stack.enter_context(store.own(owner or this_process("second"), FIX))
    return store


def refused(stack: ExitStack, url: str, owner: Owner | None = None) -> str:
    with pytest.raises(InUse) as error:
        owning(stack, url, owner)
    return str(error.value)


def is_free(url: str) -> bool:
    with ExitStack() as stack:
        try:
            owning(stack, url)
        except InUse:
            return False
        return True


def counted(store: Store) -> int:
    return store.read(NOW_S).messages


def writes(store: Store, batch_id: int) -> list[Callable[[], object]]:
    """Everything that changes results."""
    return [
        lambda: write_batch(store, batch_id, [Sample()]),
        lambda: store.write_alerts([delivered(1)], {0: 1}, "topic"),
        lambda: store.heartbeat(Status(NOW_S, NOW_S)),
        lambda: store.prune(NOW_S + 10_000, 1),
        lambda: store.reset(IDENTITY, "other"),
        lambda: store.set_aside("then"),
    ]


def test_a_second_process_is_refused_until_the_first_is_killed(url, stack, eventually):
    command = [sys.executable, "-c", OWN, url]
    with started(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first:
        assert first.stdout.readline() == "owned\n"
        line = refused(stack, url)
        assert re.fullmatch(
            rf"the results database \S+ is in use by first on \S+ \(process {first.pid}\)( at \S+)?: stop it", line
        )
        reader = Store(url)
        assert counted(reader) == 1
        first.send_signal(signal.SIGSTOP)
        # Stopped is not ended: it could go on at any moment.
        refused(stack, url)
        first.kill()
        first.wait()
    # The server of PostgreSQL takes a moment to notice.
    eventually(lambda: is_free(url))
    second = owning(stack, url)
    assert write_batch(second, 1, [Sample()])
    assert counted(reader) == 2
    reader.close()


def test_an_empty_database_has_one_owner_too(url, stack):
    first = owning(stack, url, this_process("first"))
    assert "is in use by first on " in refused(stack, url)
    first.reset(IDENTITY, "state")
    assert "is in use by first on " in refused(stack, url)
    assert write_batch(first, 0, [Sample()])


def test_results_of_an_earlier_version_get_an_owner(store, url, stack):
    write_batch(store, 0, [Sample()])
    ours = owning(stack, url)
    assert write_batch(ours, 1, [Sample()])
    assert counted(ours) == 2
    assert "is in use by second on " in refused(stack, url)


def test_a_replaced_owner_changes_nothing(url, stack):
    """The lock of the first was lost without its knowledge, as when a network was cut."""
    first = owning(stack, url, this_process("first"))
    first.reset(IDENTITY, "state")
    assert write_batch(first, 0, [Sample()])
    other = Store(url)
    stack.callback(other.close)
    # What a second owner does once it has the lock.
    owner = this_process("second")
    other._transactions.owner = owner
    with other._database.writing() as connection:
        put_key_values(connection, owner=owner)
    before = other.read(NOW_S)
    for write in writes(first, 1):
        with pytest.raises(LeaseLost, match=r"was taken over by second on \S+ \(process \d+\) while .* writes nothing"):
            write()
    assert other.read(NOW_S) == before
    assert first._transactions.lease.lost


def test_a_suspended_owner_of_another_machine_is_replaced_and_fenced(tmp_path, stack, monkeypatch):
    """SQLite in a folder that two machines share, and that does not share locks."""
    monkeypatch.setattr(lock_file, "try_lock", lambda file: True)
    monkeypatch.setattr(lock_file, "try_lock_beyond_end", lambda file: True)
    monkeypatch.setattr(lease, "EXPIRY_S", 0.6)
    monkeypatch.setattr("iot.owner.RENEW_S", 600.0)
    url = f"sqlite:///{tmp_path}/results.db"
    first = owning(stack, url, Owner("first", "a", "boot a", 1, "token a"))
    first.reset(IDENTITY, "state")
    assert write_batch(first, 0, [Sample()])
    second = owning(stack, url, Owner("second", "b", "boot b", 2, "token b"))
    before = second.read(NOW_S)
    for write in writes(first, 1):
        with pytest.raises(LeaseLost, match=r"was taken over by second on b \(process 2\)"):
            write()
    assert second.read(NOW_S) == before
    assert write_batch(second, 1, [Sample()])


@pytest.mark.parametrize("spelling", ["{0}/x/../results.db", "{0}/link.db", "{0}/./results.db"])
def test_every_spelling_of_a_file_is_one_database(tmp_path, stack, spelling):
    (tmp_path / "x").mkdir()
    (tmp_path / "link.db").symlink_to("results.db")
    first = owning(stack, f"sqlite:///{tmp_path}/results.db")
    first.reset(IDENTITY, "state")
    refused(stack, f"sqlite:///{spelling.format(tmp_path)}")
    refused(stack, f"sqlite+pysqlite:///{spelling.format(tmp_path)}")


def test_a_relative_path_is_the_same_database(tmp_path, stack, monkeypatch):
    monkeypatch.chdir(tmp_path)
    owning(stack, f"sqlite:///{tmp_path}/results.db")
    refused(stack, "sqlite:///results.db")


# PostgreSQL -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(postgres: str) -> str:
    drop_everything(postgres)
    return postgres


def sql(server: str, *statements: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def test_every_way_to_a_database_of_postgresql_is_the_same(server, stack):
    folder = server.rpartition("host=")[2]
    other_host = Path(tempfile.mkdtemp()) / "host"
    other_host.symlink_to(folder)
    stack.callback(shutil.rmtree, other_host.parent)
    sql(server, "DROP ROLE IF EXISTS another", "CREATE ROLE another LOGIN SUPERUSER")
    first = owning(stack, server, this_process("first"))
    first.reset(IDENTITY, "state")
    for url in (
        server.replace("postgresql://", "postgresql+psycopg2://"),
        server.replace("iot@", "another@"),
        server.replace(folder, str(other_host)),
        f"{server}&application_name=other",
        f"{server}&options={quote('-c search_path=missing,public')}",
    ):
        assert "is in use by first on " in refused(stack, url)
    sql(server, "DROP ROLE another")


def test_another_schema_or_database_is_other_state(server, stack):
    sql(server, "DROP SCHEMA IF EXISTS mine CASCADE", "CREATE SCHEMA mine", "DROP DATABASE IF EXISTS second")
    sql(server, "CREATE DATABASE second")
    first = owning(stack, server, this_process("first"))
    first.reset(IDENTITY, "state")
    write_batch(first, 0, [Sample()])
    for url in (
        f"{server}&options={quote('-c search_path=mine')}",
        server.replace("/postgres?", "/second?"),
    ):
        with ExitStack() as inner:
            second = owning(inner, url)
            assert counted(second) == 0
            second.reset(IDENTITY, "other")
            write_batch(second, 0, [Sample()] * 5)
            assert counted(second) == 5
            # The tables come later in this path.
            if "mine" in url:
                refused(inner, f"{server}&options={quote('-c search_path=missing,mine')}")
    assert counted(first) == 1
    sql(server, "DROP SCHEMA mine CASCADE", "DROP DATABASE second")


def test_tables_later_in_the_search_path_are_used(server, stack):
    owning(stack, server).reset(IDENTITY, "state")
    stack.close()
    sql(server, "DROP SCHEMA IF EXISTS empty CASCADE", "CREATE SCHEMA empty")
    found = owning(stack, f"{server}&options={quote('-c search_path=empty,public')}")
    assert found.identity() == (IDENTITY, "state")
    sql(server, "DROP SCHEMA empty")


def test_a_search_path_without_a_schema_is_one_line(server, stack):
    with pytest.raises(UserError, match="has no schema for tables: set one with"):
        owning(stack, f"{server}&options={quote('-c search_path=missing')}")


def test_a_lost_session_is_made_again(server, stack, eventually):
    first = owning(stack, server, this_process("first"))
    first.reset(IDENTITY, "state")
    terminate(server)
    eventually(lambda: locks(server) == 1)
    assert "is in use by first" in refused(stack, server)
    assert write_batch(first, 0, [Sample()])


def test_a_session_that_the_server_still_has_is_no_other_process(server, stack, eventually):
    """After a cut network, the server may take longer than its client to notice that a session was lost."""
    first = owning(stack, server, this_process("first"))
    first.reset(IDENTITY, "state")
    lock = first._transactions.lease
    # It stays open, but its owner no longer uses it.
    left, lock._session = lock._session, None
    stack.callback(left.invalidate)
    eventually(lambda: lock._session)
    assert not lock.lost
    assert locks(server) == 1
    assert "is in use by first" in refused(stack, server)
    assert write_batch(first, 0, [Sample()])


def test_an_owner_whose_session_was_lost_may_be_replaced(server, stack, eventually, monkeypatch):
    monkeypatch.setattr("iot.owner.RENEW_S", 600.0)
    first = owning(stack, server, this_process("first"))
    first.reset(IDENTITY, "state")
    write_batch(first, 0, [Sample()])
    terminate(server)
    monkeypatch.undo()
    second = owning(stack, server, this_process("second"))
    for write in writes(first, 1):
        with pytest.raises(LeaseLost, match="was taken over by second on "):
            write()
    assert counted(second) == 1


def test_an_owner_that_finds_its_lock_taken_gives_up(server, stack, eventually, monkeypatch):
    first = owning(stack, server, this_process("first"))
    first.reset(IDENTITY, "state")
    lock = first._transactions.lease
    # Between two looks of the first one.
    monkeypatch.setattr(lock, "_lock", lambda: (_ for _ in ()).throw(InUse("it is in use by second")))
    terminate(server)
    eventually(lambda: lock.lost)
    with pytest.raises(LeaseLost, match="in use by second; this process had lost its connection"):
        write_batch(first, 0, [Sample()])


def test_results_of_postgresql_are_set_aside_in_a_schema(server, stack):
    store = owning(stack, server)
    store.reset(IDENTITY, "state")
    write_batch(store, 0, [Sample()] * 3)
    line = store.set_aside("20261124T230300Z")
    store.reset(IDENTITY, "new")
    assert counted(store) == 0
    assert write_batch(store, 0, [Sample()])
    schema = "public_before_20261124t230300z"
    kept = Store(f"{server}&options={quote(f'-c search_path={schema}')}")
    assert counted(kept) == 3
    kept.close()
    assert f'''-c 'DROP SCHEMA "{schema}" CASCADE')''' in line
    sql(server, f'DROP SCHEMA "{schema}" CASCADE')


def test_a_user_who_may_not_create_schemas_gets_the_command(server, stack):
    sql(server, "DROP ROLE IF EXISTS weak", "CREATE ROLE weak LOGIN", "GRANT ALL ON SCHEMA public TO weak")
    store = owning(stack, server.replace("iot@", "weak@"))
    store.reset(IDENTITY, "state")
    write_batch(store, 0, [Sample()])
    with pytest.raises(
        UserError, match=r"aside \(permission denied .*\): let its user create schemas, or choose another"
    ):
        store.set_aside("now")
    assert counted(store) == 1
    stack.close()
    sql(server, "DROP OWNED BY weak", "DROP ROLE weak")


def terminate(server: str) -> None:
    """End the session that holds the lock."""
    sql(
        server,
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted",
    )


def locks(server: str) -> int:
    with psycopg.connect(server) as connection:
        row = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchone()
    assert row
    return int(row[0])
