"""What stands beside Spark's checkpoints."""

from __future__ import annotations

import pytest

from iot.batches import Identity
from iot.owner import InUse, this_process
from iot.settings import UserError
from iot.spark import checkpoints
from iot.spark.checkpoints import CheckpointNotes, is_empty, lock, read_notes, set_aside, write_notes

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


def test_notes_that_cannot_be_read_are_not_called_damaged(tmp_path):
    (tmp_path / checkpoints.NOTES).mkdir()
    with pytest.raises(UserError, match=r"cannot read .*iot-notes\.json: .*; choose another folder with") as no:
        read_notes(tmp_path)
    assert "rm " not in str(no.value)


def test_only_one_process_uses_the_state(tmp_path):
    root = tmp_path / "new"
    with lock(root, this_process("script"), "stop it") as leases:
        with (
            pytest.raises(InUse, match=rf"the checkpoint folder {root} is in use by script on .*: stop it"),
            lock(root, this_process("script"), "stop it"),
        ):
            pytest.fail("both run")
        leases.require()
        # Each script has checkpoints of its own.
        with lock(root, this_process("another script"), "stop it"):
            assert len(list(root.iterdir())) == 2
    # It left nothing behind.
    assert not root.exists()


def test_a_checkpoint_that_is_a_link_is_locked_where_it_leads_to(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "windows").symlink_to(tmp_path / "shared" / "windows")
    (tmp_path / "shared").mkdir()
    with (
        lock(tmp_path / "one", this_process("script"), "fix", checkpoints=("windows",)),
        pytest.raises(InUse, match=rf"the checkpoint folder {tmp_path}/shared is in use"),
        lock(tmp_path / "two", this_process("script"), "fix", checkpoints=("windows",)),
    ):
        pytest.fail("both run")


def test_a_folder_that_is_set_aside_keeps_its_files_and_leaves_an_empty_one(tmp_path):
    for number in range(2):
        folder = tmp_path / "a b"
        folder.mkdir(exist_ok=True)
        assert is_empty(folder)
        (folder / "offsets").write_text(str(number))
        assert not is_empty(folder)
        set_aside(folder, "now")
        assert is_empty(folder)
    assert (tmp_path / "a b.before-now" / "offsets").read_text() == "0"
    assert (tmp_path / "a b.before-now-2" / "offsets").read_text() == "1"
