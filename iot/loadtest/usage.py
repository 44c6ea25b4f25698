"""CPU and memory of some processes, and CPU of the whole machine, over time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import msgspec
import psutil

# Minimum duration of a test whose CPU is a figure, and minimum CPU time that something can be divided by.
SHORTEST_S, LEAST_CPU_S = 0.25, 0.1


class UsageSample(msgspec.Struct):
    """One moment of a test. CPU counts since the sample before.

    100 is one core in ``cpu_pct``, and all cores in ``machine_cpu_pct``.
    """

    at_s: float
    acknowledged: int
    cpu_pct: float
    machine_cpu_pct: float
    memory_mb: float


class Usage:
    """Samples the CPU and memory of processes, from the moment it is created.

    Linux counts CPU time in hundredths of a second. A figure that this makes uncertain by more than about a tenth is
    None: it was not measured.
    """

    def __init__(self, pids: Iterable[int], now_s: float) -> None:
        self._processes = []
        for pid in pids:
            with suppress(psutil.Error):
                self._processes.append(psutil.Process(pid))
        self._cpu_s = dict.fromkeys(self._processes, 0.0)
        self._begun_s = self._looked_s = now_s
        self._begun_cpu_s = self._looked_cpu_s = self._used_s()[0]
        self._machine = self._begun_machine = _machine_times()
        self.memory_peak_mb = 0.0
        self.samples: list[UsageSample] = []

    def look(self, acknowledged: int, now_s: float) -> None:
        """Take a sample, unless the last one is less than 10 ms old."""
        took_s = now_s - self._looked_s
        if took_s < 0.01:
            return
        cpu_s, memory_mb = self._used_s()
        machine = _machine_times()
        self.memory_peak_mb = max(self.memory_peak_mb, memory_mb)
        sample = UsageSample(
            round(now_s - self._begun_s, 3),
            acknowledged,
            round(100 * (cpu_s - self._looked_cpu_s) / took_s, 1),
            _busy_pct(self._machine, machine),
            round(memory_mb, 1),
        )
        self.samples.append(sample)
        self._looked_s, self._looked_cpu_s, self._machine = now_s, cpu_s, machine

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the processes up to the last sample."""
        return self._looked_cpu_s - self._begun_cpu_s

    @property
    def machine_cpu_pct(self) -> float | None:
        """CPU of the whole machine up to the last sample; 100 is all its cores."""
        if self._looked_s - self._begun_s < SHORTEST_S:
            return None
        return _busy_pct(self._begun_machine, self._machine)

    def cpu_pct(self, duration_s: float) -> float | None:
        """CPU of the processes over a test of this duration; 100 is one core."""
        return round(100 * self.cpu_s / duration_s, 1) if duration_s >= SHORTEST_S else None

    def per_cpu_pct(self, messages: int) -> float | None:
        """How many messages a second the processes handle with each per cent of a core."""
        return round(messages / 100 / self.cpu_s, 1) if self.cpu_s >= LEAST_CPU_S else None

    def _used_s(self) -> tuple[float, float]:
        """CPU seconds so far and memory in MB. An ended process counts with the CPU time of its last sample."""
        memory_bytes = 0
        for process in self._processes:
            with suppress(psutil.Error):
                with process.oneshot():
                    times = process.cpu_times()
                    memory_bytes += process.memory_info().rss
                self._cpu_s[process] = times.user + times.system
        return sum(self._cpu_s.values()), memory_bytes / 2**20


class Machine:
    """CPU of the whole machine from the moment that this is created."""

    def __init__(self) -> None:
        self._begun = _machine_times()

    def busy_pct(self) -> float:
        """The share of all cores that was used until now; 100 is all of them."""
        return _busy_pct(self._begun, _machine_times())


def _machine_times() -> tuple[float, float]:
    """Total and idle seconds of all cores together."""
    times = psutil.cpu_times()
    # The times of user and nice already include those of guests.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total, times.idle + getattr(times, "iowait", 0.0)


def _busy_pct(before: tuple[float, float], after: tuple[float, float]) -> float:
    total_s, idle_s = after[0] - before[0], after[1] - before[1]
    return round(100 * (1 - idle_s / total_s), 1) if total_s > 0 else 0.0
