"""Load tests: how fast readings are sent, how long each takes, how much CPU it costs, and whether all of them arrive.

Without --test it shows a menu. The readings are real ones of simulated sensors. A test succeeds when the broker has
acknowledged every reading and the topic has grown by as many. --compare finds what is worse than in an earlier run.
"""

from __future__ import annotations

from iot.processes import Stopped, stop_event, until_stopped

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import iot  # noqa: F401  # stops an unsupported Python before a package is missing

# isort: split
from rich.console import Console

from iot import cli
from iot.inputs import name_of
from iot.kafka.connect import require_broker
from iot.kafka.sender import CLIENTS
from iot.kafka.topics import TOPICS, ensure_topics
from iot.loadtest import end_to_end, menu, outputs, results, versus
from iot.loadtest.flags import (
    MAX_IN_FLIGHT,
    MAX_MESSAGES,
    at_most,
    dashboard_url,
    delivery_timeout_s,
    rate_per_s,
    thread_counts,
)
from iot.loadtest.menu import TESTS, Choice
from iot.loadtest.plan import COURSE_THREADS, DELIVERY_TIMEOUT_S, PRESETS, Plan, make_plan
from iot.loadtest.report import render
from iot.loadtest.results import Comparison, Earlier, Report, Result
from iot.loadtest.trial import run_trial
from iot.settings import Kafka, UserError
from iot.terminal import StatusLine

MARGIN_PCT = 10.0
DASHBOARD_URL = "http://localhost:5000"


@dataclass
class Session:
    """One run of the script: what was asked for, and the results so far."""

    args: argparse.Namespace
    kafka: Kafka
    stop: threading.Event
    tests: list[Result] = field(default_factory=list)
    comparison: list[Comparison] = field(default_factory=list)
    failures: int = 0

    @property
    def clients(self) -> tuple[str, ...]:
        return CLIENTS if self.args.client == "both" else (self.args.client,)


def run_test(session: Session, chosen: Choice) -> None:
    """Run one test of the menu and print its results."""
    if chosen.test == "compare":
        run_compare(session, chosen)
    elif chosen.test == "end-to-end":
        run_end_to_end(session, chosen)
    else:
        run_plans(session, make_plans(session, chosen))


def make_plans(session: Session, chosen: Choice) -> list[Plan]:
    """A plan for each number of threads and each client."""
    args = session.args
    return [
        make_plan(
            chosen.test,
            client,
            messages=chosen.messages,
            threads=threads,
            rate_per_s=args.rate,
            duration_s=args.duration,
            in_flight=args.in_flight,
            delivery_timeout_s=args.delivery_timeout,
        )
        for threads in chosen.threads or (None,)
        for client in session.clients
    ]


def run_plans(session: Session, plans: Sequence[Plan]) -> None:
    """Run tests one after the other; print the details of each and a table of all."""
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
        # An error in the next one does not lose it.
        session.tests.append(result)
    session.failures += sum(not (result.is_success or result.is_stopped) for result in done)
    if done:
        show(results.table(done))
    if len({plan.threads for plan in plans}) > 1:
        for line in results.best_of_sweep(done):
            print(line)


def run_compare(session: Session, chosen: Choice) -> None:
    """Compare with Kafka's own tool and the course's method."""
    threads = chosen.threads[0] if chosen.threads else COURSE_THREADS
    plan = versus.ComparisonPlan(session.clients, chosen.messages, threads, session.args.rounds)
    with StatusLine(plain_every_s=5) as status:
        found = versus.compare(plan, session.kafka, status, session.stop)
    session.comparison = found.comparison
    session.tests += found.tests
    session.failures += not (found.is_complete or session.stop.is_set())
    if found.comparison:
        show(versus.table(found.comparison))


def run_end_to_end(session: Session, chosen: Choice) -> None:
    """Send readings and follow each through a running dashboard."""
    args = session.args
    plan = end_to_end.EndToEndPlan(
        dashboard_url=args.dashboard_url,
        topic=args.topic,
        client=session.clients[-1],
        messages=chosen.messages,
        rate_per_s=args.rate,
        duration_s=args.duration,
        token=os.environ.get("IOT_TOKEN"),
    )
    with StatusLine(plain_every_s=2) as status:
        result = end_to_end.run(plan, session.kafka, status, session.stop)
    print("\n".join(results.details(result)))
    show(end_to_end.table(result.stages))
    session.tests.append(result)
    session.failures += not (result.is_success or result.is_stopped)


def run_menu(session: Session) -> None:
    """Run the tests that the user chooses; an error ends the test, not the menu."""
    for chosen in menu.choices(session.args.messages, session.args.threads, session.stop):
        try:
            run_test(session, chosen)
        except UserError as error:
            session.failures += 1
            print(f"error: {error}", file=sys.stderr)


def show(table: object) -> None:
    # A pipe has no width, so lines are not folded there.
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)


def write_results(session: Session) -> None:
    """Write the files of ``--output`` and ``--report``; one that cannot be written counts as a failure."""
    args = session.args
    report = Report(
        environment=results.environment(args.topic, session.kafka.bootstrap_servers),
        tests=session.tests,
        comparison=session.comparison,
    )
    if args.output:
        session.failures += not outputs.save(args.output, results.encode(report), "results")
    if args.report:
        session.failures += not outputs.save(args.report, render(report), "report")


def compare_with(earlier: Earlier, session: Session) -> None:
    """Print what is worse than in the earlier run; each regression counts as a failure."""
    args = session.args
    lines, compared = results.regressions(earlier, session.tests, args.margin / 100)
    if not compared:
        raise UserError(results.nothing_to_compare(args.compare))
    print("\n".join(f"REGRESSION {line}" for line in lines) or f"no regression in {compared} tests")
    session.failures += len(lines)


def run(args: argparse.Namespace, stop: threading.Event) -> int:
    """Run the tests, write the results and return the exit status, which a stop does not change.

    Raises:
        UserError: a test cannot start, or a file cannot be read or written.
    """
    too_early = "before a test began"
    earlier = until_stopped(lambda: results.read_earlier(args.compare), stop, too_early) if args.compare else None
    outputs.require_outputs(args.output, args.report, args.compare)
    kafka = until_stopped(lambda: cli.kafka_from(args), stop, too_early)
    session = Session(args, kafka, stop)
    chosen = Choice(args.test, args.messages, args.threads) if args.test else None
    if earlier and chosen and chosen.test in PRESETS:
        results.require_comparable(earlier, make_plans(session, chosen), args.compare)
    until_stopped(lambda: require_broker(kafka), stop, too_early)
    topics = dict.fromkeys((*TOPICS, args.topic))
    partitions = {args.topic: args.partitions}
    create = partial(ensure_topics, kafka, topics, partitions, args.replication_factor)
    for warning in until_stopped(create, stop, too_early):
        print(f"warning: {warning}", file=sys.stderr)
    try:
        if chosen:
            run_test(session, chosen)
        else:
            run_menu(session)
    except Stopped as how:
        print(how)
    finally:
        # After an error, only if there is a result of an earlier test.
        if session.tests or not sys.exc_info()[0]:
            write_results(session)
    if earlier and stop.is_set():
        print(f"stopped before the end, so not compared with {args.compare}")
    elif earlier:
        compare_with(earlier, session)
    return 1 if session.failures else 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    cli.add_topic_arguments(parser)
    add = parser.add_argument
    add("--test", choices=TESTS, help="run this test (default: show the menu)")
    add("--messages", metavar="N", type=at_most(MAX_MESSAGES), help="number of readings (default: the test's own)")
    threads = "number of threads; several numbers with commas are a sweep (default: the test's own)"
    add("--threads", metavar="T[,T…]", type=thread_counts, help=threads)
    rate = "readings a second of all threads together (default: the test's own, mostly as fast as possible)"
    add("--rate", metavar="R", type=rate_per_s, help=rate)
    add("--duration", metavar="S", type=cli.positive_float, help="seconds at the rate (default: 60; end-to-end: 20)")
    in_flight = "maximum of unacknowledged readings per thread; 1 waits for each (default: a bound per process)"
    add("--in-flight", metavar="N", type=at_most(MAX_IN_FLIGHT), help=in_flight)
    add("--client", choices=(*CLIENTS, "both"), default="both", help="Kafka client that sends")
    timeout = "seconds after which an unacknowledged reading has failed"
    add("--delivery-timeout", metavar="S", type=delivery_timeout_s, default=DELIVERY_TIMEOUT_S, help=timeout)
    add("--rounds", metavar="N", type=cli.positive_int, default=3, help="rounds of the compare test")
    dashboard = "dashboard of the end-to-end test"
    add("--dashboard-url", metavar="URL", type=dashboard_url, default=DASHBOARD_URL, help=dashboard)
    add("--output", metavar="FILE.json", type=Path, help="write the results to this file")
    add("--report", metavar="FILE.html", type=Path, help="write a page with charts to this file")
    compare = "exit 1 if a result is worse than in this earlier --output"
    add("--compare", metavar="OLD.json", type=cli.input_path, help=compare)
    add("--margin", metavar="PCT", type=cli.positive_float, default=MARGIN_PCT, help="tolerated worsening in percent")
    args = parser.parse_args(argv)
    if args.test is None and (args.messages or args.threads or args.rate or args.duration):
        args.test = "custom"
    for flag, path in (("--kafka-config", args.kafka_config), ("--compare", args.compare)):
        if args.test is None and path and name_of(path) == "standard input":
            parser.error(f"{flag} reads standard input, and so does the menu: choose a test with --test")
    if args.duration and args.messages:
        parser.error("--duration does not go with --messages: use one of them")
    if args.duration and not args.rate and args.test not in ("sustained", "end-to-end"):
        parser.error("--duration needs --rate")
    if args.rate and args.test == "compare":
        parser.error("--rate does not go with --test compare, which sends as fast as possible")
    if args.threads and len(args.threads) > 1 and args.test not in PRESETS:
        parser.error("a sweep of --threads works with burst, high-volume, stress, sustained and custom only")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with outputs.text_elsewhere(args.output, args.report):
        return cli.exit_status(lambda: run(args, stop_event()))


if __name__ == "__main__":
    sys.exit(main())
