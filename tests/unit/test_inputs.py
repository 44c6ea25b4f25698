"""Inputs that a flag names: each is read once, from its beginning to its end, whatever it is."""

from __future__ import annotations

import argparse
import bz2
import errno
import gzip
import io
import itertools
import lzma
import os
import pty
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import iot_consumer
import iot_producer
import iot_streaming_app
import performance_test
import structured_streaming_processor
from iot import cli
from iot.inputs import GZIP, HEAD_BYTES, STANDARD_INPUT, Input, InputError, read_text

LINES = b"".join(b"line %d \xc3\xa9\n" % number for number in range(5_000))


def content(path: Path) -> bytes:
    with Input(path) as opened:
        assert opened.head == LINES[:HEAD_BYTES]
        return opened.stream.read()


def fed(write: Callable[[int], None]) -> tuple[int, threading.Thread]:
    """A pipe whose other end a thread writes and closes."""
    reader, writer = os.pipe()

    def run() -> None:
        try:
            write(writer)
        finally:
            os.close(writer)

    thread = threading.Thread(target=run)
    thread.start()
    return reader, thread


def in_pieces(writer: int) -> None:
    # The first pieces are shorter than anything that tells a format.
    for at in range(3):
        os.write(writer, LINES[at : at + 1])
        time.sleep(0.001)
    for at in range(3, len(LINES), 701):
        os.write(writer, LINES[at : at + 701])


def at_once(content: bytes) -> Callable[[int], None]:
    def write(writer: int) -> None:
        with io.FileIO(writer, "wb", closefd=False) as pipe:
            io.BufferedWriter(pipe).write(content)

    return write


MEMBERS = gzip.compress(LINES[:100], mtime=0) + gzip.compress(b"", mtime=0) + gzip.compress(LINES[100:], mtime=0)


@pytest.mark.parametrize("write", [in_pieces, at_once(LINES), at_once(gzip.compress(LINES, mtime=0)), at_once(MEMBERS)])
@pytest.mark.parametrize("path", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_pipe_is_read_completely(write, path):
    reader, thread = fed(write)
    try:
        assert content(Path(path.format(reader))) == LINES
    finally:
        thread.join()
        os.close(reader)


def test_a_fifo_is_read_completely_although_its_writer_comes_later(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    opened = Input(fifo)
    assert opened.progress() == f"waiting for {fifo}"
    found: list[bytes] = []
    reading = threading.Thread(target=lambda: found.append(content(fifo)))
    reading.start()
    with fifo.open("wb") as writer:
        in_pieces(writer.fileno())
    reading.join()
    assert found == [LINES]


@pytest.mark.parametrize("packed", [LINES, gzip.compress(LINES, mtime=0), MEMBERS, MEMBERS + b"\0" * 500])
@pytest.mark.parametrize("name", ["plain", "wrong.gz", "ü b'\"\N{SNOWMAN}.jsonl"])
def test_a_file_is_recognised_by_its_content_not_by_its_name(packed, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(packed)
    assert content(path) == LINES
    with Input(path) as opened:
        assert opened.progress() == f"reading {path}: 0.0 of {len(packed) / 1e6:,.1f} MB" or len(packed) > 50_000


def test_a_socket_and_a_descriptor_that_does_not_wait_are_inputs():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def write() -> None:
        time.sleep(0.05)
        theirs.sendall(LINES)
        theirs.close()

    thread = threading.Thread(target=write)
    thread.start()
    # A socket cannot be opened a second time by the name of its descriptor.
    assert content(Path(f"/dev/fd/{ours.fileno()}")) == LINES
    thread.join()
    ours.close()


def test_a_file_that_is_removed_while_it_is_read_is_read_to_its_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(LINES)
    with Input(path) as opened:
        path.unlink()
        assert opened.stream.read() == LINES


def test_a_file_that_grows_while_it_is_read_is_read_to_its_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(LINES[:10_000])
    with Input(path) as opened, path.open("ab") as writer:
        writer.write(LINES[10_000:])
        writer.flush()
        assert opened.stream.read() == LINES


def test_a_terminal_is_an_input_until_its_end():
    ours, theirs = pty.openpty()
    os.write(ours, b"a line\n\x04")
    assert read_text(Path(f"/dev/fd/{theirs}")) == "a line\n"
    os.close(ours)
    os.close(theirs)


def test_an_empty_input_has_an_empty_head(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b"", mtime=0))
    for path in (tmp_path / "empty", tmp_path / "empty.gz", Path(os.devnull)):
        with Input(path) as opened:
            assert (opened.head, opened.stream.read()) == (b"", b"")


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readings.csv", LINES)
    return file.getvalue()


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (bz2.compress(LINES), "compressed with bzip2: put `bzip2 -dc "),
        (bz2.compress(b""), "compressed with bzip2: put `bzip2 -dc "),
        (lzma.compress(LINES), "compressed with xz: put `xz -dc "),
        (lzma.compress(LINES, format=lzma.FORMAT_ALONE), "compressed with lzma: put `xz -dc "),
        (b"\x28\xb5\x2f\xfd\x24\x00\x01\x00\x00", "compressed with zstd: put `zstd -dc "),
        (b"\x04\x22\x4d\x18\x64\x40\xa7", "compressed with lz4: put `lz4 -dc "),
        (zipped(), "a zip archive: put `unzip -p "),
        (gzip.compress(b"readings.csv".ljust(257, b"\0") + b"ustar\0", mtime=0), "a tar archive: put `tar -xOf "),
    ],
)
def test_other_formats_are_named_with_the_command_that_unpacks_them(packed, says, tmp_path):
    path = tmp_path / "a b"
    path.write_bytes(packed)
    with pytest.raises(InputError) as raised, Input(path):
        pass
    assert f"{path} is {says}'{path}' |` before this command" in str(raised.value)
    reader, thread = fed(at_once(packed))
    command = says.partition("`")[2].strip()
    with pytest.raises(InputError, match=rf"put `{command} \|` before"), Input(Path(f"/dev/fd/{reader}")):
        pass
    thread.join()
    os.close(reader)


@pytest.mark.parametrize(
    ("packed", "says", "readable"),
    [
        (gzip.compress(LINES, mtime=0)[:-9], "to its end: the gzip data is cut off", 60_000),
        (gzip.compress(LINES, mtime=0)[:400], "to its end: the gzip data is cut off", 0),
        (GZIP, "to its end: the gzip data is cut off", 0),
        (gzip.compress(LINES, mtime=0)[:-8] + b"\0" * 8, "to its end: the gzip data is damaged", 60_000),
        (gzip.compress(LINES, mtime=0) + b"rest", "to its end: the gzip data is damaged", 60_000),
        (GZIP + b"\x08" + b"\xff" * 900, "to its end: the gzip data is ", 0),
    ],
)
def test_damaged_gzip_data_is_an_error_after_what_can_be_read(packed, says, readable, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(packed)
    found = bytearray()
    with Input(path) as opened, pytest.raises(InputError, match=f"^cannot read {path} {says}"):  # noqa: PT012
        while more := opened.stream.read1(1_000):
            found += more
    assert LINES.startswith(bytes(found))
    assert len(found) >= readable


def test_what_is_no_input_is_a_line_of_error(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)
        listening.bind("socket")
        for path, says in [
            (tmp_path, "Is a directory"),
            (tmp_path / "none", os.strerror(errno.ENOENT)),
            (tmp_path / "socket", "it is a socket"),
            (Path("/dev/zero"), "it is a device, not a file"),
            (Path("/dev/fd/987"), os.strerror(errno.ENOENT)),
        ]:
            with pytest.raises(InputError, match=f"^cannot read {path}: {says}$"), Input(path):
                pass


def test_a_text_is_read_from_a_pipe_and_loses_its_byte_order_mark():
    reader, thread = fed(at_once("\ufeffgrüße".encode()))
    assert read_text(Path(f"/dev/fd/{reader}")) == "grüße"
    thread.join()
    os.close(reader)


def test_a_text_that_is_too_large_or_not_utf_8_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=f"^cannot read the rules {path}: 'utf-8' codec .*; save it as UTF-8$"):
        read_text(path, f"the rules {path}")
    monkeypatch.setattr("iot.inputs.MAX_TEXT_BYTES", 1 << 20)
    path.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(InputError, match=r"it is larger than 1 MiB; check the path$"):
        read_text(path)


SCRIPTS = {
    iot_consumer: [],
    iot_producer: [],
    iot_streaming_app: [],
    performance_test: ["--test", "burst"],
    structured_streaming_processor: [],
}
# Every pair of flags of every script that reads an input.
PAIRS = [
    (script, flags, first, second)
    for script, inputs in {
        iot_consumer: ["--kafka-config", "--rules"],
        iot_producer: ["--kafka-config", "--replay", "--map"],
        iot_streaming_app: ["--kafka-config", "--rules", "--notify"],
        performance_test: ["--kafka-config", "--compare"],
        structured_streaming_processor: ["--kafka-config", "--rules"],
    }.items()
    for first, second in itertools.combinations(inputs, 2)
    for flags in (SCRIPTS[script],)
]
STANDARD_INPUTS = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "/proc/PID/fd/0"]


@pytest.fixture
def piped() -> Iterator[None]:
    """The standard input is a pipe."""
    reader, writer = os.pipe()
    kept = os.dup(0)
    os.dup2(reader, 0)
    yield
    os.dup2(kept, 0)
    for number in (reader, writer, kept):
        os.close(number)


def inputs_of(script: ModuleType) -> list[str]:
    """The flags of a script whose help says that they take a file to read."""
    made: list[argparse.ArgumentParser] = []
    parse = argparse.ArgumentParser.parse_known_args

    def noted(self: argparse.ArgumentParser, *args: Any) -> Any:
        made.append(self)
        return parse(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", noted)
        script.parse_args([])
    return [action.option_strings[0] for action in made[0]._actions if action.type is cli.input_path]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_pairs_are_all_there_are(script):
    found = {(first, second) for module, _, first, second in PAIRS if module is script}
    assert found == set(itertools.combinations(inputs_of(script), 2))


@pytest.mark.parametrize(("script", "flags", "first", "second"), PAIRS)
@pytest.mark.parametrize(("one", "other"), [*itertools.product(STANDARD_INPUTS, repeat=2)])
@pytest.mark.usefixtures("piped")
def test_two_flags_cannot_both_read_the_standard_input(script, flags, first, second, one, other, refuses):
    one, other = (name.replace("PID", str(os.getpid())) for name in (one, other))
    line = refuses(script.parse_args, [*flags, first, one, second, other])
    assert f"{first} and {second} both read standard input: give one of them a file of its own" in line


def test_two_flags_cannot_both_read_a_pipe_or_a_fifo(tmp_path, refuses):
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    reader, writer = os.pipe()
    for one, other in [(fifo, fifo), (fifo, link), (f"/dev/fd/{reader}", f"/proc/self/fd/{reader}")]:
        line = refuses(iot_consumer.parse_args, ["--kafka-config", str(one), "--rules", str(other)])
        assert f"--kafka-config and --rules both read {other}: give one of them a file" in line
    os.close(reader)
    os.close(writer)


@pytest.mark.usefixtures("piped")
def test_two_different_inputs_or_one_file_twice_are_read(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for one, other in [(file, "-"), (file, file), ("/dev/null", "/dev/null"), (tmp_path / "no", tmp_path / "no")]:
        args = iot_consumer.parse_args(["--kafka-config", str(one), "--rules", str(other)])
        assert (args.kafka_config, args.rules) == (Path(one), Path(other))
    # Of the same flag, the last one counts.
    assert iot_consumer.parse_args(["--rules", "-", "--rules", "-"]).rules == STANDARD_INPUT


@pytest.mark.parametrize("flag", ["--kafka-config", "--compare"])
def test_the_menu_needs_the_standard_input_for_itself(flag, refuses):
    assert f"{flag} reads standard input, and so does the menu" in refuses(performance_test.parse_args, [flag, "-"])
    assert performance_test.parse_args([flag, "-", "--test", "burst"]).test == "burst"


def test_only_a_dash_is_the_standard_input():
    assert Input(cli.input_path("-")).name == "standard input"
    assert cli.input_path("-") == STANDARD_INPUT
    assert cli.input_path("./-") == Path.cwd() / "-"
    assert cli.input_path("a/-") == Path("a/-")
