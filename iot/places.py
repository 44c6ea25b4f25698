"""Checks before any work that files can be written where they are wanted."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from iot import settings
from iot.settings import UserError, is_writable_folder, reason

# How much is written to find a file system that is full.
TRIAL_BYTES = 4096


def require_writable_folder(folder: Path, fix: str) -> None:
    """Create a folder if it is missing, and write to it.

    Args:
        fix: how to choose another folder; ends the message.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try_to_write(folder)
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {reason(error)}; {fix}") from error


def require_writable_file(path: Path, fix: str) -> None:
    """Check that a file can be written or created; the file stays as it is.

    Args:
        fix: how to choose another file; ends the message.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder; {fix}")
        if not path.parent.is_dir():
            raise UserError(f"cannot write {path}: there is no folder {path.parent}: create it, or {fix}")
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            # From Python 3.14 on, path.exists() is also false for a name that is too long.
            _try_to_write(path.parent)
            return
        if stat.S_ISREG(mode):
            with path.open("r+b"):
                pass
        elif not os.access(path, os.W_OK):
            raise UserError(f"cannot write {path}: Permission denied; {fix}")
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; {fix}") from error


def require_state_folders(root: Path, names: Sequence[str]) -> None:
    """Check that logs can be written, and the checkpoints ``names`` in the folder ``root``.

    Raises:
        UserError: one of them cannot.
    """
    require_writable_folder(settings.LOG_DIR, "set IOT_LOG_DIR to another folder")
    fix = "choose another folder with --checkpoint-dir"
    require_writable_folder(root, fix)
    for checkpoint in (root / name for name in names):
        if checkpoint.exists():
            require_writable_folder(checkpoint, fix)
        for folder, _, _ in os.walk(checkpoint):
            if not is_writable_folder(Path(folder)):
                raise UserError(f"cannot write {folder}, which is read-only or another user's; {fix}")


def _try_to_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(TRIAL_BYTES))
