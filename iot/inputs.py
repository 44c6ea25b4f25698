"""Open an input that a flag names: a file, a pipe, a FIFO or standard input, plain or compressed with gzip.

An input may be readable only once, so it is opened once and read from its beginning to its end. Reading may wait for
ever: for a writer of a FIFO, or for somebody at the keyboard. ``processes.until_stopped`` ends such a wait.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import select
import shlex
import stat
import zlib
from pathlib import Path
from typing import Any

from iot.settings import UserError, reason

# Stands for standard input, as in other tools. A file of that name is ./-
STANDARD_INPUT = Path("-")
# How much of the content tells its format.
HEAD_BYTES = 4_096
BUFFER_BYTES = 1 << 18
# Maximum size of an input that is read as one text.
MAX_TEXT_BYTES = 16 << 20

GZIP = b"\x1f\x8b"
# What is not decompressed here: how it begins, its name, and the command that writes the content to a pipe.
OTHER_FORMATS = (
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd", "zstd -dc"),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "compressed with bzip2", "bzip2 -dc"),
    (rb"\xfd7zXZ\0", "compressed with xz", "xz -dc"),
    (rb"\x5d\0\0[\0-\xff]{2}(?:\xff{8}|[\0-\xff]{5}\0{3})", "compressed with lzma", "xz -dc"),
    (rb"\x04\x22\x4d\x18", "compressed with lz4", "lz4 -dc"),
    (rb"LZIP\x01", "compressed with lzip", "lzip -dc"),
    (rb"\x1f\x9d", "compressed with compress", "gzip -dc"),
    (rb"PK(?:\x03\x04|\x05\x06)", "a zip archive", "unzip -p"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x -so"),
    (rb"[\0-\xff]{257}ustar", "a tar archive", "tar -xOf"),
)
# How the operating system names an open file descriptor of this process.
DESCRIPTOR = re.compile(rf"/dev/(stdin)|(?:/dev|/proc/(?:self|thread-self|{os.getpid()}))/fd/(\d+)")


class InputError(UserError):
    """The input cannot be opened, or not be read to its end."""


class Input:
    """An input; ``with Input(path) as source`` opens it, which may wait.

    Attributes:
        name: for messages.
        head: the first ``HEAD_BYTES`` of the content, or all of it.
        stream: the whole content. Reading it raises only ``InputError``.
    """

    head: bytes
    stream: io.BufferedReader

    def __init__(self, path: Path, name: str = "") -> None:
        """
        Args:
            path: ``STANDARD_INPUT`` or a path.
            name: for messages (default: the path).
        """
        self._path = path
        self.name = name or ("standard input" if path == STANDARD_INPUT else str(path))
        self._opened: _Opened | None = None
        self._size = 0

    def __enter__(self) -> Input:
        try:
            file = self._open()
        except OSError as error:
            text = "it is a socket" if error.errno == errno.ENXIO else reason(error)
            raise InputError(f"cannot read {self.name}: {text}") from error
        try:
            self._opened = _Opened(file)
            self._read_head(self._opened)
        except BaseException:
            file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._opened
        self._opened.close()

    @property
    def can_be_opened_again(self) -> bool:
        """Whether it is a file, which has its whole content again when it is opened again."""
        return bool(self._size) and _descriptor(self._path) is None

    def progress(self) -> str:
        """Return how much was read so far, in words; any thread may call this."""
        if not self._opened or not self._opened.bytes_read:
            return f"waiting for {self.name}"
        of = f" of {self._size / 1e6:,.1f}" if self._size else ""
        return f"reading {self.name}: {self._opened.bytes_read / 1e6:,.1f}{of} MB"

    def _open(self) -> io.FileIO:
        """Open the file, or raise ``OSError``."""
        if self._path == STANDARD_INPUT:
            file = io.FileIO(0, closefd=False)
        else:
            try:
                file = io.FileIO(self._path)
            except OSError as error:
                # A socket, or a pipe of another user, can be read but not opened a second time.
                number = _descriptor(self._path)
                if number is None or error.errno not in (errno.ENXIO, errno.EACCES):
                    raise
                file = io.FileIO(os.dup(number))
        status = os.fstat(file.fileno())
        is_endless = stat.S_ISCHR(status.st_mode) and status.st_rdev != Path(os.devnull).stat().st_rdev
        if stat.S_ISBLK(status.st_mode) or (is_endless and not file.isatty()):
            file.close()
            raise OSError(errno.EINVAL, "it is a device, not a file")
        self._size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        return file

    def _read_head(self, opened: _Opened) -> None:
        content = _Content(opened, self.name)
        if content.head.startswith(GZIP):
            packed = io.BufferedReader(content, BUFFER_BYTES)
            content = _Content(gzip.GzipFile(fileobj=packed, mode="rb"), self.name)
        for beginning, what, command in OTHER_FORMATS:
            if re.match(beginning, content.head):
                if self._size and self._path != STANDARD_INPUT:
                    command += f" {shlex.quote(str(self._path))}"
                raise InputError(
                    f"{self.name} is {what}: put `{command} |` before this command, and - in place of the file"
                )
        self.head = content.head
        self.stream = io.BufferedReader(content, BUFFER_BYTES)


def is_same_stream(one: Path, other: Path) -> bool:
    """Whether two inputs are one stream, so that only the first reader gets its content.

    A stream is an open descriptor such as standard input, a pipe, a FIFO, a socket or a terminal. A file is none: it
    can be read twice. Nothing is opened, and an input that is not there is no stream.
    """
    descriptor = _descriptor(one)
    if descriptor is not None and descriptor == _descriptor(other):
        return True
    try:
        status, other_status = _status(one), _status(other)
        null = Path(os.devnull).stat()
    except OSError:
        return False
    is_file = stat.S_ISREG(status.st_mode) or os.path.samestat(status, null)
    return os.path.samestat(status, other_status) and not is_file


def name_of(path: Path) -> str:
    """Return the name of an input for messages."""
    return "standard input" if _descriptor(path) == 0 else str(path)


def _descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that a path names; None for any other path."""
    if path == STANDARD_INPUT:
        return 0
    named = DESCRIPTOR.fullmatch(str(path))
    return int(named[2] or 0) if named else None


def _status(path: Path) -> os.stat_result:
    return os.fstat(0) if path == STANDARD_INPUT else path.stat()


class _Opened(io.RawIOBase):
    """An open file that counts what is read from it."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._is_at_end = False
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # The end of a terminal is its end only once: the next read would wait for another line.
        if self._is_at_end:
            return 0
        # Standard input may have been left in non-blocking mode.
        while (count := self._file.readinto(buffer)) is None:
            select.select([self._file], [], [])
        self.bytes_read += count
        self._is_at_end = not count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Content(io.RawIOBase):
    """The content of a stream whose first bytes were read already, with errors as ``InputError``."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream, self._name = stream, name
        self._failure: InputError | None = None
        self.head = b""
        try:
            # A pipe may give its content byte by byte.
            while len(self.head) < HEAD_BYTES and (more := self._read(HEAD_BYTES - len(self.head))):
                self.head += more
        except InputError as error:
            # What came before the error is still content.
            self._failure = error
        self._left = memoryview(self.head)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._left[: len(buffer)]
        if content:
            self._left = self._left[len(content) :]
        elif self._failure:
            raise self._failure
        else:
            content = memoryview(self._read(len(buffer)))
        buffer[: len(content)] = content
        return len(content)

    def _read(self, most: int) -> bytes:
        try:
            content: bytes = self._stream.read(most)
        except EOFError:
            raise InputError(
                f"cannot read {self._name} to its end: the gzip data is cut off; copy or download it again"
            ) from None
        except (zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"cannot read {self._name} to its end: the gzip data is damaged ({reason(error)}); "
                "copy or download it again"
            ) from error
        except OSError as error:
            raise InputError(f"cannot read {self._name}: {reason(error)}") from error
        return content


def read_text(path: Path, name: str = "") -> str:
    """Return the whole content of a small input, as text. A byte order mark is left out.

    Args:
        name: for messages (default: the path).

    Raises:
        UserError: it cannot be read, is too large, or is not UTF-8.
    """
    with Input(path, name) as source:
        content = source.stream.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise InputError(f"cannot read {source.name}: it is larger than {MAX_TEXT_BYTES >> 20} MiB; check the path")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"cannot read {source.name}: {reason(error)}; save it as UTF-8") from error
