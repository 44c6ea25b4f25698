"""Decode the content of a file: its encoding, and its lines with their numbers, in bounded memory."""

from __future__ import annotations

import codecs
import io
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from iot.devices.results import FormError

# How much of a file tells its encoding and its form.
SAMPLE_BYTES = 1 << 18
CHUNK_BYTES = 1 << 20
# Maximum number of characters in a line.
MAX_LINE = 1 << 20
# Encodings that a byte order mark names. The longer ones come first.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# The character in place of a byte that cannot be decoded.
BROKEN = "\ufffd"


def encoding_of(sample: bytes) -> str:
    """Return the encoding of a text that begins with ``sample``.

    What is not UTF-8 is read as cp1252, the encoding of Windows in Western Europe and America, which contains Latin-1.
    Statistics cannot tell it from its relatives: charset-normalizer takes German and French texts for cp1250.

    Raises:
        FormError: it is no text, or in another encoding.
    """
    for mark, encoding in MARKS:
        if sample.startswith(mark):
            return encoding
    if found := _wide_encoding(sample):
        return found
    if b"\0" in sample:
        raise FormError("the content is no text: give a text file such as CSV or JSON")
    try:
        # The sample may end inside a character.
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        return "utf-8"
    except UnicodeDecodeError:
        pass
    try:
        sample.decode("cp1252")
    except UnicodeDecodeError:
        raise FormError(
            "the encoding is neither UTF-8 nor cp1252. Fill in this map, and give it with --map FILE.toml:",
            '[csv]\nencoding = "…"  # such as cp1251',
        ) from None
    return "cp1252"


def _wide_encoding(sample: bytes) -> str | None:
    """Return UTF-16 without a byte order mark, by the zero bytes of its ASCII characters."""
    even, odd = sample[0:400:2], sample[1:400:2]
    if len(odd) >= 8 and odd.count(0) > 0.7 * len(odd) and not even.count(0):
        return "utf-16-le"
    if len(even) >= 8 and even.count(0) > 0.7 * len(even) and not odd.count(0):
        return "utf-16-be"
    return None


class Stream(Protocol):
    """A source of bytes."""

    def read(self, most: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""


def texts(stream: Stream, encoding: str) -> Iterator[str]:
    """Yield the text of a stream in pieces, with every line break as ``\\n``.

    A byte that cannot be decoded becomes ``BROKEN``.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)("replace"), translate=True)
    is_first = True
    while chunk := stream.read(CHUNK_BYTES):
        text = str(decoder.decode(chunk))
        if is_first and text:
            text = text.removeprefix("\ufeff")
            is_first = False
        yield text
    yield str(decoder.decode(b"", final=True))


class Lines:
    """The lines of a text, each with its line break. An iterator, as ``csv.reader`` takes it.

    Attributes:
        number: how many lines were given so far.
        taken: the lines that were given since ``mark`` was called.
        has_broken: whether a byte could not be decoded so far.
    """

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._waiting: deque[str] = deque()
        self._rest = ""
        self._is_at_end = False
        self.number = 0
        self.has_broken = False
        self.taken: list[str] = []

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        while not self._waiting:
            self._fill()
        line = self._waiting.popleft()
        self.number += 1
        self.taken.append(line)
        return line

    def peek(self, count: int) -> list[str]:
        """Return the next lines, at most ``count``, which are given later nevertheless."""
        while len(self._waiting) < count and not self._is_at_end:
            self._fill()
        return list(islice(self._waiting, count))

    def mark(self) -> None:
        """Forget the lines that were given so far."""
        self.taken.clear()

    def give_back(self) -> int:
        """Give the lines since ``mark`` again, except the first; return the number of that first line."""
        again = self.taken[1:]
        self._waiting.extendleft(reversed(again))
        self.number -= len(again)
        self.taken = self.taken[:1]
        return self.number

    def _fill(self) -> None:
        """Read more lines.

        Raises:
            StopIteration: there are none.
        """
        if self._is_at_end:
            raise StopIteration
        piece = next(self._pieces, None)
        if piece is None:
            self._is_at_end = True
            if self._rest:
                self._waiting.append(self._rest)
            return
        self.has_broken |= BROKEN in piece
        *lines, self._rest = (self._rest + piece).split("\n")
        self._waiting.extend(line + "\n" for line in lines)
        if len(self._rest) > MAX_LINE:
            number = self.number + len(self._waiting) + 1
            raise FormError(f"line {number:,} has more than {MAX_LINE:,} characters: is it a text file with lines?")
