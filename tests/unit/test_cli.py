"""Flags that scripts share, argument types, and the exit status."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from iot import cli
from iot.cli import exit_status, kafka_from, parser
from iot.processes import Stopped
from iot.settings import Kafka, UserError
from tests.support.scripts import started


def test_defaults_of_the_kafka_flags(monkeypatch):
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    args = parser("What it does.\n\nMore.").parse_args([])
    assert (args.bootstrap_servers, args.topic, args.kafka_config) == ("localhost:9092", "iot-sensors", None)
    assert kafka_from(args) == Kafka("localhost:9092", {})


def test_a_flag_overrides_the_servers_of_the_environment(monkeypatch):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "one:9092,two:9093")
    assert parser(None).parse_args([]).bootstrap_servers == "one:9092,two:9093"
    assert parser(None).parse_args(["--bootstrap-servers", "[::1]:9094"]).bootstrap_servers == "[::1]:9094"


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("kafka", "KAFKA_BOOTSTRAP_SERVERS: 'kafka' is not host:port"),
        ("one:9092,two", "KAFKA_BOOTSTRAP_SERVERS: 'two' is not host:port"),
        ("one:port", "KAFKA_BOOTSTRAP_SERVERS: 'one:port' is not host:port"),
        ("one:99999", "KAFKA_BOOTSTRAP_SERVERS: 'one:99999' has no port from 1 to 65535"),
    ],
)
def test_a_wrong_variable_is_named(given, wrong, monkeypatch, refuses):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", given)
    assert wrong in refuses(parser(None).parse_args, [])
    # A flag makes the variable irrelevant.
    assert parser(None).parse_args(["--bootstrap-servers", "a:1"]).bootstrap_servers == "a:1"


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_a_blank_variable_is_no_variable(blank, monkeypatch):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", blank)
    assert parser(None).parse_args([]).bootstrap_servers == "localhost:9092"


@pytest.mark.parametrize(
    ("flag", "in_file", "variable", "used"),
    [
        ("flag:1", "file:2", "variable:3", "flag:1"),
        (None, "file:2, other:2", "variable:3", "file:2,other:2"),
        (None, None, "PLAINTEXT://variable:3,", "variable:3"),
        (None, "", None, "localhost:9092"),
    ],
)
def test_the_flag_comes_before_the_file_and_the_file_before_the_variable(
    flag, in_file, variable, used, tmp_path, monkeypatch
):
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    if variable:
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", variable)
    file = tmp_path / "client.properties"
    file.write_text("client.id=me\n" + ("" if in_file is None else f"bootstrap.servers={in_file}\n"))
    args = parser(None).parse_args(["--kafka-config", str(file), *(["--bootstrap-servers", flag] if flag else [])])
    assert kafka_from(args) == Kafka(used, {"client.id": "me"})
    # The scripts hand this to their children.
    assert args.bootstrap_servers == used


def test_wrong_servers_in_the_properties_file_are_an_error(tmp_path):
    file = tmp_path / "client.properties"
    file.write_text("bootstrap.servers=kafka\n")
    args = parser(None).parse_args(["--kafka-config", str(file)])
    with pytest.raises(UserError, match=rf"^{file}: bootstrap.servers: 'kafka' is not host:port"):
        kafka_from(args)


def test_help_opens_with_the_first_paragraph():
    text = parser("Reads sensors,\nall of them.\n\nDetails.").format_help()
    assert "Reads sensors, all of them." in text
    assert "Details" not in text
    assert "--topic" not in parser(None, topic=False).format_help()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--bootstrap-servers", "localhost"],
        ["--bootstrap-servers", ":9092"],
        ["--bootstrap-servers", "localhost:99999"],
        ["--bootstrap-servers", "localhost:²"],
        ["--bootstrap-servers", "a:1,,b:2"],
        ["--bootstrap-servers", "localhost:0"],
        ["--bootstrap-servers", "localhost: 9092"],
        ["--bootstrap-servers", ""],
        ["--topic", ""],
        ["--topic", "a b"],
        ["--topic", ".."],
        ["--topic", "x" * 250],
        ["--top", "abbreviated"],
    ],
)
def test_bad_flags_exit_2(wrong, refuses):
    refuses(parser(None).parse_args, wrong)


def test_bad_servers_in_the_environment_exit_2(monkeypatch, refuses):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "nonsense")
    assert "'nonsense' is not host:port" in refuses(parser(None).parse_args, [])


@pytest.mark.parametrize(
    ("kind", "good", "wrong"),
    [
        (cli.positive_int, {"1": 1, "007": 7}, ["0", "-1", "1.5", "x", ""]),
        (cli.positive_float, {"0.5": 0.5, "1e3": 1000.0}, ["0", "-1", "nan", "inf", "x"]),
        (cli.ratio, {"0": 0.0, "1": 1.0, "0.25": 0.25}, ["-0.1", "1.1", "nan", "x"]),
        (cli.port_number, {"1": 1, "65535": 65535}, ["0", "65536", "x"]),
    ],
)
def test_number_types(kind, good, wrong):
    assert {text: kind(text) for text in good} == good
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' is not a"):
            kind(text)


def test_a_missing_properties_file(tmp_path: Path):
    args = parser(None).parse_args(["--kafka-config", str(tmp_path / "none")])
    with pytest.raises(UserError, match=r"^cannot read .*none: No such file or directory$"):
        kafka_from(args)


def test_the_help_shows_each_default_once():
    made = parser(None)
    made.add_argument("--none", help="without one")
    made.add_argument("--switch", action="store_true", help="on or off")
    made.add_argument("--empty", default="", help="no text")
    made.add_argument("--zero", type=float, default=0.0, help="a share")
    made.add_argument("--by-hand", default=7, help="said (default: seven)")
    text = " ".join(made.format_help().split())
    assert "without one --switch on or off --empty EMPTY no text --zero" in text
    assert "a share (default: 0.0)" in text
    assert "said (default: seven)" in text
    assert "(default: 7)" not in text


def test_rules_flag():
    made = parser(None)
    cli.add_rules_argument(made)
    assert made.parse_args([]).rules is None
    assert made.parse_args(["--rules", "mine.toml"]).rules == Path("mine.toml")


def spark_parser() -> argparse.ArgumentParser:
    made = parser(None)
    cli.add_spark_arguments(made, master="local[8]", checkpoint_dir=Path("/tmp"), checkpoints=("one", "two"))
    return made


def test_spark_flags(monkeypatch):
    monkeypatch.delenv("MASTER", raising=False)
    args = spark_parser().parse_args([])
    assert (args.master, args.checkpoint_dir, args.starting_offsets) == ("local[8]", Path("/tmp"), "latest")
    given = ["--master", "spark://host:7077", "--checkpoint-dir", "/shared", "--starting-offsets", "earliest"]
    args = spark_parser().parse_args(given)
    assert (args.master, args.checkpoint_dir) == ("spark://host:7077", Path("/shared"))
    assert args.starting_offsets == "earliest"
    assert "one and two" in spark_parser().format_help()


def test_a_flag_overrides_the_spark_master_of_the_environment(monkeypatch):
    monkeypatch.setenv("MASTER", "spark://host:7077")
    assert spark_parser().parse_args([]).master == "spark://host:7077"
    assert spark_parser().parse_args(["--master", "local[2]"]).master == "local[2]"


def test_starting_offsets_are_earliest_or_latest(refuses):
    refuses(spark_parser().parse_args, ["--starting-offsets", "7"])


def raising(error: BaseException) -> int:
    raise error


def test_exit_status_of_a_script(capsys):
    assert exit_status(lambda: None) == 0
    assert exit_status(lambda: 3) == 3
    assert exit_status(lambda: raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""
    assert exit_status(lambda: raising(UserError("no broker: start one"))) == 1
    assert capsys.readouterr().err == "error: no broker: start one\n"


def test_a_stop_is_one_line_and_no_failure_unless_the_script_says_so(capsys):
    assert exit_status(lambda: raising(Stopped("stopped before it began"))) == 0
    assert exit_status(lambda: raising(Stopped("stopped before it began")), stopped=130) == 130
    assert capsys.readouterr() == ("stopped before it began\n" * 2, "")


FULL = "print('x' * 100)", "print('x', flush=True)", "sys.stdout.reconfigure(line_buffering=True); print('x')"


@pytest.mark.parametrize("code", FULL)
def test_a_full_disk_under_the_output_is_one_line_of_error(code):
    program = f"import sys; from iot.cli import exit_status; raise SystemExit(exit_status(lambda: exec({code!r})))"
    ran = subprocess.run(
        ["bash", "-c", 'exec "$@" >/dev/full', "bash", sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.strip() == "error: cannot write to the standard output: No space left on device"


def test_another_error_of_the_system_is_not_blamed_on_the_output():
    with pytest.raises(OSError, match="No space left"):
        exit_status(lambda: raising(OSError(errno.ENOSPC, "No space left on device")))


def test_only_a_broken_standard_output_ends_without_a_traceback():
    with pytest.raises(BrokenPipeError):
        exit_status(lambda: raising(BrokenPipeError()))
    code = "from iot.cli import exit_status; raise SystemExit(exit_status(lambda: print('x' * 1_000_000)))"
    with started([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ([], (None, None)),
        (["--partitions", "12"], (12, None)),
        (["--replication-factor", "3"], (None, 3)),
        (["--partitions", "1", "--replication-factor", "1"], (1, 1)),
    ],
)
def test_flags_of_new_topics(flags, wanted):
    made = parser(None)
    cli.add_topic_arguments(made)
    args = made.parse_args(flags)
    assert (args.partitions, args.replication_factor) == wanted


@pytest.mark.parametrize("flag", ["--partitions", "--replication-factor"])
@pytest.mark.parametrize("wrong", ["0", "-1", "1.5", "many", "", "100000"])
def test_wrong_numbers_of_partitions_and_copies_are_refused(flag, wrong, refuses):
    made = parser(None)
    cli.add_topic_arguments(made)
    assert f"{flag}: {wrong!r} is not a number of " in refuses(made.parse_args, [flag, wrong])
