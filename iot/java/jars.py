"""Fetch the jars of Kafka and of Spark's Kafka connector from a Maven repository, once.

``jars.lock`` names each jar with its checksum. The jars are kept in the user's cache; later starts need no network.
``python -m iot.java`` fetches all of them.

``urllib`` takes proxies from HTTPS_PROXY and NO_PROXY, and trusts the system's certificates and those in SSL_CERT_FILE.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import hashlib
import http.client
import multiprocessing
import os
import re
import ssl
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.pool import IMapIterator, ThreadPool
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPSHandler, OpenerDirector, Request, build_opener

from iot.environment import plain
from iot.java.runtime import digest, make_folder
from iot.processes import require_not_stopped
from iot.settings import CACHE_DIR, UserError, reason
from iot.terminal import StatusLine

LOCK_FILE = Path(__file__).with_name("jars.lock")
SETS = {
    "kafka": "Kafka's jars",
    "spark": "the jars of Spark's Kafka connector",
    "tools": "the jars of Kafka's load test",
}
MIRROR = "IOT_MAVEN_MIRROR"
# Maximum number of jars that are fetched at the same time.
CONNECTIONS = 8
# How long a connection may deliver nothing.
STALLED_S = 60.0
# How often a wait checks whether the script was stopped.
LOOK_S = 0.1
NOT_FETCHED = "before all jars were fetched; the next start fetches the others"


@dataclass(frozen=True)
class Jar:
    """A jar that the lock names."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    @property
    def path(self) -> str:
        """The jar's path in a Maven repository."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file_name}"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


def jars(set_name: str) -> list[Path]:
    """Return the jars of a set (``kafka``, ``spark`` or ``tools``); fetch those that are missing.

    Their paths need no quoting in a class path or in a list with commas.

    Raises:
        UserError: a jar cannot be fetched, or its checksum is not the one in the lock.
    """
    return fetched(set_name, read_lock()[set_name], SETS[set_name])


def fetched(set_name: str, wanted: list[Jar], title: str) -> list[Path]:
    """Return the jars ``wanted`` as ``jars`` does; ``title`` names them while they are fetched."""
    folder = CACHE_DIR / "jars" / f"{set_name}-{digest(repr(wanted))}"
    if _missing(wanted, folder):
        make_folder(folder)
        with _only_one_fetches(folder, title):
            # Another process may have fetched them while this one waited.
            if missing := _missing(wanted, folder):
                _fetch(missing, folder, title)
    folder = plain(folder)
    return [folder / jar.file_name for jar in wanted]


def class_path(set_name: str) -> str:
    """Return the jars of a set in the form of Java's ``-cp``. Raises ``UserError`` like ``jars``."""
    return os.pathsep.join(map(str, jars(set_name)))


@functools.cache
def read_lock() -> dict[str, list[Jar]]:
    """Read ``jars.lock``: the jars of each set, by the set's name."""
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
def _only_one_fetches(folder: Path, title: str) -> Iterator[None]:
    with open(folder / ".lock", "w") as lock:
        if not _is_locked(lock):
            print(f"Waiting for another process that fetches {title}", file=sys.stderr)
            # A lock that is waited for in the kernel would keep a stop waiting, too.
            while not _is_locked(lock):
                require_not_stopped(NOT_FETCHED)
                time.sleep(LOOK_S)
        yield


def _is_locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fetch(missing: list[Jar], folder: Path, title: str) -> None:
    """Fetch jars into ``folder``. The next call goes on after those that an interrupted one has fetched."""
    for interrupted in folder.glob(".*.part"):
        interrupted.unlink(missing_ok=True)
    repository, credentials = _repository()
    opener = _opener()

    def fetch(jar: Jar) -> None:
        content = _download(opener, f"{repository}/{jar.path}", credentials)
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != jar.sha256:
            raise UserError(
                f"refused {jar} from {repository}: its SHA-256 is {sha256}, but {LOCK_FILE.name} has {jar.sha256}; "
                "ask the administrator of your mirror or proxy"
            )
        _keep(content, folder / jar.file_name)

    with StatusLine(sys.stderr, plain_every_s=5) as status:
        status.print(f"Fetching {title}, once, into {folder}")
        # Leaving the pool does not wait for its threads: an error or Ctrl-C ends this at once.
        with ThreadPool(CONNECTIONS) as pool:
            fetching = pool.imap(fetch, missing)
            for number, jar in enumerate(missing, start=1):
                try:
                    _wait_for(fetching)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    absent = len(_missing(missing, folder))
                    raise UserError(
                        f"cannot fetch {title} ({absent} of {len(missing)} are missing) from {repository}: {jar}: "
                        f"{_cause(error)}; behind a proxy set HTTPS_PROXY, for its certificates SSL_CERT_FILE; "
                        f"for a mirror of Maven Central set {MIRROR} to its URL; "
                        f"or copy the folder {CACHE_DIR} from a machine where it worked"
                    ) from error
                status.update(functools.partial("Fetching {}: {} of {}".format, title, number, len(missing)))


def _wait_for(fetched: IMapIterator[None]) -> None:
    """Wait until the next jar is fetched, or the script is stopped."""
    while True:
        require_not_stopped(NOT_FETCHED)
        try:
            return fetched.next(LOOK_S)
        except multiprocessing.TimeoutError:
            continue


def _repository() -> tuple[str, str]:
    """Return the repository's URL, without a final slash, and the ``user:password`` that stood in it, often empty."""
    url = os.environ.get(MIRROR) or _default_repository()
    parts = urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl().rstrip("/"), unquote(credentials)


def _default_repository() -> str:
    """Return the URL of Maven Central, which Spark's own resolver (Ivy) has as its default."""
    spec = find_spec("pyspark")
    found = sorted(Path(spec.origin).parent.glob("jars/ivy-*.jar")) if spec and spec.origin else []
    if not found:
        raise UserError("PySpark is not installed: pip install -r requirements.txt")
    with zipfile.ZipFile(found[-1]) as ivy:
        properties = ivy.read("org/apache/ivy/core/settings/repository.properties").decode()
    root = re.search(r"^ivy\.ibiblio\.default\.artifact\.root\s*=\s*(\S+)", properties, re.MULTILINE)
    if not root:
        raise UserError(f"{found[-1]} names no default repository: set {MIRROR} to the URL of Maven Central")
    return root[1]


def _opener() -> OpenerDirector:
    context = ssl.create_default_context()
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        # pip and many others read this variable, so it is what is set behind a company's proxy.
        try:
            context.load_verify_locations(**{"capath" if Path(bundle).is_dir() else "cafile": bundle})
        except OSError as error:
            raise UserError(f"cannot read the certificates in REQUESTS_CA_BUNDLE={bundle}: {reason(error)}") from error
    opener = build_opener(HTTPSHandler(context=context))
    opener.addheaders = [("User-Agent", "iot-streaming")]
    return opener


def _download(opener: OpenerDirector, url: str, credentials: str) -> bytes:
    request = Request(url)
    if credentials:
        # A redirect to another host must not carry them along.
        encoded = base64.b64encode(credentials.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    with opener.open(request, timeout=STALLED_S) as response:
        content: bytes = response.read()
        return content


def _keep(content: bytes, file: Path) -> None:
    """Write aside, then rename: the jar is there complete, or not at all."""
    part = file.with_name(f".{file.name}.{threading.get_native_id()}.part")
    try:
        part.write_bytes(content)
        part.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {reason(error)}; set IOT_CACHE_DIR to another folder") from error


def _cause(error: Exception) -> str:
    """Say in a few words why a download failed."""
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(cause, TimeoutError):
        return f"nothing arrived for {STALLED_S:.0f} s"
    return str(cause) if isinstance(cause, URLError) else reason(cause)
