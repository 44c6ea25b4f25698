"""The CPU of each process of the system, as far as they run on this machine.

They are found by the ports that they listen on: the broker by its own, the web server by that of the dashboard. The
application started the web server, Spark's JVM and its Python workers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import psutil

from iot.addresses import parse_addresses
from iot.loadtest.usage import SHORTEST_S

BROKER, APPLICATION, JVM, WORKERS, WEB, GENERATOR = "broker", "application", "JVM", "workers", "web", "generator"
ROLES = (BROKER, APPLICATION, JVM, WORKERS, WEB, GENERATOR)
APPLICATION_SCRIPT = "iot_streaming_app"
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
# How often to look for new processes and read their CPU time.
LOOK_EVERY_S = 1.0


class ProcessUsage(msgspec.Struct):
    """The CPU of the processes of one role over time, in per cent of a core, each since the moment before."""

    role: str
    at_s: list[float]
    cpu_pct: list[float]
    mean_cpu_pct: float


class Moment(NamedTuple):
    """CPU seconds of each role since the beginning, at a moment of the monotonic clock."""

    at_s: float
    cpu_s: dict[str, float]

    def cpu_pct_since(self, before: Moment) -> dict[str, float]:
        """The CPU of each role since an earlier moment, in per cent of a core."""
        took_s = max(self.at_s - before.at_s, 1e-9)
        return {
            role: round(100 * (used_s - before.cpu_s.get(role, 0.0)) / took_s, 1) for role, used_s in self.cpu_s.items()
        }


class ProcessCpu:
    """Reads the CPU time of all processes of the system now and then."""

    def __init__(
        self, bootstrap_servers: str, dashboard_url: str | None, generators: Iterable[int], now_s: float
    ) -> None:
        """
        Args:
            generators: the process ids of the load generator.
        """
        self._broker_ports = {one.port for one in parse_addresses(bootstrap_servers) if one.is_this_machine}
        parts = urlsplit(dashboard_url or "")
        is_here = parts.hostname in THIS_MACHINE
        self._web_port = (parts.port or (443 if parts.scheme == "https" else 80)) if is_here else None
        self.generators = set(generators)
        """More can be added, and they may end."""
        # Of each process, the CPU time at the first look, which does not count, and at the last one.
        self._first_s: dict[psutil.Process, float] = {}
        self._last_s: dict[psutil.Process, float] = {}
        self._roles: dict[psutil.Process, str] = {}
        self._begun_s = now_s
        self._fixed: list[tuple[str, psutil.Process]] = []
        self.find()
        self.moments: list[Moment] = []
        self.look(now_s)

    def find(self) -> None:
        """Find broker and web server by their ports; call this again after one of them was started."""
        self._fixed = [(BROKER, process) for process in listeners(self._broker_ports)]
        self._fixed += [(WEB, process) for process in listeners({self._web_port} if self._web_port else set())]

    def look_if_due(self, now_s: float) -> None:
        if now_s - self.moments[-1].at_s >= LOOK_EVERY_S:
            self.look(now_s)

    def look(self, now_s: float) -> Moment:
        """Read the CPU time of all processes. One that has ended counts with that of the look before."""
        for role, process in self._found():
            with suppress(psutil.Error):
                times = process.cpu_times()
                used_s = times.user + times.system
                if process not in self._roles:
                    is_new = self.moments and role in (WORKERS, GENERATOR)
                    self._first_s[process] = 0.0 if is_new else used_s
                self._roles[process], self._last_s[process] = role, used_s
        totals: defaultdict[str, float] = defaultdict(float)
        for process, role in self._roles.items():
            totals[role] += self._last_s[process] - self._first_s[process]
        moment = Moment(now_s, {role: totals[role] for role in ROLES if role in totals})
        self.moments.append(moment)
        return moment

    def usages(self) -> list[ProcessUsage]:
        """The CPU of each role over the whole time, with all moments of it; none if that was too short."""
        found: list[ProcessUsage] = []
        first, last = self.moments[0], self.moments[-1]
        if last.at_s - first.at_s < SHORTEST_S:
            return found
        for role in last.cpu_s:
            pairs = list(pairwise(self.moments))
            at_s = [round(after.at_s - self._begun_s, 2) for _, after in pairs]
            values = [after.cpu_pct_since(before).get(role, 0.0) for before, after in pairs]
            found.append(ProcessUsage(role, at_s, values, last.cpu_pct_since(first)[role]))
        return found

    def _found(self) -> Iterator[tuple[str, psutil.Process]]:
        yield from self._fixed
        brokers = {process for role, process in self._fixed if role == BROKER}
        for role, web in self._fixed:
            with suppress(psutil.Error):
                if role == WEB and (application := application_of(web)):
                    yield APPLICATION, application
                    yield from spark_of(application, brokers)
        for pid in self.generators:
            with suppress(psutil.Error):
                yield GENERATOR, psutil.Process(pid)


def listeners(ports: set[int]) -> list[psutil.Process]:
    """The processes that listen on these ports, as far as this user may see them."""
    found: set[psutil.Process] = set()
    with suppress(psutil.Error, PermissionError):
        for one in psutil.net_connections("tcp"):
            if ports and one.status == psutil.CONN_LISTEN and one.pid and one.laddr.port in ports:
                with suppress(psutil.Error):
                    found.add(psutil.Process(one.pid))
    return sorted(found, key=lambda process: process.pid)


def application_of(web: psutil.Process) -> psutil.Process | None:
    """The application that started a web server; None if it was started by itself."""
    parent = web.parent()
    is_application = parent is not None and any(APPLICATION_SCRIPT in word for word in parent.cmdline())
    return parent if is_application else None


def spark_of(application: psutil.Process, brokers: set[psutil.Process]) -> Iterator[tuple[str, psutil.Process]]:
    """Spark's JVM and its workers. With ``--demo`` the application may have started the broker, too."""
    for child in application.children():
        with suppress(psutil.Error):
            if child.name().startswith("java") and child not in brokers:
                yield JVM, child
                for worker in child.children(recursive=True):
                    yield WORKERS, worker
