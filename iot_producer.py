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
from iot.inputs import Input
from iot.kafka import advertised
from iot.kafka.connect import require_broker
from iot.kafka.sender import CLIENTS, make_sender
from iot.kafka.topics import TOPICS, ensure_topics, shortage
from iot.sensors.faults import Batch, Injector, Source
from iot.sensors.fleet import Fleet
from iot.sensors.pacing import Schedule
from iot.sensors.progress import DeliveryMonitor, Progress, rate_text
from iot.sensors.recording import Recording, Replay, read_recording
from iot.sensors.sending import PacedSending, SendingThreads
from iot.terminal import StatusLine

SENSORS = 10
THREADS = 1
REPLAY_RATE_PER_S = 1.0
MAX_SENSORS = 1_000_000
MAX_RATE_PER_S = 10_000_000
MAX_THREADS = 256
# How often the main thread looks for something to show.
LOOK_S = 0.1
# How long to wait for the next acknowledgement after Ctrl-C.
STOP_WAIT_S = 10.0


def message_limit(args: argparse.Namespace, recording: Recording | None) -> float:
    """Return how many messages to send; infinite if no flag and no file limits them."""
    limits: list[float] = [math.inf]
    if args.count:
        limits.append(args.count)
    if args.duration:
        # Rounding errors must not add a message: 0.1 s at 30/s are 3, not 4.
        limits.append(max(1, math.ceil(args.duration * args.rate - 1e-6)))
    if recording:
        limits.append(len(recording.messages))
    return min(limits)


def make_injectors(args: argparse.Namespace, recording: Recording | None, seed: int, run_id: str) -> list[Injector]:
    """Return one injector for each thread. A thread has all readings of its sensors, so their order is kept."""
    sensors = args.sensors if recording is None else len(set(recording.sensors))
    shares = min(args.threads, sensors)
    sources: list[Source]
    if recording is None:
        sources = [Fleet(sensors, seed, run_id, share, shares) for share in range(shares)]
    else:
        keep_times = args.timestamps == "recorded"
        sources = [Replay(recording, run_id, keep_times, share, shares) for share in range(shares)]
    return [
        Injector(source, args.malformed_ratio, args.late_ratio, f"{seed} share {share}")
        for share, source in enumerate(sources)
    ]


def opening_line(args: argparse.Namespace, recording: Recording | None, threads: int, seed: int) -> str:
    how = f"{args.client}, {threads} thread{'s' if threads > 1 else ''}"
    if recording:
        name = Input(args.replay).name
        what = f"replaying {len(recording.messages):,} readings of {name} at {rate_text(args.rate)}"
    else:
        what = f"sending {rate_text(args.rate)} from {args.sensors:,} sensor{'s' if args.sensors > 1 else ''}"
        how += f", seed {seed}"
    return f"{what} to {args.topic} at {args.bootstrap_servers} ({how}); Ctrl-C stops"


def print_batch(status: StatusLine, batch: Batch, accepted: int) -> None:
    """Print the accepted messages of a batch, one per line."""
    values = (record["value"].decode(errors="backslashreplace") for record in batch.records[:accepted])
    status.print(*map(terminal.printable, values))


def wait_for_delivery(
    threads: SendingThreads, sending: PacedSending, monitor: DeliveryMonitor, progress: Progress, status: StatusLine
) -> int:
    """Show progress until every message is acknowledged or has failed; returns how many are still in flight.

    Some are still in flight only if the run was stopped and no acknowledgement came for ``STOP_WAIT_S``.
    """
    sender, stop = sending.sender, sending.stop

    def show() -> None:
        status.print(*monitor.notices(time.monotonic()))
        status.update(lambda: progress.status(time.monotonic()))

    while not threads.wait(LOOK_S):
        show()
    is_announced, acknowledged, acknowledged_s = False, -1, math.inf
    while in_flight := sender.flush(LOOK_S):
        show()
        if stop.is_set() and not is_announced:
            is_announced = True
            status.print(
                f"stopping once {in_flight:,} messages are acknowledged, or after {STOP_WAIT_S:.0f} s without an "
                "acknowledgement; Ctrl-C again stops at once"
            )
        if sender.acknowledged > acknowledged or not stop.is_set():
            acknowledged, acknowledged_s = sender.acknowledged, time.monotonic()
        if time.monotonic() - acknowledged_s >= STOP_WAIT_S:
            break
    show()
    return in_flight


def run(args: argparse.Namespace, stop: threading.Event) -> int:
    """Send readings until the limit or ``stop``, print the summary, and return the exit status.

    Raises:
        UserError: no broker answers, the recording cannot be read, or the client cannot go on.
    """
    too_early = "before anything was sent"
    kafka = until_stopped(lambda: cli.kafka_from(args), stop, too_early)
    recording = None
    if args.replay:
        source = Input(args.replay)
        with StatusLine() as status:
            recording = until_stopped(
                lambda: read_recording(source), stop, too_early, lambda: status.update(source.progress)
            )
    until_stopped(lambda: require_broker(kafka), stop, too_early)
    topics = dict.fromkeys((*TOPICS, args.topic))
    partitions = {args.topic: args.partitions}
    create = partial(ensure_topics, kafka, topics, partitions, args.replication_factor)
    for warning in until_stopped(create, stop, too_early):
        print(f"warning: {warning}", file=sys.stderr)
    seed = random.randrange(2**32) if args.seed is None else args.seed
    run_id = uuid.uuid4().hex[:8]
    limit = message_limit(args, recording)
    injectors = make_injectors(args, recording, seed, run_id)
    sender = until_stopped(lambda: make_sender(args.client, kafka, args.topic), stop, too_early)
    try:
        with StatusLine() as status:
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
        help="send the readings of this file in order of time: JSON Lines, or CSV with the schema's columns, plain or "
        "compressed with gzip; a pipe or FIFO works too, and - is the standard input",
    )
    parser.add_argument(
        "--timestamps",
        choices=("now", "recorded"),
        help="timestamps of a replay: the time of sending, or as in the file (default: now)",
    )
    parser.add_argument("--verbose", action="store_true", help="print each message")
    args = parser.parse_args(argv)
    if args.replay is None and args.timestamps:
        parser.error("--timestamps needs --replay")
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


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, stop_event()))


if __name__ == "__main__":
    sys.exit(main())
