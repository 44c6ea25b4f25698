"""Addresses, topics, windows and the flags that every script shares."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

BOOTSTRAP_SERVERS = "localhost:9092"
READINGS_TOPIC = "iot-sensors"
ALERTS_TOPIC = "iot-alerts"
REJECTED_TOPIC = "iot-sensors-rejected"
PARTITIONS = 3

WINDOW_S = 30
SLIDE_S = 10
WATERMARK_S = 5
# Windows stay open this much longer than promised: across partitions order is known to the millisecond only, and it is
# no harm to count what the promise allows to drop.
LATENESS_S = WATERMARK_S + 15
FUTURE_TOLERANCE_S = 60

CACHE_DIR = Path(os.environ.get("IOT_CACHE_DIR") or platformdirs.user_cache_dir("iot-streaming"))
LOG_DIR = Path(os.environ.get("IOT_LOG_DIR") or platformdirs.user_log_dir("iot-streaming"))
DATA_DIR = Path(os.environ.get("IOT_DATA_DIR") or platformdirs.user_data_dir("iot-streaming"))


class UserError(Exception):
    """Something that the user can cure; its text is one line that names the thing and the cure."""


@dataclass(frozen=True)
class Kafka:
    """Where Kafka is and how to reach it: bootstrap servers and client properties as Kafka's own tools take them."""

    bootstrap_servers: str = BOOTSTRAP_SERVERS
    properties: dict[str, str] = field(default_factory=dict, repr=False)


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


def read_properties(path: Path) -> dict[str, str]:
    """Read a Java properties file: ``key=value``, ``key: value`` or ``key value``, with Java's comments and escapes.

    Raises:
        UserError: the file cannot be read, or a line has no key and value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    properties: dict[str, str] = {}
    begun = ""
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = begun + line.strip()
        if not begun and line[:1] in ("", "#", "!"):
            continue
        # A line continues after a backslash that is not itself escaped.
        begun = line[:-1] if (len(line) - len(line.rstrip("\\"))) % 2 else ""
        if begun:
            continue
        match = re.fullmatch(r"((?:[^\\=:\s]|\\.)+)(?:\s*[=:]\s*|\s+)(.*)", line)
        if not match:
            raise UserError(f"{path}, line {number}: expected key=value")
        properties[_unescape(match[1])] = _unescape(match[2])
    return properties


def _unescape(text: str) -> str:
    controls = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
    return re.sub(
        r"\\(?:u([0-9a-fA-F]{4})|(.))",
        lambda found: chr(int(found[1], 16)) if found[1] else controls.get(found[2], found[2]),
        text,
    )


def reason(error: BaseException) -> str:
    """An error's own words on one line; its class name where it has none."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


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
