"""What stands beside Spark's checkpoints."""

from __future__ import annotations

import pytest

from iot.batches import Context, Identity, Report
from iot.settings import UserError
from iot.spark import checkpoints
from iot.spark.checkpoints import KEPT_CONTEXTS, Notes, contexts_after, hold, read_notes, write_notes

OURS = Identity("iot-sensors", "topic-id")


def test_notes_are_read_as_they_were_written(tmp_path):
    notes = Notes(OURS, {0: 17, 2: 3}, {4: Context(5_000, ["temperature"], ["hall"])}, "state")
    write_notes(tmp_path / "new", notes)
    assert read_notes(tmp_path / "new") == notes
    assert read_notes(tmp_path / "none") is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"start": {}}', b"\xff"])
def test_damaged_notes_are_told_with_a_cure(tmp_path, content):
    (tmp_path / checkpoints.NOTES).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*iot-notes\.json.*to start afresh: rm -r"):
        read_notes(tmp_path)


def test_notes_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*choose another folder with --checkpoint-dir"):
        write_notes(tmp_path / "file" / "folder", Notes(OURS, {}))


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Identity("elsewhere", "topic-id"), "the checkpoint is of topic elsewhere, not iot-sensors; start afresh"),
        (Identity("iot-sensors", "older"), "the checkpoint is of an earlier topic iot-sensors, which was deleted"),
    ],
)
def test_another_topic_is_refused(found, why):
    OURS.require(OURS, "the checkpoint", "start afresh")
    with pytest.raises(UserError, match=why):
        OURS.require(found, "the checkpoint", "start afresh")


def test_one_at_a_time(tmp_path):
    with hold(tmp_path, "script"), pytest.raises(UserError, match=r"runs already .*\(process \d+\)"):
        hold(tmp_path, "script")
    hold(tmp_path, "script").close()


def test_a_batch_that_comes_again_finds_what_it_was_judged_by():
    known: dict[int, Context] = {}
    for batch_id in range(20):
        known = contexts_after(known, batch_id, Report(newest_us=batch_id * 1_000_000))
        assert len(known) == min(batch_id + 2, KEPT_CONTEXTS)
        assert known[batch_id] == (Context((batch_id - 1) * 1_000_000) if batch_id else Context())
    assert known[13] == Context(12_000_000)
    # The last two come again, and change nothing.
    again = contexts_after(known, 18, Report(newest_us=18_000_000))
    assert again[18] == known[18]
    assert again[19] == known[19]
