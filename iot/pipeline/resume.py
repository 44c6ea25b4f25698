"""Checks that checkpoints and database belong to the same run; otherwise both are reset."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from iot.batches import Identity, Offsets
from iot.results.store import Store
from iot.spark.checkpoints import CheckpointNotes, how_to_reset, read_notes, write_notes


def resume(
    store: Store, folders: list[Path], identity: Identity, database: str, start: Callable[[], Offsets]
) -> tuple[Offsets, str | None]:
    """Resume the run that checkpoints and database belong to, or begin a new one with both of them empty.

    Args:
        folders: of the checkpoints.
        database: the database's file; empty if it is not a file.
        start: returns the offsets at which a new run begins.

    Returns:
        The offsets at which the run begins or once began, and a line to print if an earlier state was reset.

    Raises:
        UserError: they are about another topic, or damaged.
    """
    fix = how_to_reset_all(folders, database)
    notes = [read_notes(folder) for folder in folders]
    for folder, note in zip(folders, notes, strict=True):
        if note:
            identity.require(note.identity, f"the checkpoint {folder}", fix)
    stored = store.identity()
    # Without checkpoints, results of an earlier topic of that name are not continued.
    if stored and (any(notes) or stored[0].topic != identity.topic):
        identity.require(stored[0], "the results database", fix)
    ids = {note.state_id for note in notes if note} | ({stored[1]} if stored else set())
    if len(ids) == 1 and stored and notes[0] and all(notes):
        return notes[0].start, None
    state_id, offsets = uuid.uuid4().hex, start()
    # The checkpoints go first: without any of them, the next start resets a database that is left.
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    store.reset(identity, state_id)
    for folder in folders:
        write_notes(folder, CheckpointNotes(identity, offsets, state_id))
    if not ids:
        return offsets, None
    found = [folder.name for folder, note in zip(folders, notes, strict=True) if note] + ["database"] * bool(stored)
    return offsets, f"reset all state: only {' and '.join(found)} of an earlier run was there, or of several runs"


def how_to_reset_all(folders: list[Path], database: str) -> str:
    """The command that resets checkpoints and database. A database that is not a file is reset without checkpoints."""
    return how_to_reset(*folders, *([Path(database)] if database else []))
