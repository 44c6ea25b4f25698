"""Send sensor readings to Kafka: of a fleet of simulated sensors, or recorded ones from a file.

The n-th reading is due at start + n / rate, so the rate that is asked for is the rate that is delivered. Each reading
carries the run's id and a sequence number of its sensor, and every acknowledgement is counted: it can be proved that
nothing was lost or doubled. Ctrl-C stops once all that was sent is acknowledged.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from types import TracebackType

from iot import cli, terminal
from iot.kafka.connect import require_broker
from iot.kafka.sender import CLIENTS, Sender, make_sender
from iot.kafka.topics import TOPICS, ensure_topics
from iot.processes import StopSignal
from iot.sensors.faults import Batch, Injector, Source
from iot.sensors.fleet import Fleet
from iot.sensors.pacing import Schedule, WallClock
from iot.sensors.progress import Progress, Tally, Watch, rate_text
from iot.sensors.recording import Recording, Replay, read_recording
from iot.terminal import StatusLine

SENSORS = 10
MAX_SENSORS = 1_000_000
MAX_RATE_PER_S = 10_000_000
MAX_THREADS = 256
THREADS = 1
REPLAY_RATE_PER_S = 1.0
# What is due within this time is sent together, as far as this many.
TICK_S = 0.005
MAX_BATCH = 2_000
LOOK_S = 0.1
# How long Ctrl-C waits for the next acknowledgement.
STOP_WAIT_S = 10.0


def send_share(
    injector: Injector,
    schedule: Schedule,
    limit: float,
    wall_clock: WallClock,
    sender: Sender,
    tally: Tally,
    show: Callable[[Batch, int], None],
    stop: threading.Event,
) -> None:
    """Send one thread's readings, each when it is due, until ``limit`` of all threads' are sent or ``stop`` is set."""
    source = injector.source
    sent = 0
    while not stop.is_set():
        due = source.count_below(int(min(schedule.due_by_now(), limit)))
        if due == sent:
            if limit < math.inf and sent == source.count_below(int(limit)):
                break
            sender.poll()
            following = source.numbers(sent, sent + 1)
            schedule.wait_for(int(following[0]), TICK_S, LOOK_S, stop)
            continue
        due_s = schedule.due_s(source.numbers(sent, min(due, sent + MAX_BATCH)))
        batch = injector.batch(wall_clock.time_us(due_s))
        accepted = sender.send(batch.records, stop)
        sent += accepted
        now_s = time.monotonic()
        tally.add(batch, accepted, now_s)
        if accepted:
            tally.delays.add(now_s - due_s[:accepted])
        show(batch, accepted)


class Crew:
    """Threads, one for each task: ``with Crew(tasks, stop) as crew`` starts them, and leaving it waits for their end.

    What a task raises sets ``stop``, which ends all, and is kept in ``errors``.
    """

    def __init__(self, tasks: Iterable[Callable[[], None]], stop: threading.Event) -> None:
        self._stop = stop
        self.errors: list[BaseException] = []
        self.threads = [Thread(target=self._run, args=(task,), daemon=True) for task in tasks]

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self.errors.append(error)
            self._stop.set()

    def __enter__(self) -> Crew:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            self._stop.set()
        for thread in self.threads:
            thread.join()


def see_through(
    crew: Crew, sender: Sender, watch: Watch, progress: Progress, status: StatusLine, stop: threading.Event
) -> int:
    """Show how it goes until all is sent and acknowledged, or ``stop`` is set; returns how many are in flight still."""

    def look() -> None:
        account = sender.acknowledged, sender.in_flight, sender.failed
        status.print(*watch.look(*account, sender.last_error, time.monotonic()))
        status.update(lambda: progress.status(time.monotonic()))

    for thread in crew.threads:
        while thread.is_alive():
            thread.join(LOOK_S)
            look()
    told, acknowledged, heard_s = False, -1, math.inf
    while in_flight := sender.flush(LOOK_S):
        look()
        if stop.is_set() and not told:
            told = True
            status.print(
                f"stopping once {in_flight:,} messages are acknowledged, or none was for {STOP_WAIT_S:.0f} s; "
                "Ctrl-C again ends at once"
            )
        if sender.acknowledged > acknowledged or not stop.is_set():
            acknowledged, heard_s = sender.acknowledged, time.monotonic()
        if time.monotonic() - heard_s >= STOP_WAIT_S:
            break
    look()
    return in_flight


def make_sources(args: argparse.Namespace, recording: Recording | None, seed: int, run_id: str) -> list[Source]:
    """The sensors, shared out among threads: a sensor's readings stay in order because one thread sends them all."""
    sensors = args.sensors if recording is None else len(set(recording.sensors))
    shares = min(args.threads, sensors)
    if recording is None:
        return [Fleet(sensors, seed, run_id, share, shares) for share in range(shares)]
    return [Replay(recording, run_id, args.timestamps == "recorded", share, shares) for share in range(shares)]


def limit_of(args: argparse.Namespace, recording: Recording | None) -> float:
    """How many messages to send; infinite where nothing says so."""
    limits: list[float] = [math.inf]
    if args.count:
        limits.append(args.count)
    if args.duration:
        # Rounding must not add one: 0.1 s at 30/s are 3, not 4.
        limits.append(max(1, math.ceil(args.duration * args.rate - 1e-6)))
    if recording:
        limits.append(len(recording.messages))
    return min(limits)


def run(args: argparse.Namespace, stop: threading.Event) -> int:
    """Send until told to stop, and print the summary; returns the exit status.

    Raises:
        UserError: something that the user can cure.
    """
    kafka = cli.kafka_from(args)
    recording = read_recording(args.replay) if args.replay else None
    require_broker(kafka)
    for warning in ensure_topics(kafka, dict.fromkeys((*TOPICS, args.topic))):
        print(f"warning: {warning}", file=sys.stderr)
    seed = random.randrange(2**32) if args.seed is None else args.seed
    run_id = uuid.uuid4().hex[:8]
    limit = limit_of(args, recording)
    sources = make_sources(args, recording, seed, run_id)
    sender = make_sender(args.client, kafka, args.topic)
    tally, wall_clock = Tally(), WallClock()
    try:
        with StatusLine() as status:
            status.print(opening(args, recording, len(sources), seed, kafka.bootstrap_servers))
            show = partial(print_batch, status) if args.verbose else lambda batch, accepted: None
            start_s = time.monotonic()
            schedule = Schedule(args.rate, start_s)
            injectors = [
                Injector(source, args.malformed_ratio, args.late_ratio, f"{seed} share {share}")
                for share, source in enumerate(sources)
            ]
            tasks = [
                partial(send_share, injector, schedule, limit, wall_clock, sender, tally, show, stop)
                for injector in injectors
            ]
            progress = Progress(sender, tally, args.rate, limit, start_s)
            watch = Watch(kafka.bootstrap_servers, start_s)
            with Crew(tasks, stop) as crew:
                in_flight = see_through(crew, sender, watch, progress, status, stop)
        print(progress.summary(in_flight, run_id), flush=True)
    except BrokenPipeError:
        # Who read the output is gone; what was accepted is still delivered.
        sender.flush(STOP_WAIT_S)
        raise
    finally:
        sender.close()
    if crew.errors:
        raise crew.errors[0]
    return 1 if in_flight or sender.failed else 0


def opening(args: argparse.Namespace, recording: Recording | None, threads: int, seed: int, address: str) -> str:
    """The first line."""
    how = f"{args.client}, {threads} thread{'s' if threads > 1 else ''}"
    if recording:
        what = f"replaying {len(recording.messages):,} readings of {args.replay} at {rate_text(args.rate)}"
    else:
        what = f"sending {rate_text(args.rate)} from {args.sensors:,} sensor{'s' if args.sensors > 1 else ''}"
        how += f", seed {seed}"
    return f"{what} to {args.topic} at {address} ({how}); Ctrl-C stops"


def print_batch(status: StatusLine, batch: Batch, accepted: int) -> None:
    """Print the messages that were accepted, each on a line."""
    values = (record["value"].decode(errors="backslashreplace") for record in batch.records[:accepted])
    status.print(*map(terminal.printable, values))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--sensors", metavar="N", type=cli.positive_int, help=f"how many to simulate, {SENSORS} unless told"
    )
    parser.add_argument(
        "--rate",
        metavar="R",
        type=cli.positive_float,
        help="messages a second in all, one for each sensor unless told; of a replay 1",
    )
    parser.add_argument(
        "--threads",
        metavar="T",
        type=cli.positive_int,
        default=THREADS,
        help="share the sensors out among as many",
    )
    parser.add_argument(
        "--duration", metavar="S", type=cli.positive_float, help="send what is due in so many seconds, then stop"
    )
    parser.add_argument("--count", metavar="N", type=cli.positive_int, help="stop after so many messages")
    parser.add_argument(
        "--seed", metavar="N", type=int, help="the same seed gives the same sensors; a new one unless told"
    )
    parser.add_argument("--client", choices=CLIENTS, default=CLIENTS[0], help="the Kafka client that sends")
    parser.add_argument(
        "--malformed-ratio",
        metavar="X",
        type=cli.ratio,
        default=0.0,
        help="the share of messages that break the schema, 0 to 1",
    )
    parser.add_argument(
        "--late-ratio",
        metavar="X",
        type=cli.ratio,
        default=0.0,
        help="the share of readings that are stamped one to two minutes back, 0 to 1",
    )
    parser.add_argument(
        "--replay",
        metavar="FILE",
        type=Path,
        help="send the readings of this file (JSON Lines, or CSV with the schema's columns) in order of time",
    )
    parser.add_argument(
        "--timestamps",
        choices=("now", "recorded"),
        help="of a replay: when a reading is sent, which is the default, or as in the file",
    )
    parser.add_argument("--verbose", action="store_true", help="print each message")
    args = parser.parse_args(argv)
    if args.replay is None and args.timestamps:
        parser.error("--timestamps is for --replay only")
    if args.replay and args.sensors:
        parser.error("--sensors does not go with --replay: the file has its own")
    if args.late_ratio and args.timestamps == "recorded":
        parser.error("--late-ratio does not go with --timestamps recorded, which keeps all times as they are")
    args.sensors = args.sensors or SENSORS
    args.rate = args.rate or (REPLAY_RATE_PER_S if args.replay else float(args.sensors))
    for flag, value, most in (
        ("--sensors", args.sensors, MAX_SENSORS),
        ("--rate", args.rate, MAX_RATE_PER_S),
        ("--threads", args.threads, MAX_THREADS),
    ):
        if value > most:
            parser.error(f"{flag} can be {most:,} at most")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, StopSignal().install().event))


if __name__ == "__main__":
    sys.exit(main())
