"""What a Spark on other machines needs: an address of this process, this package, and time to bring up executors."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from iot import environment
from iot.java.runtime import OLDEST_JAVA
from iot.settings import UserError, reason

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PACKAGE = Path(__file__).parents[1]
LOOPBACK = "127.0.0.1"
# Port of a standalone master, if its address names none.
MASTER_PORT = 7077
# How often a task is tried; Spark's own number on a cluster.
ATTEMPTS = 4
# Executors start together, but register one by one. All are there once none has come for this long.
SETTLED_S = 2.0
# How long to wait for the first executor until the reason is looked for, and how often to look again.
PATIENCE_S = 5.0
LOOK_EVERY_S = 0.1
# What a standalone cluster tells about executors; at this level only these lines go to the log.
LOG4J = """
logger.client.name = org.apache.spark.deploy.client.StandaloneAppClient$ClientEndpoint
logger.client.level = info
"""
# Such a line: "Executor updated: app-20261126220000-0000/3 is now EXITED (Command exited with code 1)". The machine is
# in an earlier one: "Executor added: app-20261126220000-0000/3 on worker-2026-10.0.0.7-7078 (10.0.0.7:7078) with …".
_ADDED = re.compile(r"Executor added: (\S+)/(\d+) on \S+ \(([^)]+)\)")
_ENDED = re.compile(r"Executor updated: (\S+)/(\d+) is now (?:EXITED|FAILED|LOST)(?: \((.*)\))?")
# How long a worker's page may take to answer, and how much of an executor's stderr is read.
PAGE_S = 2.0
STDERR_BYTES = 10_000
# What an older Java says of Spark's classes, and of the flags that Spark gives it.
_OLD_JAVA = re.compile(r"UnsupportedClassVersionError|[Mm]odule \S+ not found|Unrecognized option: --")
_CLASS_FILES = re.compile(r"class file versions up to (\d+)")


def is_local(master: str) -> bool:
    """Whether all tasks run in this process's own JVM."""
    return re.match(r"local(\[|$)", master) is not None


def with_retries(master: str) -> str:
    """Return the master such that a failed task is tried again, as on a cluster; by default a local one gives up.

    A task fails when it reads from a Kafka server that has just died.
    """
    found = re.fullmatch(r"local(?:\[([0-9]+|\*)\])?", master)
    return f"local[{found[1] or 1},{ATTEMPTS}]" if found else master


def driver_address(master: str, given: str | None = None) -> dict[str, str]:
    """Return Spark's settings for the address at which executors reach this process.

    Args:
        master: as Spark's ``--master``.
        given: the address as the user names it. By default it is the one from which this machine reaches a standalone
            master, and loopback where the master is on loopback. Other clusters have a default of their own.

    Raises:
        UserError: the address does not resolve, or the master's does not.
    """
    host = given or (LOOPBACK if is_local(master) else _towards(master))
    if host is None:
        return {}
    # Behind a translation of addresses, the one that executors use is not on this machine.
    return {"spark.driver.host": host, "spark.driver.bindAddress": host if _is_own(host) else "0.0.0.0"}


def _towards(master: str) -> str | None:
    """This machine's address on the way to a standalone master; None for another kind of master."""
    if not (found := re.match(r"spark://(\[[^]]+\]|[^:,/]+)(?::(\d+))?", master)):
        return None
    name, port = found[1].strip("[]"), int(found[2] or MASTER_PORT)
    try:
        family, kind, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            # Nothing is sent: the system only chooses the way.
            probe.connect(address)
            own = str(probe.getsockname()[0])
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(f"no way to the Spark master {master}: {reason(error)}; check --master") from error
    return own


def _is_own(host: str) -> bool:
    """Whether a socket of this machine can have that address.

    Raises:
        UserError: it does not resolve.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--driver-host {host} does not resolve: {reason(error)}") from error
    try:
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def ship_package(session: SparkSession) -> None:
    """Send this package to the executors. What it depends on must be installed there.

    Spark serves the archive to each executor that joins, so it must be there as long as the session.
    """
    folder = environment.work_folder() / "ship"
    copy = folder / "copy" / PACKAGE.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "static", "templates"))
    session.sparkContext.addPyFile(shutil.make_archive(str(folder / PACKAGE.name), "zip", copy.parent))
    shutil.rmtree(copy.parent)


def slots(session: SparkSession) -> int:
    """How many tasks can run at the same time, on the executors that are there now."""
    # Spark says 2 where there is none.
    if not is_local(session.sparkContext.master or "") and executors(session) == 0:
        return 0
    return int(session.sparkContext.defaultParallelism)


def executors(session: SparkSession) -> int:
    """How many executors are there now, not counting this process."""
    context: Any = session.sparkContext._jsc
    return int(context.sc().getExecutorMemoryStatus().size()) - 1


def await_executors(session: SparkSession, log: Path, say: Callable[[str], None], stop: threading.Event) -> None:
    """Wait until executors have registered, so that their slots can be counted; or until ``stop`` is set.

    Args:
        log: of this session, with what the cluster tells about its executors.
        say: prints a line, if the wait is long.
    """
    master = session.sparkContext.master
    changed_s = time.monotonic()
    look_s = changed_s + PATIENCE_S
    count, said = 0, ""
    while not stop.wait(LOOK_EVERY_S):
        now_s, before, count = time.monotonic(), count, executors(session)
        changed_s = now_s if count != before else changed_s
        if count and now_s - changed_s >= SETTLED_S:
            return
        if not count and now_s >= look_s:
            look_s = now_s + PATIENCE_S
            if (why := why_no_executor(log, partial(worker_pages, session))) != said:
                say(f"waiting for executors from {master}: {why}")
                said = why


def why_no_executor(log: Path, pages: Callable[[], Mapping[str, str]]) -> str:
    """Why a standalone cluster brings up no executor, as far as its messages in the log and its pages tell.

    Args:
        pages: returns the pages of the workers, as ``worker_pages``.
    """
    text = log.read_text(errors="replace") if log.exists() else ""
    machines = {(app, number): machine for app, number, machine in _ADDED.findall(text)}
    if not machines:
        return "none was granted; its workers have no free cores or too little memory, or there are none"
    ended = _ENDED.findall(text)
    if not ended:
        return f"not yet started on {', '.join(sorted(set(machines.values())))}"
    # The last one may not have written all of its stderr.
    app, number, how = ended[-2:][0]
    machine = machines.get((app, number), "a worker")
    page = pages().get(machine, "")
    question = f"appId={app}&executorId={number}&logType=stderr&byteLength={STDERR_BYTES}"
    stderr = _read(f"{page}/log/?{question}") if page else ""
    return f"on {machine} an executor ended{_why_ended(stderr, how, page)}"


def _why_ended(stderr: str, how: str, page: str) -> str:
    if _OLD_JAVA.search(stderr):
        found = _CLASS_FILES.search(stderr)
        # The first Java, 1.0, had class files of version 45.
        old = f"Java {int(found[1]) - 44} is too old" if found else "its Java is too old"
        return f", because {old}: install Java {OLDEST_JAVA} or 21 there, and set the JAVA_HOME of its worker"
    where = f"; see its stderr on {page or 'the page of that worker, by default port 8081'}"
    return f" ({how or 'no reason given'}){where}"


def worker_pages(session: SparkSession) -> dict[str, str]:
    """Ask the standalone master for the pages of its workers, by the address of the worker; none if it does not answer.

    The driver knows only the addresses at which master and workers talk to each other.
    """
    found = re.match(r"spark://(\[[^]]+\]|[^:,/]+)(?::(\d+))?", session.sparkContext.master or "")
    if not found:
        return {}
    jvm: Any = session._jvm
    context: Any = session.sparkContext._jsc

    def single(name: str) -> Any:
        """An object of Scala's."""
        return jvm.java.lang.Class.forName(f"{name}$").getField("MODULE$").get(None)

    # The session may have ended, and the master may be of another version.
    with suppress(Exception):
        address = jvm.org.apache.spark.rpc.RpcAddress(found[1], int(found[2] or MASTER_PORT))
        master = context.sc().env().rpcEnv().setupEndpointRef(address, "Master")
        question = single("org.apache.spark.deploy.DeployMessages$RequestMasterState")
        answer = master.askSync(question, single("scala.reflect.ClassTag").Any())
        return {worker.hostPort(): worker.webUiAddress() for worker in answer.workers()}
    return {}


def _read(url: str) -> str:
    """The text at a URL; empty if it does not answer."""
    with suppress(OSError, ValueError), urlopen(url, timeout=PAGE_S) as answer:
        return str(answer.read().decode(errors="replace"))
    return ""
