"""The command line: the flags that scripts share, argument types, and the exit status."""

from __future__ import annotations

import argparse
import math
import os
import re
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from iot import durations
from iot.addresses import join, parse_addresses
from iot.inputs import is_same_stream, name_of
from iot.processes import Stopped
from iot.properties_file import read_properties
from iot.settings import BOOTSTRAP_SERVERS, PARTITIONS, READINGS_TOPIC, Kafka, UserError, reason

SERVERS_VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Ends the help of each flag in ``(default: X)``, unless there is no default or the help text names it itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_none = action.default is None or action.default is False or action.default == ""
        if has_none or "(default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Refuses two flags that read the same stream: only the first of them would get its content."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed = super().parse_args(args, namespace)
        for one, other in combinations(self._given_inputs(parsed), 2):
            if is_same_stream(one.path, other.path):
                path = one.path if name_of(one.path) == "standard input" else other.path
                self.error(f"{one.flag} and {other.flag} both read {name_of(path)}: give one of them a file of its own")
        return parsed

    def _given_inputs(self, parsed: argparse.Namespace) -> Iterator[GivenInput]:
        for action in self._actions:
            if action.type is input_path and (path := getattr(parsed, action.dest, None)) is not None:
                yield GivenInput(action.option_strings[-1], path)


class GivenInput(NamedTuple):
    """An input of the command line."""

    flag: str
    path: Path


def print_any_text() -> None:
    """Print an escape for a character that the terminal's encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def parser(description: str | None, topic: bool = True) -> argparse.ArgumentParser:
    """Return an argument parser with the Kafka flags. From then on any text can be printed.

    Args:
        description: a module docstring. ``--help`` opens with its first paragraph.
        topic: whether to add ``--topic``, for scripts that read or write the readings topic.
    """
    print_any_text()
    made = Parser(
        description=(description or "").split("\n\n")[0].replace("\n", " "),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    group = made.add_argument_group("Kafka")
    group.add_argument(
        "--bootstrap-servers",
        metavar="HOST:PORT[,…]",
        type=addresses,
        default=DefaultServers.of_environment(),
        help="Kafka brokers to connect to first; bootstrap.servers in --kafka-config or KAFKA_BOOTSTRAP_SERVERS sets "
        "it too",
    )
    group.add_argument(
        "--kafka-config",
        metavar="FILE",
        type=input_path,
        help="Kafka client properties file, for SASL and for TLS with PEM stores (default: no security)",
    )
    if topic:
        group.add_argument("--topic", type=topic_name, default=READINGS_TOPIC, help="topic of the readings")
    return made


def kafka_from(args: argparse.Namespace) -> Kafka:
    """Return the address and client properties that the Kafka flags give; ``args`` then has this address too.

    The flag comes first, then bootstrap.servers in the properties file, then the environment variable.

    Raises:
        UserError: the properties file cannot be read, or its bootstrap.servers is no list of addresses.
    """
    properties = read_properties(args.kafka_config) if args.kafka_config else {}
    in_file = properties.pop("bootstrap.servers", "").strip()
    if in_file and isinstance(args.bootstrap_servers, DefaultServers):
        try:
            args.bootstrap_servers = join(parse_addresses(in_file))
        except ValueError as error:
            raise UserError(f"{name_of(args.kafka_config)}: bootstrap.servers: {error}") from error
    return Kafka(str(args.bootstrap_servers), properties)


def add_rules_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--rules``, a path or None, as ``rules_file.load_rules`` takes it."""
    parser.add_argument(
        "--rules", metavar="FILE", type=input_path, help="TOML file of alert rules (default: the built-in rules)"
    )


def add_topic_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--partitions`` and ``--replication-factor``, a number or None, as ``topics.ensure_topics`` takes them."""
    parser.add_argument(
        "--partitions",
        metavar="N",
        type=partition_count,
        help=f"number of partitions of the topic of the readings, if it is created (default: {PARTITIONS})",
    )
    parser.add_argument(
        "--replication-factor",
        metavar="N",
        type=replication_factor,
        help="number of copies of each partition of topics that are created; IOT_REPLICATION_FACTOR sets it too "
        "(default: the brokers' own)",
    )


def add_spark_arguments(
    parser: argparse.ArgumentParser,
    *,
    master: str,
    checkpoint_dir: Path,
    checkpoints: Sequence[str],
    folder: Callable[[str], Any] = Path,
) -> None:
    """Add ``--master``, ``--driver-host``, ``--checkpoint-dir`` and ``--starting-offsets``.

    Args:
        master: the default Spark master. The environment variable MASTER overrides it.
        checkpoint_dir: the default folder.
        checkpoints: the names of the script's checkpoints in that folder.
        folder: the argparse type of a folder, which may be a URI.
    """
    parser.add_argument(
        "--master",
        default=os.environ.get("MASTER") or master,
        help="Spark master, such as local[4] or spark://host:7077; MASTER sets it too",
    )
    parser.add_argument(
        "--driver-host",
        metavar="HOST",
        help="name or address at which the executors of a cluster reach this script (default: its address on the way "
        "to the master)",
    )
    parser.add_argument(
        "--checkpoint-dir",
        metavar="DIR",
        type=folder,
        default=checkpoint_dir,
        help=f"folder for {' and '.join(checkpoints)}; on a cluster of several machines a folder that all of them "
        "share, or a URI of a file system that Spark reaches, such as hdfs://namenode:8020/iot",
    )
    parser.add_argument(
        "--starting-offsets",
        choices=("earliest", "latest"),
        default="latest",
        help="where to start reading when there is no checkpoint",
    )


def input_path(text: str) -> Path:
    """argparse type: a file to read, or - for the standard input."""
    return _file_or_stream(text)


def output_path(text: str) -> Path:
    """argparse type: a file to write, or - for the standard output."""
    return _file_or_stream(text)


def _file_or_stream(text: str) -> Path:
    path = Path(text)
    # Path drops the ./ of a file that is called -
    return path.absolute() if path == Path("-") and text != "-" else path


def positive_int(text: str) -> int:
    """argparse type: a whole number above zero."""
    return int(_number(int, text, 1, math.inf, "a whole number above zero"))


def positive_float(text: str) -> float:
    """argparse type: a finite number above zero."""
    return _number(float, text, math.ulp(0), sys.float_info.max, "a finite number above zero")


def duration(text: str) -> float:
    """argparse type: the seconds of a duration above zero, such as 90m or 24h."""
    try:
        found_s = durations.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; for example 90m, 24h or 7d") from None
    if not found_s:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all; for example 90m, 24h or 7d")
    return found_s


def ratio(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    return _number(float, text, 0, 1, "a number from 0 to 1")


def partition_count(text: str) -> int:
    """argparse type: a number of partitions of one topic."""
    return int(_number(int, text, 1, 10_000, "a number of partitions from 1 to 10000"))


def replication_factor(text: str) -> int:
    """argparse type: a number of copies of each partition."""
    return int(_number(int, text, 1, 1_000, "a number of copies from 1 to 1000"))


def port_number(text: str) -> int:
    """argparse type: a TCP port."""
    return int(_number(int, text, 1, 65_535, "a port from 1 to 65535"))


def _number(kind: type[int] | type[float], text: str, least: float, most: float, expected: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


class DefaultServers(str):
    """Addresses that no flag gave: from the environment variable ``source``, or the built-in ones without a source."""

    source = ""

    @classmethod
    def of_environment(cls) -> DefaultServers:
        """Return those of KAFKA_BOOTSTRAP_SERVERS if it has any, or else the built-in ones."""
        given = os.environ.get(SERVERS_VARIABLE, "")
        return cls(given, SERVERS_VARIABLE) if given.strip() else cls(BOOTSTRAP_SERVERS)

    def __new__(cls, text: str, source: str = "") -> DefaultServers:
        made = super().__new__(cls, text)
        made.source = source
        return made


def addresses(text: str) -> str:
    """argparse type: one or more host:port addresses, separated by commas."""
    try:
        found = join(parse_addresses(text))
    except ValueError as error:
        where = f"{text.source}: " if isinstance(text, DefaultServers) else ""
        raise argparse.ArgumentTypeError(f"{where}{error}") from error
    return DefaultServers(found, text.source) if isinstance(text, DefaultServers) else found


def topic_name(text: str) -> str:
    """argparse type: a topic name that Kafka accepts."""
    if not re.fullmatch("[a-zA-Z0-9._-]{1,249}", text) or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} is not a topic name: use 1 to 249 letters, digits, '.', '_' or '-'")
    return text


def exit_status(run: Callable[[], int | None], stopped: int = 0) -> int:
    """Run a script and return its exit status.

    ``run`` returns the status, or None for 0. A ``UserError`` is printed as one line and gives 1. A ``Stopped`` is
    printed, too, and gives ``stopped``. Ctrl-C gives 130 where no stop signals are handled.
    """
    try:
        status = _printed_status(run, stopped)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if not _is_output_broken(error):
            raise
        _drop_output()
        # A reader that has left, such as head, wants no message.
        if not isinstance(error, BrokenPipeError):
            with suppress(OSError):
                os.write(2, f"error: cannot write to the standard output: {reason(error)}\n".encode())
        return 1


def _printed_status(run: Callable[[], int | None], stopped: int) -> int:
    try:
        return run() or 0
    except Stopped as how:
        print(how, flush=True)
        return stopped
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1


def _is_output_broken(error: OSError) -> bool:
    """Whether the error is one of the output: its reader has left, its disk is full or its terminal is closed."""
    for stream in _outputs():
        try:
            output = stream.fileno()
        except OSError:
            continue
        try:
            stream.flush()
            watched = select.poll()
            watched.register(output, 0)
            if watched.poll(0):
                return True
            # The failed text may be lost already, so only another write tells.
            if not isinstance(error, BrokenPipeError):
                os.write(output, b"\n")
        except OSError:
            return True
    return False


def _drop_output() -> None:
    """Send output that cannot be written to nowhere, so that Python's flush at exit does not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in _outputs():
        try:
            stream.flush()
        except OSError:
            os.dup2(null, stream.fileno())


def _outputs() -> list[TextIO]:
    """Return the standard streams; ``sys.stdout`` may be another one than the standard output."""
    return [stream for stream in dict.fromkeys((sys.stdout, sys.__stdout__, sys.stderr)) if stream]
