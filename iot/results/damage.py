"""Find out whether a file of SQLite is really damaged. One error of SQLite alone does not prove it."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from iot.settings import reason

# How long a check counts. It reads the whole file, and a database that fails is used again every second.
CHECKED_S = 60.0
CHECKS = ("quick_check", "integrity_check")


class DamageCheck:
    """Checks a file at most every ``CHECKED_S``; several threads may use it."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.file = file
        self._clock = clock
        self._mutex = threading.Lock()
        self._due_s = float("-inf")
        self._found = ""

    def find(self) -> str:
        """Return what is damaged; empty if the file is sound.

        Raises:
            sqlite3.Error: the file cannot be checked now.
        """
        with self._mutex:
            if self._clock() >= self._due_s:
                self._found = find_damage(self.file)
                self._due_s = self._clock() + CHECKED_S
            return self._found


def find_damage(file: Path) -> str:
    """As ``DamageCheck.find``, without a memory."""
    connection = sqlite3.connect(f"file:{quote(os.fsencode(file))}?mode=rw", uri=True)
    try:
        for check in CHECKS:
            [found] = connection.execute(f"PRAGMA {check}(1)").fetchone()
            if found != "ok":
                return " ".join(found.split())
    except sqlite3.DatabaseError as error:
        # The low byte is the kind of error.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return reason(error)
        raise
    finally:
        connection.close()
    return ""
