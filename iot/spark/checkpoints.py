"""What stands beside Spark's checkpoints: which topic they are about, and a lock for one user at a time.

Checkpoints are in a folder of this machine, or on a file system of Spark's; see ``iot.spark.remote_path``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from iot.batches import Identity, Offsets
from iot.lease import Lease
from iot.owner import Held, Leases, Owner, Protected
from iot.processes import until_stopped
from iot.settings import UserError, reason
from iot.spark.remote_lease import RemoteLease
from iot.spark.remote_path import URI, AnyPath, RemotePath, write_whole

CHECKPOINT_ROOT = Path("/tmp")
NOTES = "iot-notes.json"
# What is added to the name of state that is set aside, with a date.
KEPT = ".before-"
# How long the first answer of a remote file system may take.
ANSWER_S = 30.0
ANOTHER_FOLDER = "choose another folder with --checkpoint-dir"


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


def folder(text: str) -> AnyPath:
    """argparse type: a folder of this machine, or a URI of one that Spark's file systems have."""
    found = URI.fullmatch(text)
    if found is None or (found[2] is None and found[3] is None):
        return Path(text)
    scheme, host, path = found[1], found[2], found[3]
    if scheme.lower() != "file":
        if not host and not path:
            raise argparse.ArgumentTypeError(f"{text!r} names no folder; for example hdfs://namenode:8020/iot")
        return RemotePath(text)
    if host not in (None, "", "localhost"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is on the host {host}: a file URI has three slashes, as file:///mnt"
        )
    return Path(path or "/")


def require_writable(root: RemotePath, names: tuple[str, ...], stop: threading.Event) -> None:
    """Check that a remote folder can be written, and the checkpoints ``names`` in it. It is created if missing.

    Args:
        stop: ends the wait for an answer.

    Raises:
        UserError: it cannot be written, or does not answer within ``ANSWER_S``.
        Stopped: ``stop`` was set.
    """
    deadline_s = time.monotonic() + ANSWER_S

    def try_to_write() -> None:
        root.mkdir()
        for folder in (root, *(root / name for name in names)):
            if folder.exists():
                trial = folder / f".trial-{uuid.uuid4().hex}"
                trial.create(b"trial")
                trial.unlink()

    def require_answer() -> None:
        if time.monotonic() > deadline_s:
            raise UserError(f"{root} does not answer within {ANSWER_S:.0f} s: check that its server runs, and the URI")

    try:
        until_stopped(try_to_write, stop, "before anything was processed", require_answer)
    except OSError as error:
        raise UserError(f"cannot write to the folder {root}: {reason(error)}; {ANOTHER_FOLDER}") from error


def read_notes(checkpoint: AnyPath) -> CheckpointNotes | None:
    """The notes of a checkpoint; None where it is new.

    Raises:
        UserError: the folder holds something else, or the notes are damaged.
    """
    try:
        try:
            return msgspec.json.decode((checkpoint / NOTES).read_bytes(), type=CheckpointNotes, strict=False)
        except FileNotFoundError:
            if (checkpoint / "offsets").exists():
                raise UserError(f"{checkpoint} is a checkpoint of another program; {ANOTHER_FOLDER}") from None
            return None
    except OSError as error:
        raise UserError(f"cannot read {checkpoint / NOTES}: {reason(error)}; {ANOTHER_FOLDER}") from error
    except msgspec.DecodeError as error:
        raise UserError(f"cannot read {checkpoint / NOTES}: {reason(error)}; {how_to_reset(checkpoint)}") from error


def write_notes(checkpoint: AnyPath, notes: CheckpointNotes) -> None:
    """Store notes, completely or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        checkpoint.mkdir(parents=True, exist_ok=True)
        write_whole(checkpoint / NOTES, msgspec.json.encode(notes))
    except OSError as error:
        raise UserError(f"cannot write {checkpoint}: {reason(error)}; {ANOTHER_FOLDER}") from error


def size_bytes(checkpoint: AnyPath) -> int:
    """The size of all files of a checkpoint.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    if isinstance(checkpoint, RemotePath):
        return checkpoint.size_bytes()
    total, folders = 0, [os.fspath(checkpoint)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                # Spark removes files at any moment.
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    return total


def is_empty(checkpoint: AnyPath) -> bool:
    """Whether a folder holds nothing but perhaps notes, or does not exist.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return not {file.name for file in checkpoint.iterdir()} - {NOTES, f"{NOTES}.new"}
    except FileNotFoundError:
        return True
    except OSError as error:
        raise UserError(f"cannot read {checkpoint}: {reason(error)}; {ANOTHER_FOLDER}") from error


def set_aside(checkpoint: AnyPath, stamp: str) -> AnyPath:
    """Rename the folder of a checkpoint; behind a symbolic link, the folder that it leads to.

    Args:
        stamp: distinguishes the new name from others, such as a date.

    Returns:
        The new path.

    Raises:
        UserError: it cannot be renamed.
    """
    real: Any = checkpoint.resolve()
    try:
        aside, number = real.with_name(f"{real.name}{KEPT}{stamp}"), 1
        while aside.exists():
            number += 1
            aside = real.with_name(f"{real.name}{KEPT}{stamp}-{number}")
        real.rename(aside)
        # A symbolic link must lead to a folder.
        real.mkdir()
    except OSError as error:
        raise UserError(f"cannot rename {real}: {reason(error)}; {ANOTHER_FOLDER}") from error
    made: AnyPath = aside
    return made


def count_kept(path: AnyPath) -> int:
    """How many states of a checkpoint or file that were set aside are still there, as far as that can be seen."""
    real = path.resolve()
    with suppress(OSError):
        return sum(entry.name.startswith(f"{real.name}{KEPT}") for entry in real.parent.iterdir())
    return 0


def how_to_reset(*paths: AnyPath) -> str:
    """The command that removes this state, for messages.

    A remote folder is removed by Hadoop's own tool, which is among Spark's jars. Spark mostly gets the jars for S3 only
    for a run, so there it is the tool of AWS.
    """
    if all(isinstance(path, Path) for path in paths):
        return f"to reset: rm -r -- {shlex.join(map(str, paths))}"
    texts = [str(path) for path in paths]
    if all(text.startswith("s3a://") for text in texts):
        removes = [shlex.join(["aws", "s3", "rm", "--recursive", "s3" + text.removeprefix("s3a")]) for text in texts]
        return f"to reset: {' && '.join(removes)}"
    return f"to reset: {shlex.join([*_hadoop(), '-rm', '-r', '-f', *texts])}"


def _hadoop() -> list[str]:
    """The command of Hadoop's tool for files, as it runs from PySpark's jars."""
    variables = []
    # The tool needs a configuration, even if it is empty.
    if "HADOOP_CONF_DIR" not in os.environ:
        variables.append(f"HADOOP_CONF_DIR={Path(__file__).with_name('hadoop')}")
    # Where this program has brought its own Java, the user's shell has none.
    if shutil.which("java") is None and "JAVA_HOME" in os.environ:
        variables.append(f"JAVA_HOME={os.environ['JAVA_HOME']}")
    spec = find_spec("pyspark")
    command = str(Path(str(spec.origin)).parent / "bin" / "spark-class") if spec else "spark-class"
    return [*(["env", *variables] if variables else []), command, "org.apache.hadoop.fs.FsShell"]


@contextmanager
def lock(
    root: AnyPath,
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
        stop: ends the wait for the end of an owner that gives no sign of life.

    Raises:
        InUse: another process owns them.
        UserError: the folder cannot be written.
    """
    is_new = isinstance(root, Path) and not root.exists()
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


def _folders(root: AnyPath, checkpoints: tuple[str, ...]) -> list[AnyPath]:
    """The folders with locks; sorted, so that two processes never wait for each other."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        if isinstance(root, RemotePath):
            return [root]
        return [*sorted({root.resolve(), *((root / name).resolve().parent for name in checkpoints)})]
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {root}: {reason(error)}; {ANOTHER_FOLDER}") from error


def _lease(
    folder: AnyPath, owner: Owner, protected: Protected, say: Callable[[str], None], stop: threading.Event | None
) -> Held:
    path = folder / f"{owner.script}.lock"
    try:
        if isinstance(path, RemotePath):
            return RemoteLease(path, owner, protected, say=say, stop=stop)
        return Lease(path, owner, protected, say=say, stop=stop)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; {ANOTHER_FOLDER}") from error
