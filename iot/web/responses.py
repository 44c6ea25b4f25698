"""Answers that many clients ask for: each is computed, encoded and compressed once.

The largest ones, windows as JSON and as CSV, are written here too.
"""

from __future__ import annotations

import csv
import gzip
import io
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future
from functools import cached_property
from hashlib import blake2b
from ipaddress import ip_address
from typing import Any

import msgspec
from flask import Request, Response

from iot.readings import format_timestamp
from iot.results.model import Window
from iot.settings import WINDOW_S
from iot.web.schemas import WindowRow, Windows

CHUNK_BYTES = 64 * 1024
# Minimum size of a compressed answer.
GZIP_FROM_BYTES = 2 * 1024
GZIP_LEVEL = 5
# Maximum size and number of the answers in the cache.
CACHE_BYTES = 64 * 1024 * 1024
CACHE_BODIES = 256
# A spreadsheet treats a cell that begins with one of these as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Body:
    """The bytes of an answer with its headers, compressed and hashed when first needed."""

    def __init__(self, data: bytes, mimetype: str, headers: dict[str, str] | None = None) -> None:
        self.data = data
        self._mimetype = mimetype
        self._headers = headers or {}

    @cached_property
    def etag(self) -> str:
        return blake2b(self.data, digest_size=12).hexdigest()

    @cached_property
    def gzipped(self) -> bytes:
        return gzip.compress(self.data, GZIP_LEVEL, mtime=0)

    def answer(self, request: Request) -> Response:
        """The answer to this request: compressed if that pays, or 304 if the client has it."""
        # On loopback, compression would only take CPU time from Spark.
        compress = (
            len(self.data) >= GZIP_FROM_BYTES
            and request.accept_encodings.quality("gzip") > 0
            and not _is_loopback(request.remote_addr)
        )
        data = self.gzipped if compress else self.data
        # The server copies what it has not sent yet after each send, so it gets small parts.
        parts = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        response = Response(parts, mimetype=self._mimetype, headers=self._headers)
        response.content_length = len(data)
        response.vary.add("Accept-Encoding")
        if compress:
            response.content_encoding = "gzip"
        response.set_etag(self.etag, weak=True)
        response.make_conditional(request)
        return response


class Cache:
    """Bodies by question, kept until the database changes or the limits are reached."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version: Hashable = None
        self._bodies: dict[Hashable, Future[Body]] = {}
        self._bytes = 0

    def get(self, question: Hashable, version: Hashable, make: Callable[[], Body]) -> Body:
        """The body that answers a question. The first caller makes it, and the others wait.

        Raises:
            Exception: what ``make`` raised, for every caller.
        """
        with self._lock:
            if version != self._version:
                self._version, self._bodies, self._bytes = version, {}, 0
            known = self._bodies.get(question)
            if known is None:
                made = self._bodies[question] = Future()
        if known is not None:
            return known.result()
        try:
            body = make()
            with self._lock:
                self._bytes += len(body.data)
                if self._bytes > CACHE_BYTES or len(self._bodies) > CACHE_BODIES:
                    self._bodies, self._bytes = {}, 0
            made.set_result(body)
        except BaseException as error:
            with self._lock:
                self._bodies.pop(question, None)
            made.set_exception(error)
        return made.result()


def _is_loopback(address: str | None) -> bool:
    try:
        return ip_address((address or "").removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of its own, which nobody else asks for."""
    return Response(msgspec.json.encode(content), status, headers, mimetype="application/json")


def json_body(content: Any) -> Body:
    return Body(msgspec.json.encode(content), "application/json")


def windows_json(windows: Iterable[Window]) -> Body:
    return json_body(Windows(_rows(windows)))


def _rows(windows: Iterable[Window]) -> list[WindowRow]:
    moments: dict[int, str] = {}

    def moment(second: int) -> str:
        return moments.get(second) or moments.setdefault(second, format_timestamp(second * 1_000_000))

    return [
        WindowRow(moment(w.end_s - WINDOW_S), moment(w.end_s), w.sensor_type, w.unit, w.count, w.avg, w.min, w.max)
        for w in windows
    ]


def windows_csv(windows: Iterable[Window]) -> Body:
    """Windows as CSV for spreadsheets."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(WindowRow.__struct_fields__)
    for row in _rows(windows):
        writer.writerow([_cell(value) for value in msgspec.structs.astuple(row)])
    disposition = {"Content-Disposition": 'attachment; filename="windows.csv"'}
    return Body(text.getvalue().encode(), "text/csv", disposition)


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value
