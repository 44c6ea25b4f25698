"""The numbered menu on the terminal: it asks which test to run, and how large the custom test is."""

from __future__ import annotations

import argparse
import os
import select
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from iot.loadtest.flags import MAX_MESSAGES, MAX_THREADS, at_most
from iot.loadtest.plan import COURSE_MESSAGES, COURSE_THREADS
from iot.settings import reason
from iot.terminal import printable

MENU = {
    "1": ("burst", "Burst: 1,000 readings, 4 threads"),
    "2": ("high-volume", "High volume: 10,000 readings, 8 threads"),
    "3": ("stress", "Stress: 50,000 readings, 16 threads"),
    "4": ("sustained", "Sustained: 100 readings a second for 60 s"),
    "5": ("custom", "Custom: as many readings and threads as you like"),
    "6": ("compare", "Compare with Kafka's own tool and the course's method"),
    "7": ("end-to-end", "End to end: through a running dashboard"),
    "8": ("max-rate", "Maximum rate: the highest rate that a running dashboard takes"),
    "9": ("backlog", "Backlog: how fast a stopped application catches up"),
    "0": ("", "Exit"),
}
TESTS = tuple(test for test, _ in MENU.values() if test)
# How often a question checks whether the script was stopped.
LOOK_S = 0.05
STANDARD_INPUT = 0

# What was read from the standard input beyond the last line.
_typed = bytearray()

T = TypeVar("T")


class Choice(NamedTuple):
    """A test to run; None stands for the test's own number of messages or threads."""

    test: str
    messages: int | None
    threads: list[int] | None


def choices(messages: int | None, threads: list[int] | None, stop: threading.Event) -> Iterator[Choice]:
    """Ask for one test after the other, until the user exits, the input ends or ``stop`` is set.

    Args:
        messages, threads: from the command line. The custom test offers ``messages`` as its default.
    """
    print("Load tests of the IoT pipeline")
    answered = False
    while not stop.is_set():
        print("\n".join(["", *(f"  {number}  {about}" for number, (_, about) in MENU.items())]))
        try:
            number = read_line("Your choice: ", stop).strip()
            answered = True
            if number not in MENU:
                print(f"  {printable(number)!r} is not in the menu: type a number from 0 to 9")
                continue
            test, _ = MENU[number]
            if not test:
                return
            chosen = Choice(test, messages, threads)
            if test == "custom":
                count = ask("Readings", at_most(MAX_MESSAGES), messages or COURSE_MESSAGES, stop)
                chosen = Choice(test, count, [ask("Threads", at_most(MAX_THREADS), COURSE_THREADS, stop)])
        except EOFError:
            if not answered and not stop.is_set():
                print("nothing to choose with: the standard input is empty; --test runs a test without the menu")
            return
        yield chosen


def ask(question: str, parse: Callable[[str], T], default: T, stop: threading.Event) -> T:
    """Ask until the answer is valid; Enter takes the default.

    Raises:
        EOFError: the input has ended, or ``stop`` is set.
    """
    while True:
        answer = read_line(f"{question} [{default:,}]: ", stop).strip()
        if not answer:
            return default
        try:
            return parse(answer.replace(",", ""))
        except argparse.ArgumentTypeError as error:
            print(f"  {error}")


def read_line(prompt: str, stop: threading.Event) -> str:
    """Read one line from the terminal.

    Raises:
        EOFError: the input has ended, or ``stop`` is set while waiting.
    """
    print(prompt, end="", flush=True)
    watched = select.poll()
    watched.register(STANDARD_INPUT, select.POLLIN)
    while b"\n" not in _typed:
        # Only what is there is read, because nothing interrupts a read that waits.
        while not watched.poll(LOOK_S * 1000) and not stop.is_set():
            pass
        try:
            more = b"" if stop.is_set() else os.read(STANDARD_INPUT, 4_096)
        except BlockingIOError:
            continue
        except OSError as error:
            # The terminal is gone, or the standard input was opened for writing.
            print(f"\n  cannot read the standard input: {reason(error)}")
            raise EOFError from error
        if not more and (stop.is_set() or not _typed):
            print()
            raise EOFError
        _typed.extend(more or b"\n")
    line, _, rest = _typed.partition(b"\n")
    _typed[:] = rest
    return line.decode(errors="replace")
