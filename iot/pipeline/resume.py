"""Owns checkpoints and database; continues the run that both belong to, or begins one and sets earlier state aside."""

from __future__ import annotations

import shlex
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from iot.batches import Identity, Offsets
from iot.owner import Leases, this_process
from iot.results.store import Store, choose
from iot.settings import UserError
from iot.spark.checkpoints import (
    CheckpointNotes,
    count_kept,
    folder,
    how_to_reset,
    is_empty,
    lock,
    read_notes,
    set_aside,
    write_notes,
)
from iot.spark.remote_path import AnyPath, RemotePath

# What to do where another process owns the state.
OWN_STATE = "stop it, or give this one a --checkpoint-dir and a --database-url of its own"


@dataclass(frozen=True)
class Place:
    """Where the state is."""

    folders: Sequence[AnyPath]
    """Of the checkpoints, all in one folder."""
    database: str
    """The database's file; empty if it is not a file."""

    @property
    def checkpoint_dir(self) -> str:
        return str(self.folders[0].parent.resolve())

    @property
    def reset(self) -> str:
        """The command that resets the state. Without checkpoints, the next start sets the results aside."""
        return how_to_reset(*self.folders)


@contextmanager
def owned(
    store: Store, place: Place, script: str, say: Callable[[str], None], stop: threading.Event
) -> Iterator[Leases]:
    """Make this process the only one that writes checkpoints and database, until the end of the block.

    Raises:
        InUse: another process owns one of them. Nothing was changed.
        UserError: one of them cannot be written.
    """
    owner = this_process(script)
    names = tuple(folder.name for folder in place.folders)
    with (
        lock(place.folders[0].parent, owner, OWN_STATE, checkpoints=names, say=say, stop=stop) as checkpoints,
        store.own(owner, OWN_STATE, say, stop) as database,
    ):
        yield Leases(*checkpoints.leases, database)


def resume(
    store: Store, place: Place, identity: Identity, start: Callable[[], Offsets], now_s: float
) -> tuple[Offsets, str | None]:
    """Resume the run that checkpoints and database belong to, or begin a new one with both of them empty.

    Nothing is deleted: where only a part of an earlier run is left, it is kept under another name.

    Args:
        store: of which this process is the owner.
        start: returns the offsets at which a new run begins.
        now_s: names what is set aside.

    Returns:
        The offsets at which the run begins or once began, and a line to print if an earlier state was set aside.

    Raises:
        UserError: they are about another topic, of several runs, or damaged.
    """
    folders, fix = place.folders, place.reset
    notes = [read_notes(folder) for folder in folders]
    for checkpoint, note in zip(folders, notes, strict=True):
        if note:
            identity.require(note.identity, f"the checkpoint {checkpoint}", fix)
    stored = store.identity()
    # Without checkpoints, results of an earlier topic of that name are not continued.
    if stored and (any(notes) or stored[0].topic != identity.topic):
        identity.require(stored[0], "the results database", fix)
    ids = {note.state_id for note in notes if note} | ({stored[1]} if stored else set())
    if len(ids) == 1 and stored and notes[0] and all(notes):
        return notes[0].start, None
    _require_one_run(store, place, [note for note in notes if note], stored[1] if stored else None)
    offsets = start()
    older = _count_kept(place)
    kept = _set_aside(store, folders, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s)))
    state_id = uuid.uuid4().hex
    store.reset(identity, state_id, place.checkpoint_dir)
    written = CheckpointNotes(identity, offsets, state_id, store.name, store.place_id())
    for checkpoint in folders:
        write_notes(checkpoint, written)
    if not kept:
        return offsets, None
    found = [folder.name for folder, note in zip(folders, notes, strict=True) if note] + ["database"] * bool(stored)
    only = f"only {' and '.join(found)} of an earlier run was there" if found else "there was no complete earlier run"
    line = f"a new run begins, because {only}; kept as {', '.join(kept)}"
    return offsets, line + (f"; {older} kept earlier have .before- in their names too" if older else "")


def _require_one_run(store: Store, place: Place, notes: list[CheckpointNotes], stored_id: str | None) -> None:
    """Check that checkpoints and database are not parts of different runs that are complete elsewhere.

    Raises:
        UserError: they are.
    """
    here = place.checkpoint_dir
    if len({note.state_id for note in notes} | ({stored_id} if stored_id else set())) > 1:
        raise UserError(
            f"the checkpoints in {here} and the database {store.name} are of different runs: "
            f"choose a --checkpoint-dir and a --database-url that belong together, or two new ones; {place.reset}"
        )
    elsewhere = store.checkpoint_dir()
    if stored_id and not notes and elsewhere and elsewhere != here and _has_notes(place, folder(elsewhere), stored_id):
        raise UserError(
            f"the database {store.name} belongs to the checkpoints in {elsewhere}: "
            f"choose --checkpoint-dir {shlex.quote(elsewhere)}, or another --database-url"
        )
    for note in notes if not stored_id else []:
        name = note.database
        # Whether another server still has it cannot be seen from here.
        is_there = not name.startswith("/") or Path(name).exists()
        if name and is_there and not store.is_at(name, note.database_id):
            raise UserError(
                f"the checkpoints in {here} belong to the database {name}: "
                f"choose {choose(name)}, or another --checkpoint-dir; {place.reset}"
            )


def _has_notes(place: Place, root: AnyPath, state_id: str) -> bool:
    # Without a remote folder of its own, this run may not have Spark yet, and so cannot look.
    if isinstance(root, RemotePath) and not isinstance(place.folders[0], RemotePath):
        return True
    found = [read_notes(root / folder.name) for folder in place.folders]
    return any(note and note.state_id == state_id for note in found)


def _count_kept(place: Place) -> int:
    """How many folders and files of earlier runs are still kept under other names."""
    return sum(map(count_kept, [*place.folders, *([Path(place.database)] if place.database else [])]))


def _set_aside(store: Store, folders: Sequence[AnyPath], stamp: str) -> list[str]:
    """Keep what an earlier run left under other names; returns these, each with the command that removes it."""
    # The database goes last: it alone can be there twice, and is then set aside again.
    moved = [set_aside(folder, stamp) for folder in folders if not is_empty(folder)]
    kept = [f"{path} (remove it with: {how_to_reset(path).removeprefix('to reset: ')})" for path in moved]
    if store.has_counted():
        kept.append(store.set_aside(stamp))
    return kept
