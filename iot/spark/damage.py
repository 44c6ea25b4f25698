"""Find out whether a checkpoint of Spark's is really damaged, by reading its files.

An error of Spark's alone does not prove it: a full disk, missing permissions or a lost connection look alike.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from iot.settings import reason
from iot.spark.remote_path import AnyPath

# Hadoop's checksum file: this mark, the size of a block, and the CRC-32 of each block.
_CRC_MARK = b"crc\0"
# The header of a compressed block in a state file: mark, method, compressed size, original size, checksum.
_BLOCK_MARK = b"LZ4Block"
_BLOCK_HEADER = struct.Struct("<8sBiii")


@dataclass(frozen=True)
class Finding:
    """A file of a checkpoint that cannot be used."""

    file: AnyPath | str
    what: str
    is_damaged: bool
    """Whether its content is wrong. Otherwise it only cannot be read."""


def is_readable_checkpoint(checkpoint: AnyPath | None) -> bool:
    """Whether a folder is a checkpoint of Spark's and can be read."""
    if checkpoint is None:
        return False
    try:
        return bool(list((checkpoint / "offsets").iterdir())) and bool((checkpoint / "metadata").read_bytes())
    except OSError:
        return False


def find_damage(checkpoint: AnyPath) -> Finding | None:
    """Return the first file that cannot be read, or else the first one whose content is wrong; None without either."""
    damaged = None
    try:
        files = list(_files(checkpoint))
    except OSError as error:
        return Finding(error.filename or checkpoint, reason(error), is_damaged=False)
    for file in files:
        try:
            what = _wrong(file, file.parts[len(checkpoint.parts)])
        except FileNotFoundError:
            continue
        except OSError as error:
            return Finding(file, reason(error), is_damaged=False)
        if what and not damaged:
            damaged = Finding(file, what, is_damaged=True)
    return damaged


def _files(checkpoint: AnyPath) -> Iterator[AnyPath]:
    """Yield the files in which Spark keeps progress and state, newest first in each folder.

    Raises:
        OSError: a folder cannot be listed.
    """
    # Listed explicitly, because glob hides a folder that cannot be read.
    waiting: list[AnyPath] = [checkpoint]
    while waiting:
        folder = waiting.pop(0)
        found: list[AnyPath] = [*folder.iterdir()]
        entries = sorted(found, key=lambda path: (len(path.name), path.name), reverse=True)
        waiting += [path for path in entries if path.is_dir()]
        for path in entries:
            if path.is_file() and re.fullmatch(r"metadata|schema|\d+|\d+\.(delta|snapshot)", path.name):
                yield path


def _wrong(file: AnyPath, kind: str) -> str:
    """Return what is wrong with the content of a file; empty if nothing is known to be.

    Args:
        kind: the folder in the checkpoint, or ``metadata``.

    Raises:
        OSError: the file cannot be read.
    """
    content = file.read_bytes()
    if not content:
        return "is empty"
    if kind in ("metadata", "offsets", "commits", "contexts") and (what := _wrong_log(content, kind)):
        return what
    if content.startswith(_BLOCK_MARK) and not _is_complete(content):
        return "is cut short"
    try:
        checksums = file.with_name(f".{file.name}.crc").read_bytes()
    except FileNotFoundError:
        return ""
    return "" if _fits(content, checksums) else "does not match its checksum"


def _wrong_log(content: bytes, kind: str) -> str:
    """Judge a file of JSON. Spark's logs have their version in the first line."""
    try:
        lines = content.decode().splitlines()
        if kind in ("offsets", "commits") and not re.fullmatch(r"v\d+", lines.pop(0)):
            return "does not begin with a version"
        for line in lines:
            # A source without an offset is a dash, and an offset may be a plain number.
            if line.strip() not in ("", "-"):
                json.loads(line)
    except ValueError:
        return "is no JSON, or cut short"
    return "" if lines else "is cut short"


def _is_complete(content: bytes) -> bool:
    """Whether compressed blocks follow each other up to the one that marks the end."""
    at = 0
    while at + _BLOCK_HEADER.size <= len(content):
        mark, _, compressed, original, _ = _BLOCK_HEADER.unpack_from(content, at)
        if mark != _BLOCK_MARK:
            return False
        if not original:
            return True
        at += _BLOCK_HEADER.size + compressed
    return False


def _fits(content: bytes, checksums: bytes) -> bool:
    """Whether checksums are those of the content, or in a form that is not known here."""
    if len(checksums) < 12 or not checksums.startswith(_CRC_MARK):
        return True
    size = int.from_bytes(checksums[4:8], "big")
    expected = struct.unpack(f">{(len(checksums) - 8) // 4}I", checksums[8 : 8 + (len(checksums) - 8) // 4 * 4])
    found = tuple(zlib.crc32(content[at : at + size]) for at in range(0, len(content), size)) if size else expected
    return found == expected
