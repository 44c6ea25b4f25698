"""Send sensor readings to Kafka, from a simulated fleet or from a recording.

Reading n is due at start + n / rate, so the producer delivers the rate that you ask for. Each reading carries a run id
and the sequence number of its sensor, and every acknowledgement is counted. This proves that no reading was lost or
sent twice. Ctrl-C stops the producer once Kafka has acknowledged everything that was sent.
"""

from __future__ import annotations

from iot.processes import stop_event, until_stopped

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import math
import random
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from functools import partial

from iot import cli, terminal
from iot.devices.field_map import NO_MAP, load_map
from iot.devices.results import FormError
from iot.inputs import Input
from iot.kafka import advertised
from iot.kafka.connect import require_broker
from iot.kafka.sender import CLIENTS, make_sender
from iot.kafka.topics import TOPICS, ensure_topics, shortage
from iot.sensors.dry_run import dry_run
from iot.sensors.faults import Batch, Injector, Source
from iot.sensors.fleet import Fleet
from iot.sensors.pacing import Schedule
from iot.sensors.progress import STOP_WAIT_S, DeliveryMonitor, Progress, rate_text, wait_for_delivery
from iot.sensors.recording import AnyRecording, LongRecording, LongReplay, Replay, read_recording
from iot.sensors.sending import PacedSending, SendingThreads
from iot.terminal import StatusLine

SENSORS = 10
THREADS = 1
REPLAY_RATE_PER_S = 1.0
MAX_SENSORS = 1_000_000
MAX_RATE_PER_S = 10_000_000
MAX_THREADS = 256


def message_limit(args: argparse.Namespace, recording: AnyRecording | None) -> float:
    """Return how many messages to send; infinite if no flag and no file limits them."""
    limits: list[float] = [math.inf]
    if args.count:
        limits.append(args.count)
    if args.duration:
        # Rounding errors must not add a message: 0.1 s at 30/s are 3, not 4.
        limits.append(max(1, math.ceil(args.duration * args.rate - 1e-6)))
    if recording:
        limits.append(recording.length)
    return min(limits)


def make_sources(args: argparse.Namespace, recording: AnyRecording | None, seed: int, run_id: str) -> list[Source]:
    """Return one source for each thread. A thread has all readings of its sensors, so their order is kept.

    A long recording has one thread, which reads it in order.
    """
    keep_times = args.timestamps == "recorded"
    if isinstance(recording, LongRecording):
        return [LongReplay(recording, run_id, keep_times)]
    sensors = args.sensors if recording is None else len(set(recording.sensors))
    shares = min(args.threads, sensors)
    if recording is None:
        return [Fleet(sensors, seed, run_id, share, shares) for share in range(shares)]
    return [Replay(recording, run_id, keep_times, share, shares) for share in range(shares)]


def opening_line(args: argparse.Namespace, recording: AnyRecording | None, threads: int, seed: int) -> str:
    how = f"{args.client}, {threads} thread{'s' if threads > 1 else ''}"
    if recording:
        name = Input(args.replay).name
        what = f"replaying {recording.length:,} readings of {name} at {rate_text(args.rate)}"
    else:
        what = f"sending {rate_text(args.rate)} from {args.sensors:,} sensor{'s' if args.sensors > 1 else ''}"
        how += f", seed {seed}"
    return f"{what} to {args.topic} at {args.bootstrap_servers} ({how}); Ctrl-C stops"


def print_batch(status: StatusLine, batch: Batch, accepted: int) -> None:
    """Print the accepted messages of a batch, one per line."""
    values = (record["value"].decode(errors="backslashreplace") for record in batch.records[:accepted])
    status.print(*map(terminal.printable, values))


def read_replay(args: argparse.Namespace, stop: threading.Event, too_early: str) -> AnyRecording:
    """Read the file of ``--replay``.

    Raises:
        FormError: nobody can tell what the file means.
        UserError: it cannot be read, or holds no readings.
    """
    source = Input(args.replay)
    field_map = until_stopped(lambda: load_map(args.map), stop, too_early) if args.map else NO_MAP
    with StatusLine() as status:
        recording = until_stopped(
            lambda: read_recording(source, field_map), stop, too_early, lambda: status.update(source.progress)
        )
    return recording


def run(args: argparse.Namespace, stop: threading.Event) -> int:
    """Send readings until the limit or ``stop``, print the summary, and return the exit status.

    Raises:
        UserError: no broker answers, the recording cannot be read, or the client cannot go on.
    """
    too_early = "before anything was sent"
    kafka = until_stopped(lambda: cli.kafka_from(args), stop, too_early)
    recording = read_replay(args, stop, too_early) if args.replay else None
    if recording and args.dry_run:
        print(dry_run(Input(args.replay).name, recording), flush=True)
        return 0
    for line in recording.report.refusals() if recording else ():
        print(terminal.printable(f"not sent: {Input(args.replay).name}, {line}"), file=sys.stderr)
    until_stopped(lambda: require_broker(kafka), stop, too_early)
    topics = dict.fromkeys((*TOPICS, args.topic))
    partitions = {args.topic: args.partitions}
    create = partial(ensure_topics, kafka, topics, partitions, args.replication_factor)
    for warning in until_stopped(create, stop, too_early):
        print(f"warning: {warning}", file=sys.stderr)
    seed = random.randrange(2**32) if args.seed is None else args.seed
    run_id = uuid.uuid4().hex[:8]
    limit = message_limit(args, recording)
    injectors = [
        Injector(source, args.malformed_ratio, args.late_ratio, f"{seed} share {share}")
        for share, source in enumerate(make_sources(args, recording, seed, run_id))
    ]
    sender = until_stopped(lambda: make_sender(args.client, kafka, args.topic), stop, too_early)
    try:
        with StatusLine() as status:
            if recording:
                status.print(f"{Input(args.replay).name} was recognised as:")
                status.print(*map(terminal.printable, recording.report.recognised()))
            status.print(opening_line(args, recording, len(injectors), seed))
            on_batch = partial(print_batch, status) if args.verbose else lambda batch, accepted: None
            schedule = Schedule(args.rate, time.monotonic())
            sending = PacedSending(sender, schedule, limit, stop, on_batch)
            monitor = DeliveryMonitor(
                sender,
                kafka.bootstrap_servers,
                schedule.start_s,
                lambda: shortage(kafka, args.topic) or advertised.outage(kafka),
            )
            progress = Progress(sending)
            with SendingThreads(sending, injectors) as threads:
                in_flight = wait_for_delivery(threads, sending, monitor, progress, status)
        print(progress.summary(in_flight, run_id), flush=True)
    except BrokenPipeError:
        # Nobody reads the output any more, but accepted messages must still be delivered.
        sender.flush(STOP_WAIT_S)
        raise
    finally:
        sender.close()
    if threads.errors:
        raise threads.errors[0]
    return 1 if in_flight or sender.failed else 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    cli.add_topic_arguments(parser)
    parser.add_argument(
        "--sensors",
        metavar="N",
        type=cli.positive_int,
        help=f"number of simulated sensors, numbered from sensor_0 (default: {SENSORS})",
    )
    parser.add_argument(
        "--rate",
        metavar="R",
        type=cli.positive_float,
        help=f"messages per second in total (default: one per sensor; {REPLAY_RATE_PER_S:g} for a replay)",
    )
    parser.add_argument(
        "--threads", metavar="T", type=cli.positive_int, default=THREADS, help="number of threads that send"
    )
    parser.add_argument(
        "--duration",
        metavar="S",
        type=cli.positive_float,
        help="stop after the messages that are due in S seconds (default: no limit)",
    )
    parser.add_argument("--count", metavar="N", type=cli.positive_int, help="stop after N messages (default: no limit)")
    parser.add_argument(
        "--seed", metavar="N", type=int, help="the same seed gives the same sensors and values (default: random)"
    )
    parser.add_argument("--client", choices=CLIENTS, default=CLIENTS[0], help="Kafka client that sends")
    parser.add_argument(
        "--malformed-ratio",
        metavar="X",
        type=cli.ratio,
        default=0.0,
        help="share of messages that break the schema, from 0 to 1 (default: 0)",
    )
    parser.add_argument(
        "--late-ratio",
        metavar="X",
        type=cli.ratio,
        default=0.0,
        help="share of readings with a timestamp one to two minutes in the past, from 0 to 1 (default: 0)",
    )
    parser.add_argument(
        "--replay",
        metavar="FILE",
        type=cli.input_path,
        help="send the readings of this file in order of time: CSV, JSON or InfluxDB line protocol, plain or "
        "compressed with gzip; a pipe or FIFO works too, and - is the standard input",
    )
    parser.add_argument(
        "--map",
        metavar="FILE.toml",
        type=cli.input_path,
        help="TOML file that says what cannot be recognised in the replayed file: columns, units, format of the time",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show what a replay would send and what not, without Kafka",
    )
    parser.add_argument(
        "--timestamps",
        choices=("now", "recorded"),
        help="timestamps of a replay: the time of sending, or as in the file (default: now)",
    )
    parser.add_argument("--verbose", action="store_true", help="print each message")
    args = parser.parse_args(argv)
    for flag, value in (("--timestamps", args.timestamps), ("--map", args.map), ("--dry-run", args.dry_run)):
        if value and args.replay is None:
            parser.error(f"{flag} needs --replay")
    if args.replay and args.sensors:
        parser.error("--sensors cannot be combined with --replay: the file has its own sensors")
    if args.late_ratio and args.timestamps == "recorded":
        parser.error("--late-ratio cannot be combined with --timestamps recorded, which keeps every timestamp")
    args.sensors = args.sensors or SENSORS
    args.rate = args.rate or (REPLAY_RATE_PER_S if args.replay else float(args.sensors))
    for flag, value, most in (
        ("--sensors", args.sensors, MAX_SENSORS),
        ("--rate", args.rate, MAX_RATE_PER_S),
        ("--threads", args.threads, MAX_THREADS),
    ):
        if value > most:
            parser.error(f"{flag} can be at most {most:,}")
    return args


def run_or_ask(args: argparse.Namespace, stop: threading.Event) -> int:
    """Return the exit status of a run: 2 if nobody can tell what the replayed file means, with a map to fill in."""
    try:
        return run(args, stop)
    except FormError as error:
        lines = [f"error: {error}", *error.map_text.splitlines()]
        print("\n".join(map(terminal.printable, lines)), file=sys.stderr, flush=True)
        return 2


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run_or_ask(args, stop_event()))


if __name__ == "__main__":
    sys.exit(main())
