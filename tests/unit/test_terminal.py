"""Lines that scroll above a status, on a terminal and in a pipe."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iot.terminal import REDRAW_S, StatusLine, printable


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_pipe_the_status_is_printed_now_and_then():
    out, clock = io.StringIO(), Clock()
    with StatusLine(out, plain_every_s=10, clock=clock) as status:
        status.print("one", "two")
        for second in range(21):
            clock.now_s = float(second)
            status.update(lambda: f"at {clock.now_s:.0f}")
    assert out.getvalue() == "one\ntwo\nat 10\nat 20\n"


def test_a_status_that_is_not_due_is_not_rendered():
    with StatusLine(io.StringIO(), clock=Clock()) as status:
        status.update(lambda: pytest.fail("rendered"))


def test_nothing_to_print_prints_nothing():
    out = io.StringIO()
    with StatusLine(out) as status:
        status.print()
    assert out.getvalue() == ""


def test_on_a_terminal_the_status_is_redrawn_in_place_and_wiped(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out, clock = Terminal(), Clock()
    with StatusLine(out, clock=clock) as status:
        clock.now_s += REDRAW_S
        status.update(lambda: "first\nsecond line")
        status.print("[bold]a line[/] :smile:")
        clock.now_s += REDRAW_S
        status.update(lambda: "third\nfourth line")
    shown = out.getvalue()
    assert "[bold]a line[/] :smile:\n" in shown, "markup in a line is printed as it is"
    # Each redraw erases both lines of the status, and so does leaving.
    assert shown.index("first") < shown.index("a line") < shown.index("third")
    assert shown.rstrip().endswith("\x1b[2K")


def test_a_character_that_the_encoding_lacks_is_escaped():
    script = "from iot.terminal import StatusLine\nwith StatusLine() as status:\n    status.print('°C ä 日本')"
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], env=environment, capture_output=True, check=True
    )
    assert ran.stdout == "°C ä ".encode("latin-1") + b"\\u65e5\\u672c\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("°C ä 日本 😀", "°C ä 日本 😀"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202eabc", r"\u202eabc"),
        ("\x9b31m", r"\x9b31m"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown
