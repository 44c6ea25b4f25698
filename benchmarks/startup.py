"""Measure how long ``iot_streaming_app.py --demo`` takes to its first number, with and without each of its tricks.

Each run has its own broker, ports and folders. The first number is there when ``/api/metrics`` has
``total_messages`` above 0. One start is thrown away at the beginning, when also the class archives are written; then
the variants take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks import harness
from benchmarks.startup_variants import VARIANTS
from iot import cli
from iot.broker.broker import find_free_port
from iot.java import class_archives
from iot.java.runtime import find_runtime
from iot.pipeline import training
from iot.settings import UserError

ROOT = Path(__file__).parents[1]
# Maximum time to the first number.
LONGEST_S = 600.0
# How often the API is asked.
LOOK_EVERY_S = 0.05


def first_number_s(variant: str) -> float:
    """Start the application, and return how many seconds later its first number is there.

    Raises:
        UserError: it ends before, or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="iot-startup-") as name:
        folder, port = Path(name), find_free_port()
        command = [sys.executable, "-m", "benchmarks.startup_variants", variant]
        command += ["--demo", "--port", str(port), "--bootstrap-servers", f"localhost:{find_free_port()}"]
        command += ["--checkpoint-dir", str(folder), "--database-url", f"sqlite:///{folder / 'results.db'}"]
        environment = os.environ | {"IOT_DATA_DIR": str(folder / "data"), "IOT_LOG_DIR": str(folder / "log")}
        output = folder / "output"
        begun_s = time.perf_counter()
        with output.open("wb") as said:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        try:
            while not messages(port):
                if process.poll() is not None:
                    raise UserError(f"the application ended: {output.read_text(errors='replace').strip()[-400:]}")
                if time.perf_counter() - begun_s > LONGEST_S:
                    raise UserError(f"the application shows no number after {LONGEST_S:.0f} s")
                time.sleep(LOOK_EVERY_S)
            return time.perf_counter() - begun_s
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(120)
            finally:
                process.kill()
                process.wait()
                await_children(folder)


def await_children(folder: Path) -> None:
    """Wait until no process names the folder. A JVM may write a class archive after the application has ended."""
    deadline_s = time.perf_counter() + LONGEST_S
    while any(str(folder) in " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])):
        if time.perf_counter() > deadline_s:
            raise UserError(f"processes of the application have not ended; their command lines contain {folder}")
        time.sleep(LOOK_EVERY_S)


def messages(port: int) -> int:
    """Return ``total_messages`` of the application's API; 0 while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/metrics", timeout=5) as response:
            return json.load(response).get("total_messages") or 0
    except (OSError, ValueError):
        return 0


def measure(variants: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Return the seconds to the first number of each variant, one for each round.

    Raises:
        UserError: the application does not show a number, or this Java writes no class archives.
    """
    training.main()
    first_number_s(variants[0])
    if not all(class_archives.jvm_flags(name) for name in class_archives.NAMES):
        raise UserError("this Java writes no class archives: set JAVA_HOME to another Java")
    took_s: dict[str, list[float]] = {variant: [] for variant in variants}
    for number in range(rounds):
        # Another variant begins each round, so that none always follows the same one.
        first = number % len(variants)
        for variant in [*variants[first:], *variants[:first]]:
            took_s[variant].append(first_number_s(variant))
            print(f"round {number + 1}: {variant:<28}{took_s[variant][-1]:6.1f} s", flush=True)
    return took_s


def report(took_s: dict[str, list[float]]) -> None:
    everything_s = statistics.median(took_s["everything"])
    print(f"\n{'to the first number':<28}{'median s':>10}{'fastest s':>11}{'slowest s':>11}{'ratio':>8}")
    for variant, seconds in took_s.items():
        median_s = statistics.median(seconds)
        print(
            f"{variant:<28}{median_s:>10.1f}{min(seconds):>11.1f}{max(seconds):>11.1f}{median_s / everything_s:>8.2f}"
        )


def run(args: argparse.Namespace) -> None:
    runtime = find_runtime()
    print(f"Java {runtime.build} in {runtime.home}, {os.cpu_count()} processors", flush=True)
    report(measure(["everything", *(args.without or list(VARIANTS)[1:])], args.rounds))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__, rounds=7)
    parser.add_argument(
        "--without",
        action="append",
        choices=list(VARIANTS)[1:],
        help="measure only this variant, besides everything; may be given several times (default: all)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
