"""Faster starts: the classes that Kafka's and Spark's JVMs load, kept parsed and verified in archives that Java maps.

Loading some ten thousand classes is most of what a cold start takes. Java can keep them (class data sharing, JEP 350);
``python -m iot.pipeline.training`` runs broker and queries once for a few seconds and keeps an archive of each in the
user's cache. Where there is none, or it does not fit this Java and these jars, everything works as well and
starts slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from iot.java.jars import LOCK_FILE
from iot.java.runtime import find_java
from iot.settings import CACHE_DIR
from iot.terminal import StatusLine

FOLDER = CACHE_DIR / "classes"
NAMES = ("kafka", "spark")
UNUSED_S = 30 * 86_400
# Raised when what is run here, and so what is loaded, changes.
RECIPE = 4

_recording: dict[str, Path] = {}


def jvm_flags(name: str) -> list[str]:
    """Flags for a JVM of that name (``kafka`` or ``spark``); none where there is no archive for it."""
    if name in _recording:
        return [f"-XX:ArchiveClassesAtExit={_recording[name]}"]
    file = archive(name)
    try:
        if not file.stat().st_size:
            return []
        file.touch()
    except OSError:
        return []
    # Should it not fit after all, Java goes on without, and need not say so.
    return [f"-XX:SharedArchiveFile={file}", "-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"]


def prepare(run: Callable[[Path], None]) -> None:
    """Make the archives that are missing.

    Args:
        run: runs broker and Spark once, with a folder for what they write.

    Raises:
        UserError: broker or Spark do not run.
    """
    missing = [name for name in NAMES if not archive(name).exists()]
    if not missing:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        if time.time() - old.stat().st_mtime > UNUSED_S:
            # A folder is what an interrupted run left.
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="new-") as work, StatusLine(sys.stderr) as status:
        status.print(f"Running Kafka and Spark once, so that they start in half the time, archives in {FOLDER}")
        with recorded(missing, Path(work)):
            run(Path(work))
        for name in missing:
            made = Path(work, name)
            # An empty one says that this Java cannot make it, so that it is not tried again.
            made.touch()
            made.chmod(0o644)
            made.replace(archive(name))


def archive(name: str) -> Path:
    """Where the archive of this Java, these jars and this PySpark is; Java checks each jar itself."""
    home = find_java()
    release = home / "release"
    spec = find_spec("pyspark")
    spark_jars = Path(spec.origin).parent / "jars" if spec and spec.origin else Path()
    parts = [
        str(RECIPE),
        str(home),
        release.read_text() if release.exists() else "",
        LOCK_FILE.read_text(encoding="utf-8"),
    ]
    parts += [str(spark_jars), str(spark_jars.stat().st_mtime_ns)] if name == "spark" else []
    return FOLDER / f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.jsa"


@contextlib.contextmanager
def recorded(names: list[str], work: Path) -> Iterator[None]:
    _recording.update({name: work / name for name in names})
    try:
        yield
    finally:
        _recording.clear()
