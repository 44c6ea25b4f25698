"""What a Spark on other machines needs: an address of this process, this package, and time to bring up executors."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iot import environment
from iot.settings import UserError, reason

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PACKAGE = Path(__file__).parents[1]
LOOPBACK = "127.0.0.1"
# Port of a standalone master, if its address names none.
MASTER_PORT = 7077
# Executors start together, but register one by one. All are there once none has come for this long.
SETTLED_S = 2.0
# How long to wait for the first executor until the wait is said.
PATIENCE_S = 5.0
LOOK_EVERY_S = 0.1
# What a standalone cluster tells about executors; at this level only these lines go to the log.
LOG4J = """
logger.client.name = org.apache.spark.deploy.client.StandaloneAppClient$ClientEndpoint
logger.client.level = info
"""
# Such a line: "Executor updated: app-20261126220000-0000/3 is now EXITED (Command exited with code 1)". The machine is
# in an earlier one: "Executor added: app-20261126220000-0000/3 on worker-2026-10.0.0.7-7078 (10.0.0.7:7078) with …".
_ADDED = re.compile(r"Executor added: \S+/(\d+) on \S+ \(([^)]+)\)")
_ENDED = re.compile(r"Executor updated: \S+/(\d+) is now (?:EXITED|FAILED|LOST)(?: \((.*)\))?")


def is_local(master: str) -> bool:
    """Whether all tasks run in this process's own JVM."""
    return re.match(r"local(\[|$)", master) is not None


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
    begun_s = changed_s = time.monotonic()
    count, said = 0, ""
    while not stop.wait(LOOK_EVERY_S):
        now_s, before, count = time.monotonic(), count, executors(session)
        changed_s = now_s if count != before else changed_s
        if count and now_s - changed_s >= SETTLED_S:
            return
        if not count and now_s - begun_s >= PATIENCE_S and (why := why_no_executor(log)) != said:
            say(f"waiting for executors from {session.sparkContext.master}: {why}")
            said = why


def why_no_executor(log: Path) -> str:
    """Why a standalone cluster brings up no executor, as far as its messages in the log tell."""
    text = log.read_text(errors="replace") if log.exists() else ""
    machines = dict(_ADDED.findall(text))
    if not machines:
        return "none was granted; its workers have no free cores or too little memory, or there are none"
    ended = _ENDED.findall(text)
    if not ended:
        return f"not yet started on {', '.join(sorted(set(machines.values())))}"
    number, how = ended[-1]
    where = machines.get(number, "a worker")
    return f"on {where} an executor ended ({how or 'no reason given'}); see its stderr on that worker's page"
