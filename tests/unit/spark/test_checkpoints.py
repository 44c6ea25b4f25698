"""What stands beside Spark's checkpoints."""

from __future__ import annotations

import pytest

from iot.batches import Identity
from iot.settings import UserError
from iot.spark import checkpoints
from iot.spark.checkpoints import CheckpointNotes, lock, read_notes, write_notes

OURS = Identity("iot-sensors", "topic-id")


def test_notes_are_read_as_they_were_written(tmp_path):
    notes = CheckpointNotes(OURS, {0: 17, 2: 3}, "state")
    write_notes(tmp_path / "new", notes)
    assert read_notes(tmp_path / "new") == notes
    assert read_notes(tmp_path / "none") is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"start": {}}', b"\xff"])
def test_damaged_notes_are_an_error_that_says_how_to_reset(tmp_path, content):
    (tmp_path / checkpoints.NOTES).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*iot-notes\.json.*to reset: rm -r"):
        read_notes(tmp_path)


def test_notes_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*choose another folder with --checkpoint-dir"):
        write_notes(tmp_path / "file" / "folder", CheckpointNotes(OURS, {}))


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Identity("elsewhere", "topic-id"), "the checkpoint is of topic elsewhere, not iot-sensors; reset it"),
        (Identity("iot-sensors", "older"), "the checkpoint is of an earlier topic iot-sensors, which was deleted"),
    ],
)
def test_another_topic_is_refused(found, why):
    OURS.require(OURS, "the checkpoint", "reset it")
    with pytest.raises(UserError, match=why):
        OURS.require(found, "the checkpoint", "reset it")


def test_only_one_process_uses_the_state(tmp_path):
    with lock(tmp_path, "script"), pytest.raises(UserError, match=r"is already running .*\(process \d+\)"):
        lock(tmp_path, "script")
    lock(tmp_path, "script").close()
