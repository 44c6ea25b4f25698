"""What stands beside Spark's checkpoints: which topic they are about, and a lock for one user at a time."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from iot.batches import Identity, Offsets
from iot.lease import Lease
from iot.owner import Leases, Owner, Protected
from iot.settings import UserError, reason

CHECKPOINT_ROOT = Path("/tmp")
NOTES = "iot-notes.json"
# What is added to the name of state that is set aside, with a date.
KEPT = ".before-"


class CheckpointNotes(msgspec.Struct):
    """The notes in a checkpoint's folder."""

    identity: Identity
    start: Offsets
    """The offset at which reading began, by partition of the topic."""
    state_id: str = ""
    """Ties a checkpoint to the database that has its results."""
    database: str = ""
    """The name of that database; empty in notes of an earlier version."""
    database_id: str = ""
    """An id of its place; empty if unknown."""


def read_notes(checkpoint: Path) -> CheckpointNotes | None:
    """The notes of a checkpoint; None where it is new.

    Raises:
        UserError: the folder holds something else, or the notes are damaged.
    """
    try:
        return msgspec.json.decode((checkpoint / NOTES).read_bytes(), type=CheckpointNotes, strict=False)
    except FileNotFoundError:
        if (checkpoint / "offsets").exists():
            raise UserError(
                f"{checkpoint} is a checkpoint of another program; choose another folder with --checkpoint-dir"
            ) from None
        return None
    except OSError as error:
        fix = "choose another folder with --checkpoint-dir"
        raise UserError(f"cannot read {checkpoint / NOTES}: {reason(error)}; {fix}") from error
    except msgspec.DecodeError as error:
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


def is_empty(checkpoint: Path) -> bool:
    """Whether a folder holds nothing but perhaps notes, or does not exist.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return not {file.name for file in checkpoint.iterdir()} - {NOTES, f"{NOTES}.new"}
    except FileNotFoundError:
        return True
    except OSError as error:
        fix = "choose another folder with --checkpoint-dir"
        raise UserError(f"cannot read {checkpoint}: {reason(error)}; {fix}") from error


def set_aside(checkpoint: Path, stamp: str) -> Path:
    """Rename the folder of a checkpoint; behind a symbolic link, the folder that it leads to.

    Args:
        stamp: distinguishes the new name from others, such as a date.

    Returns:
        The new path.

    Raises:
        UserError: it cannot be renamed.
    """
    real = checkpoint.resolve()
    aside, number = real.with_name(f"{real.name}{KEPT}{stamp}"), 1
    while aside.exists():
        number += 1
        aside = real.with_name(f"{real.name}{KEPT}{stamp}-{number}")
    try:
        real.rename(aside)
        # A symbolic link must lead to a folder.
        real.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot rename {real}: {reason(error)}; choose another folder with --checkpoint-dir"
        ) from error
    return aside


def how_to_reset(*paths: Path) -> str:
    """The command that removes this state, for messages."""
    return f"to reset: rm -r -- {shlex.join(map(str, paths))}"


@contextmanager
def lock(
    root: Path,
    owner: Owner,
    fix: str,
    *,
    checkpoints: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Iterator[Leases]:
    """Make this process the only one that writes the checkpoints below ``root``, until the end of the block.

    Args:
        fix: what to do if another process owns them.
        checkpoints: their names. One that is a link to a folder elsewhere is locked there too.
        say: prints a line.
        stop: ends the wait for the end of an owner on another machine.

    Raises:
        InUse: another process owns them.
        UserError: the folder cannot be written.
    """
    is_new = not root.exists()
    try:
        with ExitStack() as stack:
            leases = [
                stack.enter_context(_lease(folder, owner, Protected(f"the checkpoint folder {folder}", fix), say, stop))
                for folder in _folders(root, checkpoints)
            ]
            yield Leases(*leases)
    finally:
        if is_new:
            # A process that was refused leaves nothing behind. A folder that is not empty stays.
            with suppress(OSError):
                root.rmdir()


def _folders(root: Path, checkpoints: tuple[str, ...]) -> list[Path]:
    """The folders with locks; sorted, so that two processes never wait for each other."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        return sorted({root.resolve(), *((root / name).resolve().parent for name in checkpoints)})
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {root}: {reason(error)}; choose another folder with --checkpoint-dir") from error


def _lease(
    folder: Path, owner: Owner, protected: Protected, say: Callable[[str], None], stop: threading.Event | None
) -> Lease:
    path = folder / f"{owner.script}.lock"
    try:
        return Lease(path, owner, protected, say=say, stop=stop)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; choose another folder with --checkpoint-dir") from error
