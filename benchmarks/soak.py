"""Run broker, dashboard and producer for a long time, and check that no process and no file grows.

Retention is short, in Kafka and in the results database, so that everything that expires does so many times. At the
end every reading must be counted, and a webhook must have been told once of the beginning and once of the end of each
alarm. After the warm-up no process and no group of files may grow by 5 % or more. The result is written as a page with
charts. The exit status is 1 if anything grew or was lost.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource

from benchmarks import harness, soak_alarms, soak_report
from benchmarks.soak_growth import Sampler, Soak
from iot import cli
from iot.broker.broker import Broker, find_free_port
from iot.kafka.client_config import kafka_python_config
from iot.kafka.offsets import end_offsets
from iot.processes import StopSignal, spawn
from iot.settings import READINGS_TOPIC, UserError
from tests.support import notified
from tests.support.http_receiver import http_receiver

ROOT = Path(__file__).parents[1]
MINUTES = 30.0
RATE_PER_S = 5_000
SENSORS = 1_000
# Number of readings processed before the run: they show that Spark is up, so that none expires unread.
FIRST = 1_000
# How often processes and files are measured.
SAMPLE_S = 2.0
# How long to wait for the start, for the last readings to be processed, and for a process to end.
START_S = 300.0
CATCH_UP_S = 60.0
STOP_S = 60.0


@dataclass(frozen=True)
class Settings:
    """How long to run, how fast, and how much of the data is kept."""

    minutes: float = MINUTES
    rate_per_s: int = RATE_PER_S
    retention_s: int = 180
    """Of the topics and of the results database."""
    segment_bytes: int = 8 * 2**20
    """Kafka deletes whole segments of this size."""


def run(
    folder: Path,
    settings: Settings,
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> Soak:
    """Run everything with its files in a folder, and measure until the producer has sent all readings.

    Raises:
        UserError: Something does not start.
    """
    stop = stop or threading.Event()
    soak = Soak(settings.minutes, settings.rate_per_s)
    with ExitStack() as stack:
        broker = stack.enter_context(make_broker(folder, settings.segment_bytes))
        port = find_free_port()
        webhook = stack.enter_context(http_receiver())
        notify_file = folder / "notify.toml"
        notify_file.write_text(notified.NOTIFY.format(url=webhook.url()))
        command = [*app_command(folder, broker, port, settings.retention_s), "--notify", str(notify_file)]
        app = stack.enter_context(_process(command, folder, "app"))
        api = f"http://127.0.0.1:{port}"
        stack.enter_context(_process(producer_command(broker, FIRST, 1), folder, "first"))

        def has_counted(count: int) -> bool:
            metrics = _get(f"{api}/api/metrics") or {"total_messages": 0, "rejected_messages": 0}
            soak.processed, soak.rejected = metrics["total_messages"] - FIRST, metrics["rejected_messages"]
            return soak.processed + soak.rejected >= count

        _wait_until(lambda: has_counted(0) and _get(f"{api}/healthz") is not None, START_S, app, folder, stop)
        set_retention(broker, settings.retention_s)
        say(f"broker and dashboard are up; {settings.rate_per_s:,} readings a second for {settings.minutes:g} min")
        command = producer_command(broker, settings.rate_per_s, settings.minutes * 60)
        producer = stack.enter_context(_process(command, folder, "producer"))
        sampler = Sampler(folder, broker.pid, app.pid, producer.pid)
        started_s = time.monotonic()
        while producer.poll() is None and app.poll() is None and not stop.wait(SAMPLE_S):
            soak.samples.append(sampler.sample(time.monotonic() - started_s))
            soak.unhealthy += _get(f"{api}/healthz") is None
            if len(soak.samples) % 30 == 0:
                say(soak_report.line(soak.samples[-1]))
        for name, process in {"app": app, "producer": producer}.items():
            if process.poll():
                soak.problems.append(f"the {name} ended with status {process.returncode}: {_last_line(folder, name)}")
        soak.sent = sum(end_offsets(broker.kafka, READINGS_TOPIC).values()) - FIRST
        with suppress(UserError):
            _wait_until(lambda: has_counted(soak.sent), CATCH_UP_S, app, folder, stop)
        if app.poll() is None and not stop.is_set():
            soak.problems += soak_alarms.mistakes(broker.kafka, lambda path: _get(api + path), webhook.taken)
        soak.told = len(notified.told(webhook.taken).firing)
    return soak


def make_broker(folder: Path, segment_bytes: int) -> Broker:
    """Return a broker, not started yet, that deletes expired segments within seconds."""
    properties = {
        "log.segment.bytes": str(segment_bytes),
        "log.retention.check.interval.ms": "5000",
        "log.segment.delete.delay.ms": "1000",
    }
    return Broker(find_free_port(), folder / "broker", properties=properties)


def set_retention(broker: Broker, retention_s: int) -> None:
    """Set the retention time of all topics."""
    config = {"retention.ms": str(retention_s * 1000)}
    with KafkaAdminClient(**kafka_python_config(broker.kafka)) as admin:
        admin.alter_configs([ConfigResource("TOPIC", name, configs=config) for name in broker.topics])


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
    """Run a script; its output goes to ``log/<name>.out`` and its temporary files to ``tmp``."""
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


def _wait_until(
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
    return lines[-1] if lines else "it printed nothing"


def _get(url: str) -> Any:
    """The JSON at a URL; None if there is no answer or its status is an error."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return msgspec.json.decode(response.read())
    except (OSError, msgspec.DecodeError):
        return None


def run_and_report(args: argparse.Namespace, stop: threading.Event) -> int:
    """Run, print the table and write the page; returns 1 if something grew or went wrong."""
    settings = Settings(args.minutes, args.rate)
    with tempfile.TemporaryDirectory(prefix="iot-soak-") as folder:
        soak = run(Path(folder), settings, lambda text: print(text, flush=True), stop)
    if stop.is_set() or len(soak.samples) < 2:
        return 1
    print(*soak_report.table(soak), sep="\n")
    faults = soak.faults() + [f"{trend.what} grew" for trends in soak.trends() for trend in trends if trend.grew]
    print(f"{soak.processed:,} of {soak.sent:,} readings counted, {soak.told:,} alarms notified")
    print(", ".join(faults) if faults else "nothing grew")
    soak_report.write_page(args.report, soak)
    print(f"report written to {args.report}")
    return 1 if faults else 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__)
    parser.add_argument("--minutes", type=cli.positive_float, default=MINUTES, help="how long to send readings")
    parser.add_argument("--rate", type=cli.positive_int, default=RATE_PER_S, help="readings a second")
    parser.add_argument("--report", type=Path, metavar="FILE", default=Path("soak.html"), help="page to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run_and_report(args, StopSignal().install().event))


if __name__ == "__main__":
    sys.exit(main())
