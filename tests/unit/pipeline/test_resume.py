"""Whether checkpoints and database belong to the same run."""

from __future__ import annotations

from pathlib import Path

import pytest

from iot.batches import Identity
from iot.pipeline.resume import how_to_reset_all, resume
from iot.results.store import Store
from iot.settings import UserError
from iot.spark.checkpoints import CheckpointNotes, read_notes, write_notes

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
    start, line = resume(store, folders, identity, "results.db", lambda: START)
    assert start == START
    assert store.identity()[0] == identity
    assert all(read_notes(folder).state_id == store.identity()[1] for folder in folders)
    return line


def test_a_run_is_resumed_if_checkpoints_and_database_belong_together(store, folders):
    assert begin(store, folders) is None
    state = store.identity()
    (folders[0] / "offsets").mkdir()
    assert resume(store, folders, OURS, "results.db", lambda: pytest.fail("a new run began")) == (START, None)
    assert store.identity() == state


@pytest.mark.parametrize("left", ["one", "database"])
def test_what_is_there_alone_starts_how_to_reset_all(store, folders, tmp_path, left):
    begin(store, folders)
    state = store.identity()
    write_notes(folders[1], CheckpointNotes(OURS, START, state_id="another"))
    if left == "one":
        (tmp_path / "results.db").unlink()
    else:
        for folder in folders:
            (folder / "iot-notes.json").unlink()
    assert begin(store, folders).startswith("reset all state: only ")
    assert store.identity() != state


def test_a_topic_that_was_made_again_is_refused_until_the_checkpoints_are_gone(store, folders):
    begin(store, folders, EARLIER)
    with pytest.raises(UserError, match=r"is of an earlier topic iot-sensors.*; to reset: rm -r \S+ \S+ results.db"):
        begin(store, folders)
    # Without checkpoints nothing can be mixed up, and the database may be one that has no file to remove.
    for folder in folders:
        (folder / "iot-notes.json").unlink()
    assert begin(store, folders) == "reset all state: only database of an earlier run was there, or of several runs"


def test_the_results_of_another_topic_are_not_reset(store, folders):
    begin(store, folders, Identity("elsewhere", "other-id"))
    for folder in folders:
        (folder / "iot-notes.json").unlink()
    with pytest.raises(UserError, match="the results database is of topic elsewhere, not iot-sensors"):
        begin(store, folders)


def test_the_message_has_the_command_that_resets_everything():
    assert how_to_reset_all([Path("/a"), Path("/b")], "/c.db") == "to reset: rm -r /a /b /c.db"
    assert how_to_reset_all([Path("/a"), Path("/b")], "") == "to reset: rm -r /a /b"
