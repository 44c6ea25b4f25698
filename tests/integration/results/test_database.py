"""Databases that are locked, full, damaged, another program's or removed; and the size of the file."""

from __future__ import annotations

import random
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, exc

from iot.results.damage import CHECKED_S, DamageCheck, find_damage
from iot.results.model import Status
from iot.results.store import Store, StoreUnavailable
from iot.settings import UserError
from tests.support.results import IDENTITY, NOW_S, Sample, Stream, delivered, opened, write_batch
from tests.support.scripts import ROOT, started

PAGE = 4_096
# Locks the database, prints a line, waits for a line of input, then writes.
HOLD_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("UPDATE iot_results SET version = version + 1")
connection.execute("COMMIT")
"""
# Writes batches until it is killed; prints a line after the first few.
WRITE_FOREVER = """
import sys
from tests.support.results import Sample, Stream, write_batch
from iot.results.store import Store
store, stream = Store(sys.argv[1]), Stream()
for batch_id in range(10**9):
    samples = [Sample(sensor_id=f"s{number}", at_s=number % 60) for number in range(500)]
    write_batch(store, batch_id, samples, stream, next_offsets={0: 500 * (batch_id + 1)})
    if batch_id == 3:
        print("writing", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # These characters have a meaning in URLs.
    return tmp_path / "a b%20c#d.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    yield from opened(open_store(path))


def open_store(path: Path) -> Store:
    return Store(f"sqlite:///{path}", wait_s=0.2)


def test_the_url_names_the_file(store, path):
    assert path.exists()
    assert store.name == str(path)


@pytest.fixture
def holder(store, path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the database's lock until it reads a line."""
    command = [sys.executable, "-c", HOLD_LOCK, path]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def release(holder: subprocess.Popen[str]) -> None:
    holder.communicate("\n")


def test_a_locked_database_gives_a_one_line_error_and_changes_nothing(store, holder):
    before = store.read(NOW_S)
    for write in (
        lambda: write_batch(store, 0, [Sample()]),
        lambda: store.write_alerts([delivered(1)], {}, "topic"),
        lambda: store.heartbeat(Status(NOW_S, NOW_S)),
        lambda: store.prune(NOW_S, 60),
        lambda: store.reset(IDENTITY, "other"),
    ):
        with pytest.raises(StoreUnavailable, match=r"^[^\n]*b%20c#d\.db is locked by another process[^\n]*$"):
            write()
    # Readers need no lock.
    assert store.read(NOW_S) == before
    release(holder)
    assert write_batch(store, 0, [Sample()])
    assert store.read(NOW_S).messages == 1


def test_a_writer_waits_for_the_lock_and_sees_what_was_written_meanwhile(holder, path):
    store = Store(f"sqlite:///{path}", wait_s=60)
    releasing: list[threading.Thread] = []

    @event.listens_for(store._database._reader, "before_cursor_execute")
    def let_go(connection, cursor, statement, *_):
        # From here on the writer waits.
        if statement.startswith(("BEGIN IMMEDIATE", "INSERT", "UPDATE")) and not releasing:
            releasing.append(threading.Thread(target=release, args=[holder]))
            releasing[0].start()

    before = store.version()
    assert write_batch(store, 0, [Sample()])
    assert (store.read(NOW_S).messages, store.version()) == (1, before + 2)
    store.close()


def test_an_open_read_transaction_does_not_block_batches(store, path):
    write_batch(store, 0, [Sample()])
    reader = open_store(path)
    with reader._database.reading() as connection:
        count = "SELECT count FROM totals"
        assert connection.exec_driver_sql(count).scalar() == 1
        assert write_batch(store, 1, [Sample()])
        # The transaction still sees its snapshot.
        assert connection.exec_driver_sql(count).scalar() == 1
    reader.close()
    assert store.read(NOW_S).messages == 2


def test_a_full_disk_gives_a_one_line_error_and_rolls_the_batch_back(path):
    store = open_store(path)
    pages = [10_000]

    @event.listens_for(store._database._reader, "begin")
    def limit(connection):
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages[0]}")

    store.reset(IDENTITY, "state")
    stream = Stream()
    write_batch(store, 0, [Sample()], stream)
    before = store.read(NOW_S)
    many = [Sample(sensor_id=f"s{number}", at_s=number, location=f"l{number}") for number in range(2_000)]
    pages[0] = 80
    with pytest.raises(StoreUnavailable, match=r"^no room for [^\n]*full[^\n]*: free some space$"):
        write_batch(store, 1, many, Stream())
    assert store.read(NOW_S) == before
    pages[0] = 10_000
    assert write_batch(store, 1, many, stream)
    assert store.read(NOW_S).messages == 2_001
    store.close()


@pytest.mark.parametrize(
    ("at", "said"),
    [
        # It may be any file of the user, so nothing says to remove it.
        (0, "is not an SQLite database, or its beginning is damaged; choose another with --database-url"),
        (100, r"is damaged \(.+\); to reset it: rm '.*'"),
    ],
)
def test_a_damaged_file_is_reported_with_its_name_and_a_fix(store, path, at, said):
    write_batch(store, 0, [Sample()])
    store.close()
    content = bytearray(path.read_bytes())
    content[at : at + 4_000] = b"\x55" * 4_000
    path.write_bytes(content)
    for call in (
        lambda store: store.identity(),
        lambda store: store.read(NOW_S),
        lambda store: store.reset(IDENTITY, "new"),
    ):
        with pytest.raises(UserError) as caught:
            call(open_store(path))
        assert not isinstance(caught.value, StoreUnavailable)
        assert re.fullmatch(f"{re.escape(str(path))} {said}", str(caught.value))


def calls_of(store: Store) -> list[Any]:
    """Everything that reads results or writes them."""
    samples = [Sample(sensor_id=f"s{of}", at_s=of, location=f"l{of % 7}") for of in range(900)]
    return [
        store.identity,
        lambda: store.read(NOW_S),
        lambda: store.alerts(1_000),
        store.windows,
        lambda: store.windows(location="l1"),
        lambda: write_batch(store, 1, samples),
        lambda: store.write_alerts([delivered(of) for of in range(900)], {}, "topic"),
        lambda: store.heartbeat(Status(NOW_S, NOW_S)),
        lambda: store.prune(NOW_S + 90_000, 60),
    ]


def said_by(path: Path) -> list[str]:
    """What the calls say, each with a store of its own: a first error must not hide others."""
    said = []
    for number in range(len(calls_of(open_store(path)))):
        store = open_store(path)
        try:
            calls_of(store)[number]()
        except UserError as error:
            said.append(str(error))
        finally:
            store.close()
    return said


@pytest.mark.parametrize("seed", range(6))
def test_damage_anywhere_inside_is_recognised_when_it_is_met(store, path, seed):
    """A page that was overwritten with random bytes."""
    chance = random.Random(seed)
    many = [Sample(sensor_id=f"s{of}", at_s=of, location=f"l{of % 7}") for of in range(2_000)]
    write_batch(store, 0, many)
    store.write_alerts([delivered(of) for of in range(2_000)], {}, "topic")
    store.close()
    content = bytearray(path.read_bytes())
    pages = len(content) // PAGE
    for page in chance.sample(range(1, pages), k=1 + pages // 8):
        content[page * PAGE : (page + 1) * PAGE] = chance.randbytes(PAGE)
    path.write_bytes(content)
    said = said_by(path)
    assert any("is damaged (" in line for line in said), said
    for line in said:
        assert "\n" not in line
        assert re.search(r"is damaged \(.+\); to reset it: rm '|^no room", line), line
    # The command of the message helps.
    command = next(line for line in said if "is damaged" in line).partition("to reset it: ")[2]
    subprocess.run(command, shell=True, check=True)
    again = open_store(path)
    again.reset(IDENTITY, "new")
    assert write_batch(again, 0, [Sample()])
    again.close()


@pytest.mark.parametrize("error", ["database disk image is malformed", "file is not a database", "unknown error"])
def test_a_sound_database_is_never_removed_because_of_an_error(store, path, error):
    """As after a fault of the memory or of a cable."""
    write_batch(store, 0, [Sample()])
    faults = [sqlite3.DatabaseError(error)]

    @event.listens_for(store._database._reader, "before_cursor_execute")
    def fail(*_: object) -> None:
        if faults:
            raise exc.DatabaseError("SELECT", {}, faults[0])

    with pytest.raises(StoreUnavailable) as raised:
        store.read(NOW_S)
    assert str(raised.value) == f"cannot use {path} ({error}), but a check found no damage: try again"
    faults.clear()
    assert store.read(NOW_S).messages == 1


def test_a_damage_that_cannot_be_checked_is_no_reason_to_remove(store, path, holder):
    """Another program has the file for itself."""
    store.close()
    release(holder)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        failing = open_store(path)
        with pytest.raises(UserError) as raised, failing._database.own_errors():
            raise exc.DatabaseError("SELECT", {}, sqlite3.DatabaseError("database disk image is malformed"))
        assert "rm " not in str(raised.value)
        failing.close()
    other.close()


def test_a_check_counts_for_a_minute(path, monkeypatch):
    checked: list[Path] = []

    def find(file: Path) -> str:
        checked.append(file)
        return "page 3 is bad"

    monkeypatch.setattr("iot.results.damage.find_damage", find)
    now_s = 0.0
    check = DamageCheck(path, lambda: now_s)
    assert [check.find(), check.find()] == ["page 3 is bad"] * 2
    assert checked == [path]
    now_s += CHECKED_S
    check.find()
    assert checked == [path] * 2


def test_an_index_that_lacks_a_row_is_damage(path):
    """The quick check does not look for it."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE one (x)")
        connection.execute("CREATE INDEX of_one ON one (x)")
        connection.executemany("INSERT INTO one VALUES (?)", [(of,) for of in range(100)])
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'of_one'").fetchone()
    connection.close()
    assert find_damage(path) == ""
    content = bytearray(path.read_bytes())
    # The number of cells stands behind the type of the page and its first free block.
    content[(page - 1) * PAGE + 3 : (page - 1) * PAGE + 5] = (99).to_bytes(2, "big")
    path.write_bytes(content)
    assert find_damage(path) != ""


def test_a_sound_database_is_not_checked(store, path, monkeypatch):
    """A check reads the whole file."""
    checked: list[str] = []

    @event.listens_for(store._database._reader, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        checked.append(statement)

    monkeypatch.setattr("iot.results.damage.find_damage", lambda _: pytest.fail("it was checked"))
    write_batch(store, 0, [Sample()])
    with pytest.raises(StoreUnavailable), store._database.own_errors():
        raise sqlite3.OperationalError("database is locked")
    assert not [statement for statement in checked if "check" in statement]


def test_the_database_of_another_program_is_left_unchanged(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    before = path.read_bytes()
    for call in (Store.identity, Store.version, lambda store: store.reset(IDENTITY, "state")):
        with pytest.raises(UserError, match=r"is the database of another program; choose another with --database-url"):
            call(open_store(path))
    assert path.read_bytes() == before


def test_results_of_another_version_are_left_unchanged(store, path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE iot_results SET schema_version = schema_version + 1")
    connection.close()
    for call in (Store.identity, Store.version, lambda store: store.reset(IDENTITY, "state")):
        with pytest.raises(UserError, match=r"was written by another version of this program; choose another"):
            call(open_store(path))


@pytest.mark.parametrize(
    "url",
    ["results.db", "", "sqlite://", "sqlite:///:memory:", "mysql://host/database", "http://[::1", "/tmp/results.db"],
)
def test_an_invalid_url_is_refused_with_examples(url):
    with pytest.raises(UserError, match=r"^--database-url must be sqlite:////[^\n]+postgresql://[^\n]+$"):
        Store(url)


def test_the_password_is_hidden():
    assert Store("postgresql://me:secret@localhost/results").name == "postgresql://me:***@localhost/results"


def test_a_server_that_does_not_answer_gives_a_one_line_error():
    with pytest.raises(
        StoreUnavailable, match=r"^cannot use postgresql://me:\*\*\*@127\.0\.0\.1:1/x: [^\n]+refused[^\n]+$"
    ):
        Store("postgresql://me:secret@127.0.0.1:1/x").version()


def test_a_file_that_cannot_be_created_is_reported_with_a_fix(tmp_path):
    store = open_store(tmp_path / "no folder" / "results.db")
    assert store.identity() is None
    with pytest.raises(UserError, match=r"^cannot write .*/no folder/results.db: No such .*; choose another file with"):
        store.reset(IDENTITY, "state")


def test_a_removed_file_stops_the_writer_and_readers_find_its_replacement(store, path):
    reader = open_store(path)
    write_batch(store, 0, [Sample()])
    assert reader.read(NOW_S).messages == 1
    path.unlink()
    assert (reader.version(), reader.read(NOW_S).messages, reader.identity()) == (0, 0, None)
    with pytest.raises(StoreUnavailable, match=r"was removed while in use: restart the application"):
        write_batch(store, 1, [Sample()])
    # The old write-ahead log must not be applied to the new file.
    assert path.with_name(f"{path.name}-wal").exists()
    again = open_store(path)
    again.reset(IDENTITY, "new state")
    assert write_batch(again, 0, [Sample()] * 3)
    assert reader.read(NOW_S).messages == 3
    assert reader.identity() == (IDENTITY, "new state")
    again.close()
    reader.close()


def test_a_killed_writer_leaves_whole_batches(store, path):
    for _ in range(2):
        store.reset(IDENTITY, "state")
        command = [sys.executable, "-c", WRITE_FOREVER, f"sqlite:///{path}"]
        with started(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
            assert writer.stdout.readline() == "writing\n"
        state = store.read(NOW_S)
        batches = state.messages // 500
        assert batches >= 4
        assert state.messages == state.totals["temperature"].count == 500 * batches
        assert state.offsets == {0: state.messages}
        assert sum(row.count for row in store.windows()) == 3 * state.messages
        assert not write_batch(store, batches - 1, [Sample()])
        assert write_batch(store, batches, [Sample()])


def test_a_commit_is_on_disk_before_it_returns(store):
    with store._database.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        full = 2
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == full


def test_the_write_ahead_log_is_truncated_after_a_large_batch(store, path):
    log = path.with_name(f"{path.name}-wal")
    with store._database.writing() as connection:
        connection.exec_driver_sql("INSERT INTO iot_notes VALUES ('large', zeroblob(30000000))")
    assert log.stat().st_size > 30_000_000
    for number in range(3):
        store.heartbeat(Status(NOW_S + number, NOW_S))
    assert log.stat().st_size <= 16 * 2**20


def test_the_file_stops_growing(store, path):
    """Ten hours of batches at a constant rate."""
    retention_s = 1_800
    pages = []
    stream = Stream()
    for step in range(60):
        at_s = 600 * step
        new = [Sample(at_s=at_s + of, sensor_id=f"s{of}", location=f"l{of % 7}") for of in range(200)]
        stream.windows.clear()
        write_batch(store, step, new, stream)
        store.write_alerts([delivered(1_000 * step + of, at_s, sensor_id=f"s{of}") for of in range(300)], {}, "topic")
        store.heartbeat(Status(NOW_S + at_s, NOW_S))
        store.prune(NOW_S + at_s, retention_s)
        pages.append(pages_of(store))
    assert max(pages[20:]) <= 1.1 * max(pages[:20])
    # Free pages are returned to the file system.
    store.reset(IDENTITY, "state")
    store.prune(NOW_S, retention_s)
    assert pages_of(store) < pages[0]


def pages_of(store: Store) -> int:
    with store._database.reading() as connection:
        return int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())


def test_no_query_of_the_page_scans_a_large_table(store, path):
    """SQLite's query plans use an index to sort and to search."""
    write_batch(store, 0, [Sample()])
    queries: list[tuple[str, Any]] = []

    @event.listens_for(store._database._reader, "before_cursor_execute")
    def note(connection, cursor, statement, parameters, context, many):
        queries.append((statement, parameters))

    store.read(NOW_S)
    filters: list[dict[str, Any]] = [{}, {"sensor_type": "x"}, {"sensor_id": "x"}, {"since_us": 5}]
    for chosen in (*filters, {"sensor_type": "x", "since_us": 5}):
        store.alerts(1_000, **chosen)
    store.windows(NOW_S, NOW_S + 10, "x")
    store.windows(NOW_S, NOW_S + 10, None, "hall")
    large = r"\bFROM (alerts|latest|windows\w*|sensors (JOIN|\s*WHERE))\b"
    plans = {}
    connection = sqlite3.connect(path)
    for statement, parameters in queries:
        if re.search(large, statement):
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans[statement, str(parameters)] = [step for _, _, _, step in rows]
    connection.close()
    assert len(plans) == 12
    for (statement, _), plan in plans.items():
        assert not [step for step in plan if re.fullmatch(r"SCAN \w+|USE TEMP B-TREE FOR ORDER BY", step)], statement
