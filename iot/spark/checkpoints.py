"""What stands beside Spark's checkpoints: whose they are, what the next batch has to know, and one user at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

import msgspec

from iot.batches import Context, Identity, Report
from iot.settings import UserError, reason

CHECKPOINT_ROOT = Path("/tmp")
NOTES = "iot-notes.json"
# After a power cut Spark may have to do more than its last batch again.
KEPT_CONTEXTS = 8


class Notes(msgspec.Struct):
    """What ``read_notes`` and ``write_notes`` keep in a checkpoint's folder."""

    identity: Identity
    start: dict[int, int]
    """By partition of the topic, the offset at which reading began."""
    contexts: dict[int, Context] = {}
    state_id: str = ""
    """Ties a checkpoint to the database that has its results."""


def contexts_after(known: dict[int, Context], batch_id: int, report: Report) -> dict[int, Context]:
    """The contexts to keep with a batch: of the one after it, of itself and of some before, should they come again.

    Args:
        known: the contexts kept with the batch before; none where this is the first.
    """
    first = batch_id + 2 - KEPT_CONTEXTS
    before = {number: context for number, context in known.items() if first <= number <= batch_id}
    return {batch_id: Context()} | before | {batch_id + 1: report.context()}


def read_notes(checkpoint: Path) -> Notes | None:
    """The notes of a checkpoint; None where it is new.

    Raises:
        UserError: the folder holds something else, or the notes are damaged.
    """
    try:
        return msgspec.json.decode((checkpoint / NOTES).read_bytes(), type=Notes, strict=False)
    except FileNotFoundError:
        if (checkpoint / "offsets").exists():
            raise UserError(f"{checkpoint} is a checkpoint of another program; {start_afresh(checkpoint)}") from None
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"cannot read {checkpoint / NOTES}: {reason(error)}; {start_afresh(checkpoint)}") from error


def write_notes(checkpoint: Path, notes: Notes) -> None:
    """Keep notes: whole, or as they were.

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


def start_afresh(*folders: Path) -> str:
    """The cure: a command."""
    return f"to start afresh: rm -r {' '.join(map(str, folders))}"


def hold(root: Path, name: str) -> IO[str]:
    """Hold the state below ``root`` of the script ``name`` for as long as the file that this returns is open.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    path = root / f"{name}.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; choose another folder with --checkpoint-dir") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise UserError(
            f"{name} runs already with its state in {root} (process {owner}): "
            "stop that one, or give this one a folder of its own with --checkpoint-dir"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
