"""What the soak test measures: memory by process and size by group of files, and which of them grew."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

# Part of the run that is the warm-up. In 30 minutes it is long enough for everything kept for five minutes to expire.
WARM_UP = 0.4
# Part of the time after the warm-up whose median is its start, and likewise its end.
EDGE = 0.2
# Growth in percent, and in megabytes, from which a process or a group of files has grown.
GROWTH_PCT = 5.0
MIN_GROWTH_MB = 5.0
# Spark starts a Python worker for each concurrent task and ends it after a minute without work. So the sum of all
# workers varies, and only the largest is judged.
WORKER, WORKERS = "largest Python worker", "all Python workers"


class Sample(msgspec.Struct):
    """Megabytes by process and by group of files at one moment."""

    at_s: float
    memory_mb: dict[str, float]
    """PSS: pages that several processes share are divided between them."""
    resident_mb: dict[str, float]
    """RSS: shared pages count in each process."""
    files_mb: dict[str, float]


class Trend(msgspec.Struct):
    """How one process or group of files changed after the warm-up."""

    what: str
    start_mb: float
    end_mb: float
    most_mb: float
    """The maximum in the whole run."""

    @property
    def growth_pct(self) -> float:
        return 100 * (self.end_mb / self.start_mb - 1) if self.start_mb else 0.0

    @property
    def grew(self) -> bool:
        return self.what != WORKERS and self.growth_pct >= GROWTH_PCT and self.end_mb - self.start_mb >= MIN_GROWTH_MB


class Soak(msgspec.Struct):
    """The result of a run."""

    minutes: float
    rate_per_s: int
    sent: int = 0
    """From the offsets of the topic."""
    processed: int = 0
    rejected: int = 0
    unhealthy: int = 0
    """Number of samples at which /healthz did not answer 200."""
    told: int = 0
    """Number of alarms that a webhook was told about."""
    samples: list[Sample] = []
    problems: list[str] = []

    def trends(self) -> tuple[list[Trend], list[Trend]]:
        """Return the trends of processes and of files."""
        return _trends(self.samples, "memory_mb"), _trends(self.samples, "files_mb")

    def faults(self) -> list[str]:
        """Return everything that went wrong except growth, one line each."""
        faults = list(self.problems)
        wanted = round(self.minutes * 60 * self.rate_per_s)
        if self.sent != wanted:
            faults.append(f"{self.sent:,} readings were sent instead of {wanted:,}")
        if (self.processed, self.rejected) != (self.sent, 0):
            faults.append(f"{self.processed:,} of {self.sent:,} readings were counted, and {self.rejected:,} rejected")
        if self.unhealthy:
            faults.append(f"not healthy in {self.unhealthy:,} of {len(self.samples):,} samples")
        return faults


def _trends(samples: list[Sample], kind: str) -> list[Trend]:
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        for what, mb in getattr(sample, kind).items():
            values[what].append((sample.at_s, mb))
    end_s = samples[-1].at_s
    edge_s = EDGE * (1 - WARM_UP) * end_s

    def median(series: list[tuple[float, float]], since_s: float) -> float:
        found = [mb for at_s, mb in series if since_s <= at_s <= since_s + edge_s]
        return statistics.median(found) if found else 0.0

    return [
        Trend(what, median(series, WARM_UP * end_s), median(series, end_s - edge_s), max(mb for _, mb in series))
        for what, series in values.items()
    ]


class Sampler:
    """Measures the processes and files of a run in ``folder``; takes the process ids."""

    def __init__(self, folder: Path, broker: int, app: int, producer: int) -> None:
        self._roots = {"broker": broker, "app": app, "producer": producer}
        self._files = {
            "database": [folder / "results.db*"],
            "checkpoints": [folder / "checkpoints" / "**" / "*"],
            "broker's data": [folder / "broker" / "kafka" / "**" / "*"],
            "logs": [folder / "log" / "*", folder / "broker" / "broker.log*"],
            "temporary files": [folder / "tmp" / "**" / "*"],
        }

    def sample(self, at_s: float) -> Sample:
        """Measure now, ``at_s`` seconds after the start of the run."""
        memory: dict[str, float] = defaultdict(float)
        resident: dict[str, float] = defaultdict(float)
        for what, process in self._processes():
            with suppress(psutil.Error):
                used = process.memory_full_info()
                for sums, size in ((memory, getattr(used, "pss", used.rss)), (resident, used.rss)):
                    sums[what] += size / 2**20
                    if what == WORKERS:
                        sums[WORKER] = max(sums[WORKER], size / 2**20)
        files = {what: sum(map(_size_mb, patterns)) for what, patterns in self._files.items()}
        return Sample(round(at_s, 1), dict(memory), dict(resident), files)

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        for what, pid in self._roots.items():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                yield what, process
                if what == "app":
                    yield from ((_part_of_app(child), child) for child in process.children(recursive=True))


def _part_of_app(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        command = " ".join(process.cmdline())
        for sign, what in {"SparkSubmit": "Spark's JVM", "pyspark": WORKERS, "iot.web": "page"}.items():
            if sign in command:
                return what
    return "app"


def _size_mb(pattern: Path) -> float:
    """The blocks on disk, not the file sizes, because Kafka's indexes are sparse files."""
    size = 0
    for path in Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))):
        with suppress(OSError):
            size += path.lstat().st_blocks * 512
    return size / 2**20
