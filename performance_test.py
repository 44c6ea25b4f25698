"""Load tests: how fast readings are sent, how long each takes, how much CPU it costs, and whether all of them arrive.

Without --test it shows a menu. The readings are real ones of simulated sensors. A test succeeds when the broker has
acknowledged every reading and the topic has grown by as many. --compare finds what is worse than in an earlier run, and
--threshold says what a run must reach.
"""

from __future__ import annotations

from iot.processes import Stopped, stop_event, until_stopped

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import iot  # noqa: F401  # stops an unsupported Python before a package is missing

# isort: split
from iot import cli
from iot.inputs import name_of
from iot.kafka.connect import require_broker
from iot.kafka.sender import CLIENTS
from iot.kafka.topics import TOPICS, ensure_topics
from iot.loadtest import flags, outputs
from iot.loadtest.demo import demo_system
from iot.loadtest.earlier import read_earlier, require_comparable
from iot.loadtest.menu import TESTS, Choice
from iot.loadtest.plan import DELIVERY_TIMEOUT_S, PRESETS
from iot.loadtest.session import Session
from iot.loadtest.stepper import TARGET_P99_MS
from iot.loadtest.thresholds import threshold
from iot.settings import Kafka

MARGIN_PCT = 10.0
DASHBOARD_URL = "http://localhost:5000"
# The tests that need an application.
THROUGH_DASHBOARD = ("end-to-end", "max-rate", "backlog")
TOO_EARLY = "before a test began"


def run(args: argparse.Namespace, stop: threading.Event) -> int:
    """Run the tests, write the results and return the exit status, which a stop does not change.

    Raises:
        UserError: a test cannot start, or a file cannot be read or written.
    """
    before = until_stopped(lambda: read_earlier(args.compare), stop, TOO_EARLY) if args.compare else None
    outputs.require_outputs(args.output, args.report, args.compare)
    kafka = until_stopped(lambda: cli.kafka_from(args), stop, TOO_EARLY)
    session = Session(args, kafka, stop)
    chosen = Choice(args.test, args.messages, args.threads) if args.test else None
    if before and chosen and chosen.test in PRESETS:
        require_comparable(before, session.make_plans(chosen), args.compare)
    with ExitStack() as stack:
        if args.demo:
            demo = demo_system(args.topic, args.partitions, args.replication_factor, stop)
            session.system = stack.enter_context(demo)
            session.kafka = session.system.kafka
        else:
            require_kafka(args, kafka, stop)
        try:
            if chosen:
                session.run_test(chosen)
            else:
                session.run_menu()
        except Stopped as how:
            print(how)
        finally:
            if not stop.is_set() and session.tests:
                session.check_thresholds()
            # After an error, only if there is a result of an earlier test.
            if session.tests or not sys.exc_info()[0]:
                session.write_results()
    if stop.is_set() and (before or args.threshold):
        print(f"stopped before the end, so not compared with {args.compare or 'the thresholds'}")
    elif before:
        session.compare_with(before)
    return session.status


def require_kafka(args: argparse.Namespace, kafka: Kafka, stop: threading.Event) -> None:
    """Check that Kafka answers, and create missing topics.

    Raises:
        UserError: it does not answer.
        Stopped: ``stop`` was set before.
    """
    until_stopped(lambda: require_broker(kafka), stop, TOO_EARLY)
    topics = dict.fromkeys((*TOPICS, args.topic))
    create = partial(ensure_topics, kafka, topics, {args.topic: args.partitions}, args.replication_factor)
    for warning in until_stopped(create, stop, TOO_EARLY):
        print(f"warning: {warning}", file=sys.stderr)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    cli.add_topic_arguments(parser)
    add = parser.add_argument
    add("--test", choices=TESTS, help="run this test (default: show the menu)")
    add(
        "--messages",
        metavar="N",
        type=flags.at_most(flags.MAX_MESSAGES),
        help="number of readings (default: the test's own)",
    )
    threads = "number of threads; several numbers with commas are a sweep (default: the test's own)"
    add("--threads", metavar="T[,T…]", type=flags.thread_counts, help=threads)
    rate = "readings a second of all threads together (default: the test's own, mostly as fast as possible); of "
    rate += "max-rate, the first rate to try"
    add("--rate", metavar="R", type=flags.rate_per_s, help=rate)
    duration = "seconds at the rate (default: 60; end-to-end: 20); of max-rate, those of the last step (default: 60)"
    add("--duration", metavar="S", type=cli.positive_float, help=duration)
    in_flight = "maximum of unacknowledged readings per thread; 1 waits for each (default: a bound per process)"
    add("--in-flight", metavar="N", type=flags.at_most(flags.MAX_IN_FLIGHT), help=in_flight)
    add("--client", choices=(*CLIENTS, "both"), default="both", help="Kafka client that sends")
    timeout = "seconds after which an unacknowledged reading has failed"
    add("--delivery-timeout", metavar="S", type=flags.delivery_timeout_s, default=DELIVERY_TIMEOUT_S, help=timeout)
    add("--rounds", metavar="N", type=cli.positive_int, default=3, help="rounds of the compare test")
    dashboard = "dashboard of the tests end-to-end, max-rate and backlog"
    add("--dashboard-url", metavar="URL", type=flags.dashboard_url, default=DASHBOARD_URL, help=dashboard)
    demo = "start a broker and an application for one of these tests, in a temporary folder"
    add("--demo", action="store_true", help=demo)
    target = "p99 of windows in ms that the max-rate test allows"
    add("--target-p99", metavar="MS", type=cli.positive_float, default=TARGET_P99_MS, help=target)
    bound = "exit 99 if a figure crosses this bound, such as 'p99<500'; can be repeated (default: none)"
    add("--threshold", metavar="EXPR", type=threshold, action="append", default=[], help=bound)
    add("--output", metavar="FILE.json", type=Path, help="write the results to this file")
    add("--report", metavar="FILE.html", type=Path, help="write a page with charts to this file")
    compare = "exit 1 if a result is worse than in this earlier --output"
    add("--compare", metavar="OLD.json", type=cli.input_path, help=compare)
    add("--margin", metavar="PCT", type=cli.positive_float, default=MARGIN_PCT, help="tolerated worsening in percent")
    args = parser.parse_args(argv)
    if args.test is None and (args.messages or args.threads or args.rate or args.duration):
        args.test = "custom"
    if args.demo and (args.kafka_config or not isinstance(args.bootstrap_servers, cli.DefaultServers)):
        parser.error("--demo has a broker of its own: leave out --bootstrap-servers and --kafka-config")
    for flag, path in (("--kafka-config", args.kafka_config), ("--compare", args.compare)):
        if args.test is None and path and name_of(path) == "standard input":
            parser.error(f"{flag} reads standard input, and so does the menu: choose a test with --test")
    if args.duration and args.messages:
        parser.error("--duration does not go with --messages: use one of them")
    if args.duration and not args.rate and args.test not in ("sustained", "end-to-end", "max-rate"):
        parser.error("--duration needs --rate")
    if args.rate and args.test in ("compare", "backlog"):
        parser.error(f"--rate does not go with --test {args.test}, which sends as fast as possible")
    if args.messages and args.test == "max-rate":
        parser.error("--messages does not go with --test max-rate: --duration says how long its last step takes")
    if args.threads and args.test in ("max-rate", "backlog"):
        parser.error(f"--threads does not go with --test {args.test}")
    if args.client == "kafka-python" and args.test == "max-rate":
        parser.error("--test max-rate sends with confluent-kafka: kafka-python is slower than what is measured")
    if args.demo and args.test not in THROUGH_DASHBOARD:
        parser.error(f"--demo goes with --test {', '.join(THROUGH_DASHBOARD[:-1])} or {THROUGH_DASHBOARD[-1]} only")
    if args.threads and len(args.threads) > 1 and args.test not in PRESETS:
        parser.error("a sweep of --threads works with burst, high-volume, stress, sustained and custom only")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with outputs.text_elsewhere(args.output, args.report):
        return cli.exit_status(lambda: run(args, stop_event()))


if __name__ == "__main__":
    sys.exit(main())
