"""The menu and its questions."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import pytest

from iot.loadtest import menu
from iot.loadtest.flags import at_most
from iot.loadtest.menu import Choice
from iot.loadtest.plan import COURSE_MESSAGES, COURSE_THREADS


def test_a_question_is_repeated_and_enter_takes_the_default(monkeypatch, capsys):
    answers = iter(["many\n", "-1\n", "99999\n", "1,200\n", "\n"])
    monkeypatch.setattr(menu, "read_line", lambda prompt, stop: next(answers))
    parse = at_most(50_000)
    stop = threading.Event()
    assert menu.ask("Readings", parse, COURSE_MESSAGES, stop) == 1_200
    said = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in said] == [
        "'many' is not a whole number above zero",
        "'-1' is not a whole number above zero",
        "99,999 is too many: at most 50,000",
    ]
    assert menu.ask("Readings", parse, COURSE_MESSAGES, stop) == 99_990
    assert (COURSE_MESSAGES, COURSE_THREADS) == (99_990, 18)


def choose(monkeypatch, answers: list[str], stop: threading.Event) -> list[Choice]:
    lines = iter(answers)

    def read_line(prompt: str, stop: threading.Event) -> str:
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    monkeypatch.setattr(menu, "read_line", read_line)
    return list(menu.choices(None, [2], stop))


def test_the_menu_offers_tests_until_exit(monkeypatch, capsys):
    chosen = choose(monkeypatch, ["10\n", "1\n", "5\n", "300\n", "\n", "0\n", "1\n"], threading.Event())
    assert chosen == [Choice("burst", None, [2]), Choice("custom", 300, [18])]
    assert "'10' is not in the menu: type a number from 0 to 9" in capsys.readouterr().out


def test_the_menu_ends_with_its_input(monkeypatch):
    assert choose(monkeypatch, ["5\n", "300\n"], threading.Event()) == []


def test_a_stopped_menu_asks_nothing(monkeypatch):
    stop = threading.Event()
    stop.set()
    assert choose(monkeypatch, ["1\n"], stop) == []


@pytest.fixture
def typed(monkeypatch):
    """Give the menu a pipe as its standard input; returns the end to type into."""
    reader, writer = os.pipe()
    monkeypatch.setattr(menu, "STANDARD_INPUT", reader)
    monkeypatch.setattr(menu, "_typed", bytearray())
    yield writer
    os.close(reader)
    with suppress(OSError):
        os.close(writer)


def test_lines_are_read_one_by_one_whatever_their_bytes_are(typed):
    os.write(typed, b"1\n\xff\xfe \xc3\n\n" + "é".encode() * 3_000 + b"\nlast")
    os.close(typed)
    stop = threading.Event()
    lines = [menu.read_line("", stop) for _ in range(5)]
    assert lines == ["1", "\ufffd\ufffd \ufffd", "", "é" * 3_000, "last"]
    with pytest.raises(EOFError):
        menu.read_line("", stop)


def test_a_stop_ends_the_wait_for_a_line_and_half_of_a_line(typed):
    os.write(typed, b"half")
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(EOFError):
        menu.read_line("", stop)


def test_bytes_that_are_no_text_are_a_wrong_choice(typed, capsys):
    os.write(typed, b"\xff1\n\x1b[2J\n\xf0\x9f\n1\n0\n")
    assert list(menu.choices(None, None, threading.Event())) == [Choice("burst", None, None)]
    said = capsys.readouterr().out
    assert said.count("is not in the menu") == 3
    assert "\x1b" not in said


@pytest.mark.parametrize("how", ["empty", "closed", "for writing"])
def test_a_standard_input_without_a_line_ends_the_menu_with_a_hint(how, typed, capsys, monkeypatch, tmp_path):
    if how == "empty":
        os.close(typed)
    elif how == "closed":
        monkeypatch.setattr(menu, "STANDARD_INPUT", 9_999)
    else:
        monkeypatch.setattr(menu, "STANDARD_INPUT", os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT))
    assert list(menu.choices(None, None, threading.Event())) == []
    assert "nothing to choose with: the standard input is empty; --test runs a test" in capsys.readouterr().out
