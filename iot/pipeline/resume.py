"""Checkpoints and database tell of the same, or start afresh together."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from iot.batches import Identity, Offsets
from iot.results.store import Store
from iot.spark.checkpoints import Notes, read_notes, start_afresh, write_notes


def agree(
    store: Store, folders: list[Path], identity: Identity, database: str, begin_at: Callable[[], Offsets]
) -> tuple[Offsets, str | None]:
    """Make checkpoints and database tell of the same: as they are, or both afresh.

    Args:
        database: its file, empty where it is none.
        begin_at: gives the offsets to begin with.

    Returns:
        The offsets at which reading begins or once began, and a line to say where something was there that could not
        be gone on with.

    Raises:
        UserError: they are about another topic, or damaged.
    """
    cure = afresh(folders, database)
    notes = [read_notes(folder) for folder in folders]
    for folder, note in zip(folders, notes, strict=True):
        if note:
            identity.require(note.identity, f"the checkpoint {folder}", cure)
    kept = store.identity()
    # Without checkpoints nothing of an earlier topic of that name is gone on with.
    if kept and (any(notes) or kept[0].topic != identity.topic):
        identity.require(kept[0], "the results database", cure)
    ids = {note.state_id for note in notes if note} | ({kept[1]} if kept else set())
    if len(ids) == 1 and kept and notes[0] and all(notes):
        return notes[0].start, None
    state_id, start = uuid.uuid4().hex, begin_at()
    # Checkpoints first: with none of them a database alone is begun afresh the next time too.
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    store.reset(identity, state_id)
    for folder in folders:
        write_notes(folder, Notes(identity, start, state_id=state_id))
    if not ids:
        return start, None
    there = [folder.name for folder, note in zip(folders, notes, strict=True) if note] + ["database"] * bool(kept)
    return start, f"only {' and '.join(there)} of an earlier run is there, or of several: all start afresh"


def afresh(folders: list[Path], database: str) -> str:
    """The command that has checkpoints and database start afresh; of a database that is no file the checkpoints do."""
    return start_afresh(*folders, *([Path(database)] if database else []))
