"""What stands beside Spark's checkpoints: which topic they are about, and a lock for one user at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

import msgspec

from iot.batches import Identity, Offsets
from iot.settings import UserError, reason

CHECKPOINT_ROOT = Path("/tmp")
NOTES = "iot-notes.json"


class CheckpointNotes(msgspec.Struct):
    """The notes in a checkpoint's folder."""

    identity: Identity
    start: Offsets
    """The offset at which reading began, by partition of the topic."""
    state_id: str = ""
    """Ties a checkpoint to the database that has its results."""


def read_notes(checkpoint: Path) -> CheckpointNotes | None:
    """The notes of a checkpoint; None where it is new.

    Raises:
        UserError: the folder holds something else, or the notes are damaged.
    """
    try:
        return msgspec.json.decode((checkpoint / NOTES).read_bytes(), type=CheckpointNotes, strict=False)
    except FileNotFoundError:
        if (checkpoint / "offsets").exists():
            raise UserError(f"{checkpoint} is a checkpoint of another program; {how_to_reset(checkpoint)}") from None
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"cannot read {checkpoint / NOTES}: {reason(error)}; {how_to_reset(checkpoint)}") from error


def write_notes(checkpoint: Path, notes: CheckpointNotes) -> None:
    """Store notes, completely or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        checkpoint.mkdir(parents=True, exist_ok=True)
        new = checkpoint / f"{NOTES}.new"
        new.write_bytes(msgspec.json.encode(notes))
        new.replace(checkpoint / NOTES)
    except OSError as error:
        raise UserError(
            f"cannot write {checkpoint}: {reason(error)}; choose another folder with --checkpoint-dir"
        ) from error


def how_to_reset(*paths: Path) -> str:
    """The command that removes this state, for messages."""
    return f"to reset: rm -r {' '.join(map(str, paths))}"


def lock(root: Path, name: str) -> IO[str]:
    """Lock the state below ``root`` for the script ``name``, until the returned file is closed.

    Raises:
        UserError: another process has it, or the folder cannot be written.
    """
    path = root / f"{name}.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; choose another folder with --checkpoint-dir") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise UserError(
            f"{name} is already running with its state in {root} (process {owner}): "
            "stop it, or choose another folder with --checkpoint-dir"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
