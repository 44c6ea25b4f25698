"""``python -m iot.alarms test --notify FILE``: send a sample alarm to each receiver, firing and then resolved."""

from __future__ import annotations

import argparse
import sys
import time

from iot import cli
from iot.alarms.grouping import Notification, group_key
from iot.alarms.model import Alarm
from iot.alarms.notify_file import Receiver, load_notify
from iot.alarms.receivers import deliver_to
from iot.readings import format_timestamp


def try_receivers(args: argparse.Namespace) -> int:
    """Send the samples, and print one line for each receiver; return 1 if any of them failed.

    Raises:
        UserError: the file of receivers is wrong.
    """
    notify = load_notify(args.notify)
    has_failed = False
    for receiver in notify.receivers:
        line, is_delivered = send_samples(receiver, notify.external_url)
        print(f"{receiver.name} ({receiver.kind}): {line}", flush=True)
        has_failed = has_failed or not is_delivered
    return int(has_failed)


def send_samples(receiver: Receiver, external_url: str) -> tuple[str, bool]:
    """Send a sample that fires and, if the receiver is told of ends, its end; say how that went."""
    deliver = deliver_to(receiver, external_url, time.time)
    samples = {"firing": sample("firing")}
    if receiver.routing.send_resolved:
        samples["resolved"] = sample("resolved")
    said = []
    for state, notification in samples.items():
        outcome = deliver(notification)
        said.append(f"{state} {outcome.result}" + (f": {outcome.reason}" if outcome.reason else ""))
        if outcome.result != "delivered":
            return ", ".join(said), False
    return ", ".join(said), True


def sample(state: str) -> Notification:
    now = format_timestamp(time.time_ns() // 1000)
    resolved = now if state == "resolved" else None
    alarm = Alarm(
        alarm_id="test",
        rule="HIGH_TEMPERATURE",
        severity="info",
        state="resolved" if resolved else "firing",
        sensor_id="test_of_notifications",
        sensor_type="temperature",
        location="nowhere",
        unit="celsius",
        threshold=30.0,
        value=29.0 if resolved else 31.0,
        peak=31.0,
        alerts=1,
        started=now,
        fired=now,
        updated=now,
        resolved=resolved,
    )
    labels = {"rule": alarm.rule}
    firing, ended = ((), (alarm,)) if resolved else ((alarm,), ())
    return Notification(group_key(labels), labels, firing, ended, len(firing))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    cli.print_any_text()
    parser = argparse.ArgumentParser(
        prog="python -m iot.alarms",
        description="Try the receivers of notifications about alarms.",
        formatter_class=cli.HelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="test", required=True)
    test = commands.add_parser(
        "test",
        help="send a sample alarm to each receiver, firing and then resolved",
        description="Send a sample alarm to each receiver, firing and then resolved, and print one line for each. "
        "The exit status is 1 if any of them failed.",
        allow_abbrev=False,
    )
    help_text = "TOML file of receivers, see docs/alarms.md"
    test.add_argument("--notify", metavar="FILE", type=cli.input_path, required=True, help=help_text)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: try_receivers(args))


if __name__ == "__main__":
    sys.exit(main())
