"""The files of a load test: checked first, replaced only by a complete result, and never lost."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from iot.loadtest.outputs import require_outputs, save, text_elsewhere, write
from iot.settings import UserError


@pytest.mark.parametrize("name", ["", "none/x.json", "file/x.json"])
@pytest.mark.parametrize("flag", ["--output", "--report"])
def test_a_file_that_cannot_be_written_is_an_error_with_its_flag(name, flag, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / name
    with pytest.raises(UserError, match=f"cannot write {path}: .* choose another file with {flag}$"):
        require_outputs(path if flag == "--output" else None, path if flag == "--report" else None, None)


def test_output_and_report_are_two_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("")
    (tmp_path / "link").symlink_to("there")
    os.link("there", "hard")
    pairs = [("x", "x"), ("x", f"{tmp_path}/x"), ("link", "there"), ("hard", "there"), ("-", "/dev/stdout")]
    for output, report in pairs:
        with pytest.raises(UserError, match="--output and --report are the same file"):
            require_outputs(Path(output), Path(report), None)
        with pytest.raises(UserError, match="--compare and --report are the same file"):
            require_outputs(None, Path(report), Path(output))
    require_outputs(Path("x"), Path("there"), Path("x"))


def test_a_file_is_replaced_only_by_the_whole_content(tmp_path, monkeypatch):
    path = tmp_path / "old.json"
    path.write_text("old")
    path.chmod(0o640)
    write(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o640)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, b"newer")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_pipes_are_kept(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    require_outputs(pipe, None, None)
    with pytest.raises(OSError, match="No such device"):
        write(pipe, b"nobody reads it")
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        write(pipe, b"content")
        assert reader.read() == b"content"
    assert pipe.is_fifo()
    receiver, sender = os.pipe()
    write(Path(f"/dev/fd/{sender}"), b"to a process")
    os.close(sender)
    with open(receiver, "rb") as reader:
        assert reader.read() == b"to a process"


def test_results_that_cannot_be_written_are_saved_elsewhere(tmp_path, monkeypatch, capfd):
    gone = tmp_path / "gone" / "r.json"
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        assert not save(gone, b'{"tests": []}', "results")
    said = capfd.readouterr().err
    assert said.startswith(f"error: cannot write {gone}: No such file or directory; the results are in {tmp_path}")
    assert said.count("\n") == 1
    [saved] = tmp_path.iterdir()
    assert str(saved) in said
    assert (saved.suffix, saved.read_bytes()) == (".json", b'{"tests": []}')

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        assert not save(gone, b'{"tests": []}', "results")
    out, err = capfd.readouterr()
    assert out == '{"tests": []}\n'
    assert err.endswith("the results are printed above instead\n")


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_results_on_the_standard_output_stand_there_alone(name, capfd):
    with text_elsewhere(None, Path(name)):
        print("a table")
        assert save(Path(name), b"{}", "results")
    assert capfd.readouterr() == ("{}\n", f"a table\nresults in {name}\n")
