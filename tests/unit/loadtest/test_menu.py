"""The menu and its questions."""

from __future__ import annotations

import threading

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
    chosen = choose(monkeypatch, ["9\n", "1\n", "5\n", "300\n", "\n", "0\n", "1\n"], threading.Event())
    assert chosen == [Choice("burst", None, [2]), Choice("custom", 300, [18])]
    assert "'9' is not in the menu: type a number from 0 to 7" in capsys.readouterr().out


def test_the_menu_ends_with_its_input(monkeypatch):
    assert choose(monkeypatch, ["5\n", "300\n"], threading.Event()) == []


def test_a_stopped_menu_asks_nothing(monkeypatch):
    stop = threading.Event()
    stop.set()
    assert choose(monkeypatch, ["1\n"], stop) == []
