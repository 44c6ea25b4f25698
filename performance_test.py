"""Load tests: how fast readings can be sent, how long each takes, what it costs, and whether all of them arrive.

Without --test a menu. All of a test's readings are real ones of simulated sensors; a test is a success when the broker
acknowledged each and the topic grew by as many. What is worse than in an earlier run is found with --compare.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from iot import cli, terminal
from iot.kafka.connect import require_broker
from iot.kafka.sender import CLIENTS
from iot.kafka.topics import TOPICS, ensure_topics
from iot.loadtest import end_to_end, results, versus
from iot.loadtest.plan import COURSE_MESSAGES, COURSE_THREADS, DELIVERY_TIMEOUT_S, PRESETS, Plan, make_plan
from iot.loadtest.report import write_report
from iot.loadtest.results import Comparison, Report, Result
from iot.loadtest.trial import run_trial
from iot.processes import StopSignal
from iot.settings import Kafka, UserError
from iot.terminal import StatusLine

MENU = {
    "1": ("burst", "Burst: 1,000 readings, 4 threads"),
    "2": ("high-volume", "High volume: 10,000 readings, 8 threads"),
    "3": ("stress", "Stress: 50,000 readings, 16 threads"),
    "4": ("sustained", "Sustained: 100 readings a second for 60 s"),
    "5": ("custom", "Custom: as many readings and threads as you like"),
    "6": ("compare", "Compare with Kafka's own tool and the course's method"),
    "7": ("end-to-end", "End to end: through a running dashboard"),
    "0": ("", "Exit"),
}
TESTS = tuple(test for test, _ in MENU.values() if test)
MAX_MESSAGES, MAX_THREADS = 1_000_000_000, 256
MAX_RATE_PER_S = 10_000_000
MARGIN_PCT = 10.0
DASHBOARD_URL = "http://localhost:5000"

T = TypeVar("T")


@dataclass
class Session:
    """All that is done in one run of the script."""

    args: argparse.Namespace
    kafka: Kafka
    stop: threading.Event
    tests: list[Result] = field(default_factory=list)
    comparison: list[Comparison] = field(default_factory=list)
    failures: int = 0

    @property
    def clients(self) -> tuple[str, ...]:
        return CLIENTS if self.args.client == "both" else (self.args.client,)

    def plans(self, test: str, messages: int | None, threads: Iterable[int | None]) -> list[Plan]:
        args = self.args
        return [
            make_plan(*(test, client, messages, count, args.rate, args.duration, args.in_flight, args.delivery_timeout))
            for count in threads
            for client in self.clients
        ]


def run_plans(session: Session, plans: Sequence[Plan]) -> None:
    """Run tests one after the other, and tell of each."""
    done = []
    for plan in plans:
        if session.stop.is_set():
            break
        with StatusLine(plain_every_s=2) as status:
            pace = f" at {plan.rate_per_s:,.10g} a second" if plan.rate_per_s else ""
            status.print(
                f"{plan.test}: {plan.messages:,} readings{pace} from {plan.threads} threads with {plan.client} "
                f"to {session.args.topic} at {session.kafka.bootstrap_servers}"
            )
            result = run_trial(plan, session.kafka, session.args.topic, status, session.stop)
            status.print(*(f"  {line}" for line in results.details(result)), "")
        done.append(result)
    session.tests += done
    session.failures += sum(not result.is_success for result in done) + (len(plans) - len(done))
    if done:
        show(results.table(done))
    if len({plan.threads for plan in plans}) > 1:
        for client in session.clients:
            of_client = [result for result in done if result.client == client and result.is_success]
            if of_client:
                best = max(of_client, key=lambda result: result.throughput_per_s)
                frugal = max(of_client, key=lambda result: result.throughput_per_cpu_pct)
                print(
                    f"{client}: fastest with {best.threads} threads ({best.throughput_per_s:,.0f}/s), most for its CPU "
                    f"with {frugal.threads} ({frugal.throughput_per_cpu_pct:,.0f} readings/s per 1 % CPU)"
                )


def run_test(session: Session, test: str, messages: int | None, threads: list[int] | None) -> None:
    """Run one test of the menu."""
    if test == "compare":
        with StatusLine(plain_every_s=5) as status:
            of_threads = threads[0] if threads else COURSE_THREADS
            found = versus.compare(
                *(session.clients, messages, of_threads, session.args.rounds, session.kafka, status, session.stop)
            )
        session.comparison = found.comparison
        session.tests += found.tests
        session.failures += not found.is_complete
        if found.comparison:
            show(versus.table(found.comparison))
    elif test == "end-to-end":
        with StatusLine(plain_every_s=2) as status:
            args = session.args
            how = end_to_end.Way(
                *(args.dashboard_url, args.topic, args.rate, args.duration, messages, session.clients[-1]),
                token=os.environ.get("IOT_TOKEN"),
            )
            result = end_to_end.run(how, session.kafka, status, session.stop)
        print("\n".join(results.details(result)))
        show(end_to_end.table(result.stages))
        session.tests.append(result)
        session.failures += not result.is_success
    else:
        run_plans(session, session.plans(test, messages, threads or [None]))


def show(table: object) -> None:
    # Piped into a file there is no edge to fold at.
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)


# The menu -------------------------------------------------------------------------------------------------------------


def ask(question: str, parse: Callable[[str], T], otherwise: T, stop: threading.Event) -> T:
    """Ask until the answer can be used; Enter takes ``otherwise``.

    Raises:
        EOFError: there is nobody to answer, or it was told to stop.
    """
    while True:
        answer = read_line(f"{question} [{otherwise:,}]: ", stop).strip()
        if not answer:
            return otherwise
        try:
            return parse(answer.replace(",", ""))
        except argparse.ArgumentTypeError as error:
            print(f"  {error}")


def read_line(prompt: str, stop: threading.Event) -> str:
    """One line from the terminal. Raises ``EOFError`` at its end, and when ``stop`` is set while waiting."""
    print(prompt, end="", flush=True)
    lines: list[str] = []
    # A read that waits for the keyboard cannot be interrupted, so it is left alone.
    reader = threading.Thread(target=lambda: lines.append(sys.stdin.readline()), daemon=True)
    reader.start()
    while reader.is_alive() and not stop.is_set():
        reader.join(0.05)
    if not lines or not lines[0]:
        print()
        raise EOFError
    return lines[0]


def menu(session: Session) -> None:
    """Ask for a test, run it, ask again."""
    print("Load tests of the IoT pipeline")
    while not session.stop.is_set():
        print("\n".join(["", *(f"  {number}  {about}" for number, (_, about) in MENU.items())]))
        try:
            choice = read_line("Your choice: ", session.stop).strip()
            if choice not in MENU:
                print(f"  {terminal.printable(choice)!r} is none of them: type a number from 0 to 7")
                continue
            test, _ = MENU[choice]
            if not test:
                return
            messages, threads = session.args.messages, session.args.threads
            if test == "custom":
                messages = ask("Readings", at_most(MAX_MESSAGES), messages or COURSE_MESSAGES, session.stop)
                threads = [ask("Threads", at_most(MAX_THREADS), COURSE_THREADS, session.stop)]
        except EOFError:
            return
        try:
            run_test(session, test, messages, threads)
        except UserError as error:
            session.failures += 1
            print(f"error: {error}", file=sys.stderr)


# From beginning to end ------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace, stop: threading.Event) -> int:
    """Run what was asked for and keep the results; returns the exit status.

    Raises:
        UserError: something that the user can cure.
    """
    earlier = results.read_earlier(args.compare) if args.compare else None
    for path in filter(None, (args.output, args.report)):
        if not path.parent.is_dir():
            raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    kafka = cli.kafka_from(args)
    session = Session(args, kafka, stop)
    require_broker(kafka)
    for warning in ensure_topics(kafka, dict.fromkeys((*TOPICS, args.topic))):
        print(f"warning: {warning}", file=sys.stderr)
    if args.test:
        run_test(session, args.test, args.messages, args.threads)
    else:
        menu(session)
    report = Report(
        environment=results.environment(args.topic, kafka.bootstrap_servers),
        tests=session.tests,
        comparison=session.comparison,
    )
    if args.output:
        results.write(args.output, results.encode(report))
        print(f"results in {args.output}")
    if args.report:
        write_report(args.report, report)
        print(f"report in {args.report}")
    if earlier:
        lines, compared = results.regressions(earlier, session.tests, args.margin / 100)
        if not compared:
            raise UserError(
                f"nothing to compare: {args.compare} has none of these tests with these clients and threads"
            )
        print("\n".join(f"REGRESSION {line}" for line in lines) or f"no regression in {compared} tests")
        session.failures += len(lines)
    return 1 if session.failures else 0


def at_most(most: int) -> Callable[[str], int]:
    """argparse type: a whole number from 1 to ``most``."""

    def whole(text: str) -> int:
        value = cli.positive_int(text)
        if value > most:
            raise argparse.ArgumentTypeError(f"{value:,} is too many: at most {most:,}")
        return value

    return whole


def thread_counts(text: str) -> list[int]:
    """argparse type: one or more numbers of threads, with commas between them."""
    return [at_most(MAX_THREADS)(part.strip()) for part in text.split(",")]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument("--test", choices=TESTS, help="run this one instead of the menu")
    parser.add_argument("--messages", metavar="N", type=at_most(MAX_MESSAGES), help="how many readings to send")
    parser.add_argument(
        "--threads", metavar="T[,T…]", type=thread_counts, help="how many threads; several with commas are a sweep"
    )
    parser.add_argument(
        "--rate", metavar="R", type=cli.positive_float, help="readings a second, of all threads together"
    )
    parser.add_argument("--duration", metavar="S", type=cli.positive_float, help="send at the rate for so long")
    parser.add_argument(
        "--in-flight",
        metavar="N",
        type=at_most(100_000),
        help="the most unacknowledged readings of a thread; 1: wait for each",
    )
    parser.add_argument("--client", choices=(*CLIENTS, "both"), default="both", help="the Kafka client that sends")
    parser.add_argument(
        "--delivery-timeout",
        metavar="S",
        type=cli.positive_float,
        default=DELIVERY_TIMEOUT_S,
        help="a reading that is not acknowledged by then has failed",
    )
    parser.add_argument("--rounds", metavar="N", type=cli.positive_int, default=3, help="of compare")
    parser.add_argument("--dashboard-url", metavar="URL", default=DASHBOARD_URL, help="of end-to-end")
    parser.add_argument("--output", metavar="FILE.json", type=Path, help="write the results here")
    parser.add_argument("--report", metavar="FILE.html", type=Path, help="write a page with charts here")
    parser.add_argument("--compare", metavar="OLD.json", type=Path, help="exit 1 if it has become worse since that run")
    parser.add_argument(
        "--margin", metavar="PCT", type=cli.positive_float, default=MARGIN_PCT, help="worse by more than so much"
    )
    args = parser.parse_args(argv)
    if args.test is None and (args.messages or args.threads or args.rate or args.duration):
        args.test = "custom"
    if args.duration and args.messages:
        parser.error("--duration does not go with --messages: either says when to end")
    if args.duration and not args.rate and args.test not in ("sustained", "end-to-end"):
        parser.error("--duration needs --rate")
    if args.rate and args.test == "compare":
        parser.error("--rate does not go with compare, which is about as fast as it goes")
    if args.rate and args.rate > MAX_RATE_PER_S:
        parser.error(f"--rate can be {MAX_RATE_PER_S:,} at most")
    if args.delivery_timeout < 1:
        parser.error("--delivery-timeout can be 1 s at least")
    if args.threads and len(args.threads) > 1 and args.test not in PRESETS:
        parser.error("a sweep of --threads is for burst, high-volume, stress, sustained and custom")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, StopSignal().install().event))


if __name__ == "__main__":
    sys.exit(main())
