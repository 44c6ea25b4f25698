"""The command line: flags that several scripts share, argument types, and the exit status."""

from __future__ import annotations

import argparse
import math
import os
import re
import select
import sys
from collections.abc import Callable
from pathlib import Path

from iot.properties_file import read_properties
from iot.settings import BOOTSTRAP_SERVERS, READINGS_TOPIC, Kafka, UserError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False) else action.help


def parser(description: str | None, topic: bool = True) -> argparse.ArgumentParser:
    """An argument parser with the flags that every script shares.

    Args:
        description: a module docstring; the first paragraph is what ``--help`` opens with.
        topic: whether the script reads or writes the topic of readings.
    """
    made = argparse.ArgumentParser(
        description=(description or "").split("\n\n")[0].replace("\n", " "),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    group = made.add_argument_group("Kafka")
    group.add_argument(
        "--bootstrap-servers",
        metavar="HOST:PORT[,…]",
        type=addresses,
        default=os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or BOOTSTRAP_SERVERS,
        help="brokers to start from; also from KAFKA_BOOTSTRAP_SERVERS",
    )
    group.add_argument(
        "--kafka-config",
        metavar="FILE",
        type=Path,
        help="a Kafka client properties file: SASL, TLS with PEM stores",
    )
    if topic:
        group.add_argument("--topic", type=topic_name, default=READINGS_TOPIC, help="the topic of readings")
    return made


def kafka_from(args: argparse.Namespace) -> Kafka:
    """The Kafka that the shared flags name.

    Raises:
        UserError: the properties file cannot be read.
    """
    return Kafka(args.bootstrap_servers, read_properties(args.kafka_config) if args.kafka_config else {})


def positive_int(text: str) -> int:
    """argparse type: a whole number above zero."""
    return int(_number(int, text, 1, math.inf, "a whole number above zero"))


def positive_float(text: str) -> float:
    """argparse type: a finite number above zero."""
    return _number(float, text, math.ulp(0), sys.float_info.max, "a finite number above zero")


def ratio(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    return _number(float, text, 0, 1, "a number from 0 to 1")


def port_number(text: str) -> int:
    """argparse type: a TCP port."""
    return int(_number(int, text, 1, 65_535, "a port from 1 to 65535"))


def addresses(text: str) -> str:
    """argparse type: one or more of host:port, with commas between them."""
    for address in text.replace(" ", "").split(","):
        host, _, port = address.rpartition(":")
        if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65_536:
            raise argparse.ArgumentTypeError(f"{address!r} is not host:port, for example {BOOTSTRAP_SERVERS}")
    return text.replace(" ", "")


def topic_name(text: str) -> str:
    """argparse type: a name that Kafka allows for a topic."""
    if not re.fullmatch("[a-zA-Z0-9._-]{1,249}", text) or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} is not a topic's name: 1 to 249 letters, digits, '.', '_' or '-'")
    return text


def _number(kind: type[int] | type[float], text: str, least: float, most: float, expected: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def exit_status(run: Callable[[], int | None]) -> int:
    """Run a script, and its exit status: 1 with one line for what the user can cure, 130 after Ctrl-C."""
    try:
        return run() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _is_stdout_broken():
            raise
        _drop_stdout()
        return 1
    except KeyboardInterrupt:
        return 130


def _is_stdout_broken() -> bool:
    """Whether nobody reads it any more; a pipe to somewhere else may have broken instead."""
    try:
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
        return bool(watched.poll(0))
    except OSError:
        return False


def _drop_stdout() -> None:
    """Who read the output is gone, and Python must not try to flush the rest at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
