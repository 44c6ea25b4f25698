"""What checkpoints and database tell of, which failures are over, and how often what fails is tried again."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from iot.batches import Identity
from iot.pipeline.job import Job
from iot.pipeline.pipeline import Processing
from iot.pipeline.resume import afresh, agree
from iot.results.store import Store
from iot.settings import UserError
from iot.spark.checkpoints import Notes, read_notes, write_notes
from iot.spark.errors import explain

OURS = Identity("iot-sensors", "topic-id")
EARLIER = Identity("iot-sensors", "earlier-id")
START = {0: 5, 1: 0, 2: 7}


@pytest.fixture
def folders(tmp_path):
    return [tmp_path / "one", tmp_path / "two"]


@pytest.fixture
def store(tmp_path):
    made = Store(f"sqlite:///{tmp_path / 'results.db'}")
    yield made
    made.close()


def begin(store: Store, folders: list[Path], identity: Identity = OURS) -> str | None:
    start, line = agree(store, folders, identity, "results.db", lambda: START)
    assert start == START
    assert store.identity()[0] == identity
    assert all(read_notes(folder).state_id == store.identity()[1] for folder in folders)
    return line


def test_what_belongs_together_is_gone_on_with(store, folders):
    assert begin(store, folders) is None
    state = store.identity()
    (folders[0] / "offsets").mkdir()
    assert agree(store, folders, OURS, "results.db", lambda: pytest.fail("begun anew")) == (START, None)
    assert store.identity() == state


@pytest.mark.parametrize("left", ["one", "database"])
def test_what_is_there_alone_starts_afresh(store, folders, tmp_path, left):
    begin(store, folders)
    state = store.identity()
    write_notes(folders[1], Notes(OURS, START, state_id="another"))
    if left == "one":
        (tmp_path / "results.db").unlink()
    else:
        for folder in folders:
            (folder / "iot-notes.json").unlink()
    assert begin(store, folders).startswith("only ")
    assert store.identity() != state


def test_a_topic_made_anew_is_refused_until_the_checkpoints_are_gone(store, folders):
    begin(store, folders, EARLIER)
    with pytest.raises(
        UserError, match=r"is of an earlier topic iot-sensors.*; to start afresh: rm -r \S+ \S+ results.db"
    ):
        begin(store, folders)
    # Without them the database, which may be none that can be removed, says nothing that could be mixed up.
    for folder in folders:
        (folder / "iot-notes.json").unlink()
    assert begin(store, folders) == "only database of an earlier run is there, or of several: all start afresh"


def test_the_results_of_another_topic_are_kept(store, folders):
    begin(store, folders, Identity("elsewhere", "other-id"))
    for folder in folders:
        (folder / "iot-notes.json").unlink()
    with pytest.raises(UserError, match="the results database is of topic elsewhere, not iot-sensors"):
        begin(store, folders)


def test_the_cure_is_a_command():
    assert afresh([Path("/a"), Path("/b")], "/c.db") == "to start afresh: rm -r /a /b /c.db"
    assert afresh([Path("/a"), Path("/b")], "") == "to start afresh: rm -r /a /b"


PLAN = """
=== Streaming Query ===
Logical Plan:
~WriteToMicroBatchDataSourceV1 ForeachBatchSink, [queryName=windows, checkpointLocation=/tmp/EOFException], Update"""
FAILED = "[STREAM_FAILED] Query [id = 3f, runId = 0c] terminated with exception: "


@pytest.mark.parametrize(
    ("said", "explained"),
    [
        (
            FAILED + "Failed to read log file file:/c/offsets/1. Incomplete log file SQLSTATE: XXKST",
            "its checkpoint is damaged, or of another query (Failed to read log file file:/c/offsets/1. "
            "Incomplete log file); the cure",
        ),
        (
            FAILED + "Unexpected end-of-input in field name\n at [Source: REDACTED; line: 1] SQLSTATE: XXKST",
            "its checkpoint is damaged, or of another query (Unexpected end-of-input in field name); the cure",
        ),
        (
            FAILED + "Checksum error: file:/c/offsets/3 at 0 exp: -1 got: 8 SQLSTATE: XXKST",
            "its checkpoint is damaged, or of another query (Checksum error: file:/c/offsets/3 at 0 exp: -1 got: 8); "
            "the cure",
        ),
        (
            FAILED + "Partition iot-sensors-0's offset was changed from 500 to 0, some data may have been missed.",
            "messages that were not read yet have expired in Kafka, or the topic was made anew "
            "(Partition iot-sensors-0's offset was changed from 500 to 0, some data may have been missed.); the cure",
        ),
        (
            FAILED + "EOFException occurred while reading the port number from iot.spark.worker's stdout",
            "Spark's Python workers do not run: PYSPARK_PYTHON must name this Python, and there must be memory for "
            "them (EOFException occurred while reading the port number from iot.spark.worker's stdout)",
        ),
        (
            FAILED + "Python worker exited unexpectedly (crashed)\nCaused by: java.io.EOFException",
            "Spark's Python workers do not run: PYSPARK_PYTHON must name this Python, and there must be memory for "
            "them (EOFException)",
        ),
        (
            FAILED + "ModuleNotFoundError: No module named 'msgspec'",
            "a Python worker lacks a module: pip install -r requirements.txt, on every machine of the cluster "
            "(ModuleNotFoundError: No module named 'msgspec')",
        ),
        # What this package says itself, it has said well.
        (
            FAILED + "[FOREACH_BATCH_USER_FUNCTION_ERROR] An error occurred in the user provided function\n"
            '  File "iot/processing.py", line 1, in keep\n'
            "iot.results.database.StoreUnavailable: /r.db is locked by another process: end that one\n",
            "/r.db is locked by another process: end that one",
        ),
        (
            FAILED + "java.io.IOException: No space left on device SQLSTATE: XXKST",
            "there is no room for the files of Spark and its checkpoints: free some space "
            "(IOException: No space left on device)",
        ),
        (FAILED + "Job aborted. SQLSTATE: XXKST", "Job aborted."),
    ],
)
def test_why_a_query_died_is_one_line(said, explained):
    assert explain(RuntimeError(said + PLAN), cure="the cure") == explained


def test_what_fails_is_started_again_after_a_pause_that_doubles():
    begun: list[float] = []
    now_s = 0.0

    def begin() -> object:
        begun.append(now_s)
        raise UserError("not now")

    job = Job("windows", begin, "the cure")
    while now_s < 100:
        job.start_if_due(now_s)
        now_s += 0.5
    assert begun == [0, 1, 3, 7, 15, 31, 61, 91]
    assert job.reason == "not now"


@pytest.mark.parametrize(
    ("message", "failed", "counting", "under_way"),
    [
        (None, None, False, False),
        ("Initializing sources", None, False, False),
        ("Processing new data", None, False, False),
        ("Processing new data", None, True, True),
        ("Waiting for data to arrive", None, False, True),
        (None, "its checkpoint is damaged", False, True),
    ],
)
def test_alerts_begin_once_the_windows_are_under_way(message, failed, counting, under_way):
    job = Job("windows", lambda: SimpleNamespace(status={"message": message}), "the cure")
    if message:
        job.start_if_due(0)
    if failed:
        job.failed(UserError(failed), 0)
    counts = Event()
    if counting:
        counts.set()
    dashboard = SimpleNamespace(_windows=job, _counting=counts)
    assert Processing._windows_are_under_way(dashboard) is under_way  # type: ignore[arg-type]
