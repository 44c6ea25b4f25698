"""Constants and types for all modules: addresses, topics, windows, folders, and errors that users can fix."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

BOOTSTRAP_SERVERS = "localhost:9092"
READINGS_TOPIC = "iot-sensors"
ALERTS_TOPIC = "iot-alerts"
ALARMS_TOPIC = "iot-alarms"
REJECTED_TOPIC = "iot-sensors-rejected"
# The number of partitions of each topic that the scripts create.
PARTITIONS = 3

WINDOW_S = 30
SLIDE_S = 10
WATERMARK_S = 5
FUTURE_TOLERANCE_S = 60


def is_writable_folder(folder: Path) -> bool:
    """Whether a folder is there in which this user can create files."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def private_folder(parent: Path) -> Path | None:
    """Return a folder in ``parent`` that only this user can write, created if missing; None where there is none."""
    folder = parent / f"iot-{os.getuid()}"
    with suppress(OSError):
        with suppress(FileExistsError):
            folder.mkdir(0o700)
        found = folder.lstat()
        # Everybody can create a folder, or a link to one, in /tmp.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            if stat.S_IMODE(found.st_mode) != 0o700:
                folder.chmod(0o700)
            return folder if is_writable_folder(folder) else None
    return None


def _folder(variable: str, usual: Callable[[str], str]) -> Path:
    """Return the folder that a variable names, else the user's, else one for temporary files.

    A user without a home, as in many containers, has no folder that can be created.
    """
    if given := os.environ.get(variable):
        return Path(given).absolute()
    folder = Path()
    with suppress(RuntimeError):
        # platformdirs raises this for a user without a home.
        folder = Path(usual("iot-streaming"))
    if folder.is_absolute():
        there = next((parent for parent in (folder, *folder.parents) if os.path.exists(parent)), folder)  # noqa: PTH110  # it never raises
        if there == folder or is_writable_folder(there):
            return folder
    with suppress(OSError):
        if private := private_folder(Path(tempfile.gettempdir())):
            return private / variable.removeprefix("IOT_").removesuffix("_DIR").lower()
    # It cannot be created, and the message about that names the variable.
    return Path("/nonexistent/iot-streaming")


CACHE_DIR = _folder("IOT_CACHE_DIR", platformdirs.user_cache_dir)
LOG_DIR = _folder("IOT_LOG_DIR", platformdirs.user_log_dir)
DATA_DIR = _folder("IOT_DATA_DIR", platformdirs.user_data_dir)


class UserError(Exception):
    """An error that the user can fix. Its text is one line: what failed, on what, and how to fix it."""


@dataclass(frozen=True)
class Kafka:
    """How to reach Kafka: ``host:port`` addresses with commas between them, and Kafka's own client properties."""

    bootstrap_servers: str = BOOTSTRAP_SERVERS
    properties: dict[str, str] = field(default_factory=dict, repr=False)


def reason(error: BaseException) -> str:
    """Return an error's message on one line, or its class name if it has no message."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
