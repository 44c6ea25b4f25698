"""Run broker, dashboard and producer for long, and see that nothing grows: memory of each process, size of each file.

Retention is short, in Kafka and in the results database, so that all that is to be forgotten is forgotten many times
over. At the end every reading must be counted, and since the warm-up no process may have grown by 5 % and no group of
files either. What was seen is drawn into a page of its own; the exit status is 1 when anything grew or was lost.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
from jinja2 import Environment, FileSystemLoader
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource
from plotly.offline import get_plotlyjs

from iot import cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import harness
from iot.broker.broker import Broker, find_free_port
from iot.kafka.client_config import kafka_python_config
from iot.kafka.offsets import end_offsets
from iot.processes import StopSignal, spawn
from iot.settings import READINGS_TOPIC, UserError

ROOT = Path(__file__).parents[1]
MINUTES = 30.0
RATE_PER_S = 5_000
SENSORS = 1_000
# Processed before the run begins: only then is Spark up, and nothing expires unread.
FIRST = 1_000
SAMPLE_S = 2.0
START_S = 300.0
CATCH_UP_S = 60.0
STOP_S = 60.0

# Of the whole run; what is remembered for five minutes has come and gone by then.
WARM_UP = 0.4
# Beginning and end of what comes after the warm-up: the medians of so much of it are compared.
EDGE = 0.2
GROWTH_PCT = 5.0
# Spark starts Python workers as it needs them, at most one for each task that runs at once, and ends one that was idle
# for a minute: so their sum says little, and each of them is judged.
WORKER, WORKERS = "largest Python worker", "all Python workers"
# Less is no growth, in whatever relation it stands to what was there.
LEAST_MB = 5.0
RETENTION_S = 180
SEGMENT_BYTES = 8 * 2**20


class Sample(msgspec.Struct):
    """One moment: megabytes by process and by group of files."""

    at_s: float
    memory_mb: dict[str, float]
    """What a process would give back if it ended: pages that several share count in parts (PSS)."""
    resident_mb: dict[str, float]
    """RSS."""
    files_mb: dict[str, float]


class Trend(msgspec.Struct):
    """How one thing changed after the warm-up."""

    what: str
    start_mb: float
    end_mb: float
    most_mb: float
    """In the whole run."""

    @property
    def growth_pct(self) -> float:
        return 100 * (self.end_mb / self.start_mb - 1) if self.start_mb else 0.0

    @property
    def grew(self) -> bool:
        return self.what != WORKERS and self.growth_pct >= GROWTH_PCT and self.end_mb - self.start_mb >= LEAST_MB


class Soak(msgspec.Struct):
    """What a run came to."""

    minutes: float
    rate_per_s: int
    sent: int
    """As the topic's own offsets say."""
    processed: int
    rejected: int
    unhealthy: int
    """Samples at which /healthz said no."""
    samples: list[Sample]
    problems: list[str] = []

    def trends(self) -> tuple[list[Trend], list[Trend]]:
        """Of processes and of files."""
        return _trends(self.samples, "memory_mb"), _trends(self.samples, "files_mb")

    def faults(self) -> list[str]:
        """What is not as it must be, but growth; a line each."""
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

    def median(of: list[tuple[float, float]], since_s: float) -> float:
        found = [mb for at_s, mb in of if since_s <= at_s <= since_s + edge_s]
        return statistics.median(found) if found else 0.0

    return [
        Trend(what, median(of, WARM_UP * end_s), median(of, end_s - edge_s), max(mb for _, mb in of))
        for what, of in values.items()
    ]


class Watched:
    """The processes and files of a run, by the names under which they are told of."""

    def __init__(self, folder: Path, broker: int, app: int, producer: int) -> None:
        self._roots = {"broker": broker, "app": app, "producer": producer}
        self._files = {
            "database": [folder / "results.db*"],
            "checkpoints": [folder / "checkpoints" / "**" / "*"],
            "broker's data": [folder / "broker" / "kafka" / "**" / "*"],
            "logs": [folder / "log" / "*", folder / "broker" / "broker.log*"],
            "temporary files": [folder / "tmp" / "**" / "*"],
        }

    def look(self, at_s: float) -> Sample:
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
    """What the files take on disk: Kafka's indexes have holes."""
    size = 0
    for path in Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))):
        with suppress(OSError):
            size += path.lstat().st_blocks * 512
    return size / 2**20


def run(
    folder: Path,
    minutes: float,
    rate_per_s: int,
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
    retention_s: int = RETENTION_S,
    segment_bytes: int = SEGMENT_BYTES,
) -> Soak:
    """Run everything in a folder for so long, and look at it all the while.

    Raises:
        UserError: something does not start.
    """
    stop = stop or threading.Event()
    broker = Broker(
        find_free_port(),
        folder / "broker",
        properties={
            "log.segment.bytes": str(segment_bytes),
            "log.retention.check.interval.ms": "5000",
            "log.segment.delete.delay.ms": "1000",
        },
    )
    soak = Soak(minutes, rate_per_s, 0, 0, 0, 0, [])
    with ExitStack() as stack:
        stack.enter_context(broker)
        port = find_free_port()
        app = stack.enter_context(_process(app_command(folder, broker, port, retention_s), folder, "app"))
        api = f"http://127.0.0.1:{port}"
        stack.enter_context(_process(producer_command(broker, FIRST, 1), folder, "first"))

        def counted(count: int) -> bool:
            metrics = _get(f"{api}/api/metrics") or {"total_messages": 0, "rejected_messages": 0}
            soak.processed, soak.rejected = metrics["total_messages"] - FIRST, metrics["rejected_messages"]
            return soak.processed + soak.rejected >= count

        _await(lambda: counted(0) and _get(f"{api}/healthz") is not None, START_S, app, folder, stop)
        retain(broker, retention_s)
        say(f"broker and dashboard are up; {rate_per_s:,} readings a second for {minutes:g} min")
        producer = stack.enter_context(_process(producer_command(broker, rate_per_s, minutes * 60), folder, "producer"))
        watched = Watched(folder, broker.pid, app.pid, producer.pid)
        begun_s = time.monotonic()
        while producer.poll() is None and app.poll() is None and not stop.wait(SAMPLE_S):
            soak.samples.append(watched.look(time.monotonic() - begun_s))
            soak.unhealthy += _get(f"{api}/healthz") is None
            if len(soak.samples) % 30 == 0:
                say(_line(soak.samples[-1]))
        for name, process in {"app": app, "producer": producer}.items():
            if process.poll():
                soak.problems.append(f"the {name} ended with status {process.returncode}: {_last_line(folder, name)}")
        soak.sent = sum(end_offsets(broker.kafka, READINGS_TOPIC).values()) - FIRST
        with suppress(UserError):
            _await(lambda: counted(soak.sent), CATCH_UP_S, app, folder, stop)
    return soak


def retain(broker: Broker, retention_s: int) -> None:
    """Have the topics forget, from now on, what is older."""
    kept = {"retention.ms": str(retention_s * 1000)}
    with KafkaAdminClient(**kafka_python_config(broker.kafka)) as admin:
        admin.alter_configs([ConfigResource("TOPIC", name, configs=kept) for name in broker.topics])


def app_command(folder: Path, broker: Broker, port: int, retention_s: int) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "iot_streaming_app.py"), "--bootstrap-servers", broker.bootstrap_servers),
        *("--port", str(port), "--checkpoint-dir", str(folder / "checkpoints"), "--retention", f"{retention_s}s"),
        *("--database-url", f"sqlite:///{folder / 'results.db'}", "--starting-offsets", "earliest"),
    ]


def producer_command(broker: Broker, rate_per_s: int, duration_s: float) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "iot_producer.py"), "--bootstrap-servers", broker.bootstrap_servers),
        *("--client", "confluent-kafka", "--sensors", str(SENSORS), "--seed", "1"),
        *("--rate", str(rate_per_s), "--count", str(round(rate_per_s * duration_s))),
    ]


@contextmanager
def _process(command: list[str], folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of our scripts, with its output in ``log/<name>.out`` and its temporary files in ``tmp``."""
    for sub in ("log", "tmp"):
        (folder / sub).mkdir(exist_ok=True)
    environment = os.environ | {
        "IOT_LOG_DIR": str(folder / "log"),
        "SPARK_LOCAL_DIRS": str(folder / "tmp"),
        "TMPDIR": str(folder / "tmp"),
    }
    with (folder / "log" / f"{name}.out").open("wb") as output:
        process = spawn(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(
    condition: Callable[[], bool],
    timeout_s: float,
    app: subprocess.Popen[bytes],
    folder: Path,
    stop: threading.Event,
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if app.poll() is not None or time.monotonic() > deadline_s or stop.wait(0.2):
            raise UserError(f"the dashboard is not ready: {_last_line(folder, 'app')}")


def _last_line(folder: Path, name: str) -> str:
    lines = (folder / "log" / f"{name}.out").read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"


def _get(url: str) -> Any:
    """The JSON there; None where there is no answer, or one that all is not well."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return msgspec.json.decode(response.read())
    except (OSError, msgspec.DecodeError):
        return None


# What is told ---------------------------------------------------------------------------------------------------------


def _line(sample: Sample) -> str:
    parts = [f"{what} {mb:,.0f}" for what, mb in (sample.memory_mb | sample.files_mb).items()]
    return f"{sample.at_s / 60:6.1f} min   MB: {', '.join(parts)}"


def table(soak: Soak) -> list[str]:
    """Lines: what was at the start and at the end of the time after the warm-up."""
    lines = [f"{'MB, after the warm-up':<24}{'start':>10}{'end':>10}{'growth':>10}{'at most':>10}"]
    for trends in soak.trends():
        for trend in trends:
            lines.append(
                f"{trend.what:<24}{trend.start_mb:>10,.1f}{trend.end_mb:>10,.1f}{trend.growth_pct:>+9.1f}%"
                f"{trend.most_mb:>10,.1f}{'   GREW' if trend.grew else ''}"
            )
        lines.append("")
    return lines


def write_page(path: Path, soak: Soak) -> None:
    """A page with the table and charts, in one file that needs no network."""
    made = Environment(
        loader=FileSystemLoader([ROOT / "benchmarks", ROOT / "iot" / "loadtest" / "static"]), autoescape=True
    )
    page = made.get_template("soak_report.html").render(
        soak=soak,
        groups=dict(zip(("Memory of processes", "Files"), soak.trends(), strict=True)),
        faults=soak.faults(),
        data=msgspec.to_builtins(soak) | {"warm_up": WARM_UP},
        plotly=get_plotlyjs(),
    )
    path.write_text(page, encoding="utf-8")


def soak_and_tell(args: argparse.Namespace, stop: threading.Event) -> int:
    """Soak, print the table, and draw it; 1 if something grew or went wrong."""
    with tempfile.TemporaryDirectory(prefix="iot-soak-") as folder:
        soak = run(Path(folder), args.minutes, args.rate, lambda text: print(text, flush=True), stop)
    if stop.is_set() or len(soak.samples) < 2:
        return 1
    print(*table(soak), sep="\n")
    faults = soak.faults() + [f"{trend.what} grew" for trends in soak.trends() for trend in trends if trend.grew]
    print(f"{soak.processed:,} of {soak.sent:,} readings counted; {', '.join(faults) if faults else 'nothing grew'}")
    write_page(args.report, soak)
    print(f"drawn in {args.report}")
    return 1 if faults else 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__)
    parser.add_argument("--minutes", type=cli.positive_float, default=MINUTES, help="how long readings flow")
    parser.add_argument("--rate", type=cli.positive_int, default=RATE_PER_S, help="readings a second")
    parser.add_argument("--report", type=Path, metavar="FILE", default=Path("soak.html"), help="the page to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: soak_and_tell(args, StopSignal().install().event))


if __name__ == "__main__":
    sys.exit(main())
