"""The formats of files: one table, ``FORMATS``. The first lines of a file tell which one it has.

``open_content`` is for files, ``PayloadParser`` for payloads of HTTP and MQTT.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from statistics import median
from typing import NamedTuple, Protocol

from iot.devices.field_map import NO_MAP, FieldMap
from iot.devices.influx import (
    ANNOTATED_CSV,
    INFLUXQL,
    LINE_PROTOCOL,
    AnnotatedTables,
    is_annotated,
    is_line_protocol,
    line_point,
)
from iot.devices.json_forms import Context, entity_point
from iot.devices.json_stream import (
    SOMETHING_ELSE,
    Item,
    JsonValues,
    elements_of,
    has_value_in_each_line,
    is_json,
    is_log,
    lines_of_values,
    messages_of_log,
    objects_of_document,
)
from iot.devices.plan import Given
from iot.devices.plan_maker import WARM_CELSIUS
from iot.devices.points import Point
from iot.devices.results import FormError, Refused, Result, has_reading
from iot.devices.tables import DELIMITERS, Rows, Table, is_known
from iot.devices.text import SAMPLE_BYTES, Lines, Stream, encoding_of, texts
from iot.devices.unclear import Unclear

Numbered = tuple[int, list[Result]]

# How many rows or objects are looked at before the first is sent.
SAMPLE_ROWS = 1_000


class Readable(Protocol):
    """The content of a file, as ``iot.inputs.Input`` has it."""

    @property
    def name(self) -> str:
        """The name for messages."""

    @property
    def stream(self) -> Stream:
        """The whole content."""


class Content:
    """A file whose form is recognised. Iterate it once.

    Attributes:
        description: what was recognised as what: pairs of a name and a text, for people.
    """

    def __init__(self, description: list[tuple[str, str]], rows: Iterable[Numbered]) -> None:
        self.description = description
        self._rows = rows

    def __iter__(self) -> Iterator[Numbered]:
        """Yield the number of each line, row or object, and what becomes of it."""
        return iter(self._rows)


class Beginning(NamedTuple):
    """The first part of a text."""

    text: str
    is_whole: bool

    def lines(self) -> list[str]:
        """Return the lines that are whole."""
        lines = self.text.split("\n")
        return lines if self.is_whole or len(lines) == 1 else lines[:-1]

    def rows(self) -> list[list[str]]:
        """Return the first rows as CSV with commas."""
        try:
            return list(csv.reader([line for line in self.lines()[:20] if line.strip()], skipinitialspace=True))
        except csv.Error:
            return []


class Format(NamedTuple):
    """A format of files: its name, whether a text has it, and how to read it."""

    name: str
    is_of: Callable[[Beginning], bool]
    read: Callable[[Iterator[str], Beginning, FieldMap], Content]


def open_content(source: Readable, field_map: FieldMap = NO_MAP) -> Content:
    """Recognise the form of a file.

    Raises:
        FormError: nobody can tell what it means. The error has a map to fill in.
        UserError: it cannot be read.
    """
    sample = source.stream.read(SAMPLE_BYTES)
    is_whole = len(sample) < SAMPLE_BYTES
    try:
        encoding = field_map.encoding or encoding_of(sample)
        pieces = texts(_Again(sample, source.stream), encoding)
        first = next(pieces, "")
        beginning = Beginning(first[:SAMPLE_BYTES], is_whole)
        if not first.strip():
            return Content([("form", "empty")], [])
        found = next(each for each in FORMATS if each.is_of(beginning))
        content = found.read(chain([first], pieces), beginning, field_map)
    except Unclear as unclear:
        raise FormError(f"{source.name}: {_unclear_text(unclear)}", unclear.map_text()) from None
    except FormError as error:
        raise FormError(f"{source.name}: {error}", error.map_text) from None
    name = {"utf-8": "UTF-8", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}.get(encoding, encoding)
    form, *rest = content.description
    content.description = [(form[0], f"{form[1]}, {name}"), *rest]
    return content


def _unclear_text(unclear: Unclear) -> str:
    return f"{unclear}. Fill in this map, and give it with --map FILE.toml:"


class _Again:
    """A stream whose first bytes were read already."""

    def __init__(self, first: bytes, stream: Stream) -> None:
        self._first, self._stream = first, stream

    def read(self, most: int, /) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return self._stream.read(most)


def _read_json(pieces: Iterator[str], beginning: Beginning, field_map: FieldMap) -> Content:
    values = JsonValues(field_map)

    def rows() -> Iterator[Numbered]:
        items: Iterator[Item | tuple[int, Refused]]
        if has_value_in_each_line(beginning.text, beginning.is_whole):
            items = lines_of_values(Lines(pieces))
        else:
            items = objects_of_document(pieces)
        for item in items:
            if isinstance(item, Item):
                yield item.number, values.results(item.text, Context(topic=item.topic), item.group)
            else:
                yield item[0], [item[1]]

    return _sampled("JSON", rows(), values, field_map)


def _read_log(pieces: Iterator[str], beginning: Beginning, field_map: FieldMap) -> Content:
    values = JsonValues(field_map)
    items = messages_of_log(Lines(pieces))
    rows = ((item.number, values.results(item.text, Context())) for item in items)
    return _sampled("log", rows, values, field_map)


def _is_line_protocol(beginning: Beginning) -> bool:
    """Whether the first line is of line protocol, or most are and the first one is no header of CSV."""
    lines = [line for line in beginning.lines() if line.strip() and not line.startswith("#")][:20]
    if not lines:
        return False
    is_of = [is_line_protocol(line) for line in lines]
    has_header = any(any(map(is_known, re.split(f"[{DELIMITERS}]", line))) for line in lines[:1])
    return is_of[0] or (sum(is_of) > len(lines) / 2 and not has_header)


def _read_lines(pieces: Iterator[str], beginning: Beginning, field_map: FieldMap) -> Content:
    values = JsonValues(field_map)

    def rows() -> Iterator[Numbered]:
        lines = Lines(pieces)
        for line in lines:
            lines.mark()
            if line.strip() and not line.lstrip().startswith("#"):
                yield lines.number, values.results_of([line_point(line, Given())])

    return _sampled(LINE_PROTOCOL, rows(), values, field_map)


def _read_annotated(pieces: Iterator[str], beginning: Beginning, field_map: FieldMap) -> Content:
    values = JsonValues(field_map)

    def rows() -> Iterator[Numbered]:
        tables = AnnotatedTables()
        for number, cells in Rows(Lines(pieces), ","):
            points: list[Point | Refused] = [cells] if isinstance(cells, Refused) else [*tables.points(cells, Given())]
            if points:
                yield number, values.results_of(points)

    return _sampled(ANNOTATED_CSV, rows(), values, field_map)


HISTORY = {"entity_id", "state"}
HISTORY_TIMES = ("last_changed", "last_updated")


def _is_history(beginning: Beginning) -> bool:
    rows = beginning.rows()
    names = {cell.strip() for cell in rows[0]} if rows else set()
    return names >= HISTORY and bool(names & set(HISTORY_TIMES))


def _read_history(pieces: Iterator[str], beginning: Beginning, field_map: FieldMap) -> Content:
    if field_map.columns:
        return _read_csv(pieces, beginning, field_map)
    values = JsonValues(field_map)

    def rows() -> Iterator[Numbered]:
        header: list[str] = []
        for number, cells in Rows(Lines(pieces), ","):
            if isinstance(cells, Refused):
                yield number, [cells]
            elif not header:
                header = [cell.strip() for cell in cells]
            elif any(cells):
                # Exports of several kinds of entities have rows of different lengths.
                row = dict(zip(header, cells, strict=False))
                if not {"entity_id", "state"} <= row.keys():
                    yield number, [Refused(f"{len(cells)} columns; expected {len(header)}")]
                    continue
                time = next((row[name] for name in HISTORY_TIMES if row.get(name)), None)
                attributes = {name: row[name] for name in ("unit_of_measurement", "device_class") if row.get(name)}
                yield (
                    number,
                    values.results_of([entity_point(row["entity_id"], row["state"], time, attributes, Context())]),
                )

    return _sampled("CSV", rows(), values, field_map)


def _read_csv(pieces: Iterator[str], beginning: Beginning, field_map: FieldMap) -> Content:
    table = Table(Lines(pieces), field_map)
    return Content(table.description, table)


def _sampled(form: str, rows: Iterator[Numbered], values: JsonValues, field_map: FieldMap) -> Content:
    """Return the content after a look at its first rows.

    Raises:
        Unclear: no reading is in them, and a map would help.
    """
    sample = list(islice(rows, SAMPLE_ROWS))
    interpreter, samples = values.interpreter, values.samples
    if sample and not any(has_reading(results) for _, results in sample):
        for point in samples:
            interpreter.plan(point, samples)
    if len(interpreter.warm) and median(interpreter.warm) > WARM_CELSIUS:
        unclear = Unclear()
        unclear.ask(
            f"a temperature of {median(interpreter.warm):g} may be °C, °F or K, and nothing names the unit",
            "units",
            'temperature = "°F"  # or "°C" or "K"',
        )
        raise unclear
    forms = [name for name in values.forms if name not in (form, "fields")]
    description = [("form", f"{form}: {', '.join(forms)}" if forms else form)]
    for name, first in values.forms.items():
        if first is not None:
            try:
                rows_of_plan = interpreter.plan(first, samples).description()
            except Unclear as unclear:
                if "units" in unclear.lines:
                    raise
                continue
            if first.given.sensor_id is not None:
                rows_of_plan.insert(0, ("sensor_id", _device_text(name)))
            description += [row for row in rows_of_plan if row not in description]
    return Content(description, chain(sample, rows))


def _device_text(form: str) -> str:
    return {
        LINE_PROTOCOL: "the tag that names the device",
        ANNOTATED_CSV: "the tag that names the device",
        INFLUXQL: "the tag that names the device",
        "Shelly": "src, or the topic",
        "Home Assistant history": "entity_id",
        "The Things Stack": "end_device_ids.device_id",
        "Sensor.Community": "sensor.id",
    }.get(form, "the device of the message or its topic")


# In the order in which they are tried. The last one takes any text.
FORMATS = (
    Format("log of Zigbee2MQTT", lambda beginning: any(map(is_log, beginning.lines()[:200])), _read_log),
    Format("JSON", lambda beginning: is_json(beginning.text), _read_json),
    Format(ANNOTATED_CSV, lambda beginning: is_annotated(beginning.rows()), _read_annotated),
    Format(
        LINE_PROTOCOL,
        _is_line_protocol,
        _read_lines,
    ),
    Format("Home Assistant history", _is_history, _read_history),
    Format("CSV", lambda beginning: True, _read_csv),
)


class Payload(NamedTuple):
    """The readings and refusals of one payload in their order, and the names of fields that were not used."""

    results: list[Result]
    left_out: list[str]


class PayloadRecord(NamedTuple):
    """One line or element of a payload, or all of it: its text, and its readings and refusals."""

    raw: bytes
    results: list[Result]


class PayloadParser:
    """Turns payloads of HTTP and MQTT into readings. It remembers forms that it met; each thread needs its own."""

    def __init__(self, field_map: FieldMap = NO_MAP) -> None:
        self._values = JsonValues(field_map)

    def parse(self, payload: bytes, topic: str | None, time_us: int, device: str | None = None) -> Payload:
        """Return the readings of one payload. This never raises an error.

        Args:
            payload: JSON, JSON Lines, line protocol, or a single value whose topic names its type.
            topic: the MQTT topic; None for HTTP.
            time_us: the moment of receipt in microseconds since the epoch, for payloads without a time.
            device: the name of the device that sent it, if it is known.
        """
        records = self.records(payload, topic, time_us, device)
        return Payload([result for record in records for result in record.results], list(self.left_out))

    @property
    def left_out(self) -> Iterable[str]:
        """The names of fields in the last payload that were not used."""
        return self._values.interpreter.left_out

    def records(
        self, payload: bytes, topic: str | None, time_us: int, device: str | None = None
    ) -> list[PayloadRecord]:
        """Return the same as ``parse``, for each line or element of the payload. This never raises an error."""
        values = self._values
        values.forget()
        try:
            text = payload.decode("utf-8").removeprefix("\ufeff").strip()
        except UnicodeDecodeError as error:
            return [PayloadRecord(payload, [Refused(f"invalid UTF-8 (byte {error.start})")])]
        if not text:
            return [PayloadRecord(payload, [Refused("the payload is empty", is_missing=True)])]
        context = Context(topic, device, time_us)
        if not text.startswith(("{", "[")) and is_line_protocol(text.split("\n", 1)[0]):
            given = Given(device, time_us)
            lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
            return [PayloadRecord(line.encode(), values.results_of([line_point(line, given)])) for line in lines]
        if "\n" in text and has_value_in_each_line(text, is_whole=True):
            lines = [line for line in text.split("\n") if line.strip()]
            return [PayloadRecord(line.encode(), values.results(line, context)) for line in lines]
        if text.startswith("[") and (elements := elements_of(text)) is not None:
            return [
                PayloadRecord(each, values.results(each, context) if each.startswith(b"{") else [SOMETHING_ELSE])
                for each in elements
            ]
        return [PayloadRecord(payload, values.results(text, context))]
