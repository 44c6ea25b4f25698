"""Checks that files can be written, before any work."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from iot import places, settings
from iot.settings import UserError

FIX = "choose another with --flag"


def test_a_new_file_and_a_new_folder_are_accepted_and_leave_no_trace(tmp_path):
    places.require_writable_file(tmp_path / "new.json", FIX)
    assert list(tmp_path.iterdir()) == []
    places.require_writable_folder(tmp_path / "a" / "b c", FIX)
    assert list((tmp_path / "a" / "b c").iterdir()) == []


def test_a_file_that_is_there_stays_as_it_is(tmp_path):
    path = tmp_path / "old"
    path.write_text("content")
    places.require_writable_file(path, FIX)
    assert path.read_text() == "content"
    places.require_writable_file(Path("/dev/null"), FIX)


def test_what_cannot_be_written_is_named_with_the_fix(tmp_path):
    (tmp_path / "file").write_text("")
    for path, why in {
        tmp_path: "it is a folder",
        tmp_path / "none" / "x": "there is no folder",
        tmp_path / "file" / "x": "there is no folder",
        Path("/proc/new"): "",
        tmp_path / ("n" * 300): "File name too long",
    }.items():
        with pytest.raises(UserError, match=rf"^cannot write .*{why}.*{FIX}$"):
            places.require_writable_file(path, FIX)
    for folder in (tmp_path / "file", tmp_path / "file" / "x", Path("/proc/new")):
        with pytest.raises(UserError, match=rf"^cannot write to the folder {folder}: .*; {FIX}$"):
            places.require_writable_folder(folder, FIX)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_file_system_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(UserError, match="No space left on device"):
        places.require_writable_folder(tmp_path, FIX)
    with pytest.raises(UserError, match="No space left on device"):
        places.require_writable_file(tmp_path / "new", FIX)


def test_state_folders_name_the_flag_or_the_variable(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "LOG_DIR", tmp_path / "log")
    places.require_state_folders(tmp_path / "state", ["one", "two"])
    assert list((tmp_path / "state").iterdir()) == []
    (tmp_path / "state" / "two").write_text("a file")
    with pytest.raises(UserError, match=r"state/two: .*--checkpoint-dir$"):
        places.require_state_folders(tmp_path / "state", ["one", "two"])
    monkeypatch.setattr(settings, "LOG_DIR", tmp_path / "state" / "two")
    with pytest.raises(UserError, match=r"state/two: .*IOT_LOG_DIR to another folder$"):
        places.require_state_folders(tmp_path / "state", [])
