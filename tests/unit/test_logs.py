"""Log files of child processes that run at the same time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from iot.logs import open_log
from iot.settings import UserError


def test_two_processes_never_write_the_same_log(tmp_path):
    log = tmp_path / "new" / "producer.log"
    first, output = open_log(log)
    assert first == log
    with output:
        child = subprocess.Popen(
            [sys.executable, "-c", "input(); print('end')"], stdin=subprocess.PIPE, stdout=output, text=True
        )
    # The parent has closed the file, but its child writes it.
    second, other = open_log(log)
    third, another = open_log(log)
    assert (second.name, third.name) == ("producer-2.log", "producer-3.log")
    other.write(b"of the second")
    other.close()
    another.close()
    child.communicate("\n")
    assert log.read_text() == "end\n"
    # Now both are free, and begin again.
    again, output = open_log(log)
    output.close()
    assert (again, log.read_text(), second.read_text()) == (log, "", "of the second")


def test_a_log_that_was_left_by_a_killed_process_is_used_again(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("old")
    path, output = open_log(log)
    output.close()
    assert (path, log.read_text()) == (log, "")


def test_a_folder_that_cannot_be_written_is_one_line_with_the_variable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*: .*; set IOT_LOG_DIR to another folder"):
        open_log(tmp_path / "file" / "x.log")
