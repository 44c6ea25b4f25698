"""Log files of child processes: two processes never write the same one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO

from iot.lock_file import try_lock
from iot.settings import UserError, reason


def open_log(log: Path) -> tuple[Path, IO[bytes]]:
    """Empty and open a log file that no other process writes: ``log`` itself, else ``NAME-2``, ``NAME-3`` and so on.

    A child that inherits the file as its output keeps it reserved until it ends.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        for path in _names(log):
            file = path.open("ab")
            # A file system without locks gives no answer.
            if try_lock(file.fileno()) is not False:
                file.truncate(0)
                return path, file
            file.close()
    except OSError as error:
        raise UserError(f"cannot write {log}: {reason(error)}; set IOT_LOG_DIR to another folder") from error
    raise AssertionError("there is always another name")


def _names(log: Path) -> Iterator[Path]:
    yield log
    yield from (log.with_name(f"{log.stem}-{number}{log.suffix}") for number in count(2))
