"""The output of a running script: lines that scroll, and below them a status that updates in place.

On a terminal, the status is redrawn a few times a second. In a pipe or file, it is printed now and then as plain text.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

# How often to redraw the status on a terminal.
REDRAW_S = 0.25
# How often to print the status into a pipe or file.
PLAIN_EVERY_S = 10.0


class StatusLine:
    """Print lines above a status of one or more lines of text.

    It is a context manager: the status is shown inside the ``with`` block, and wiped at its end.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        plain_every_s: float = PLAIN_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stdout
        self._clock = clock
        console = Console(file=self._stream, highlight=False, markup=False, emoji=False)
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._every_s = REDRAW_S if self._live else plain_every_s
        self._due_s = clock() + self._every_s
        # Show an escape for a character that the terminal's encoding lacks, instead of raising an error.
        if reconfigure := getattr(self._stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")

    def __enter__(self) -> StatusLine:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    @property
    def is_live(self) -> bool:
        """Whether the status updates in place. Otherwise each update scrolls."""
        return self._live is not None

    def print(self, *lines: str) -> None:
        """Print lines above the status."""
        if not lines:
            return
        text = "\n".join(lines)
        if self._live:
            self._live.console.print(Text(text), soft_wrap=True)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def update(self, render: Callable[[], str]) -> None:
        """Show ``render()`` as the status if a redraw is due. It is cheap to call this often."""
        now_s = self._clock()
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._every_s
        if self._live:
            self._live.update(Text(render(), no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self.print(render())


def printable(text: str) -> str:
    """Escape control characters, so that text from a message cannot control the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class StartLog:
    """Prints lines, each with the time since the start."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun_s:6.1f} s  {text}", flush=True)
