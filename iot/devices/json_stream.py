"""Read JSON in bounded memory: an object in each line, or arrays and objects over any number of lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from iot.devices import names
from iot.devices.field_map import FieldMap
from iot.devices.json_forms import Context, points_of, scalar_points
from iot.devices.points import Interpreter, Point
from iot.devices.quantities import Quantity, is_known_unit
from iot.devices.results import FormError, Refused, Result, Timed, reading
from iot.devices.text import BROKEN, Lines
from iot.devices.times import BadTime, Clock, has_offset
from iot.readings import (
    CONVERSIONS,
    MAX_DEPTH,
    STANDARD_UNITS,
    Message,
    Rejected,
    decode,
    format_timestamp,
    parse_timestamp,
)

# Maximum number of characters in one object of a document.
MAX_OBJECT = 16 << 20
OWN_SCHEMA = "this project's schema"
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}"]', re.DOTALL)
_TOPIC_LINE = re.compile(r"([^\s{\[\"][^{\[\"]*?) +([{\[].*)", re.DOTALL)
# A line of Zigbee2MQTT's log: its time, the topic and the payload.
_LOG_LINE = re.compile(r".*?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d).*?MQTT publish: topic '([^']+)', payload '(.*)'\s*")
_as_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_as_recorded = msgspec.json.Decoder(Message).decode


class Item(NamedTuple):
    """A JSON value of a file: the number of its first line, its text, its list if it is in one, and its topic."""

    number: int
    text: str
    group: int = 0
    topic: str | None = None


def decoded(text: str | bytes) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: it is none. The text says why.
    """
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_deep(raw):
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = str(error).removeprefix("JSON is malformed: ")
        raise ValueError(f"not JSON: {why[:1].lower()}{why[1:]}") from None


def elements_of(text: str) -> list[bytes] | None:
    """Return the elements of an array as they are written; None if it is none, or has arrays in it."""
    with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
        elements = [bytes(each) for each in _as_elements(text)]
        if not any(each.startswith(b"[") for each in elements):
            return elements
    return None


def _is_deep(raw: bytes) -> bool:
    depth = 0
    for token in _TOKEN.finditer(raw.decode("utf-8", "replace")):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            return True
    return False


def is_json(sample: str) -> bool:
    """Whether a text begins like JSON, or like lines of an MQTT topic and JSON."""
    begin = sample.lstrip()
    if begin.startswith(("{", "[")):
        return True
    return bool((found := _TOPIC_LINE.fullmatch(begin.split("\n", 1)[0].strip())) and _is_value(found[2]))


def has_value_in_each_line(sample: str, is_whole: bool) -> bool:
    """Whether the first line with text is a whole JSON value."""
    line, end, rest = sample.lstrip().partition("\n")
    if not end and not is_whole:
        return False
    # A list may be the only line of a large file.
    return bool(_TOPIC_LINE.fullmatch(line.strip())) or (
        _is_value(line.strip()) and (line.startswith("{") or bool(rest.strip()))
    )


def _is_value(text: str) -> bool:
    try:
        decoded(text)
    except ValueError:
        return False
    return True


def lines_of_values(lines: Lines) -> Iterator[Item]:
    """Yield the value in each line; a line may begin with an MQTT topic."""
    for line in lines:
        lines.mark()
        text = line.strip()
        if text and not text.startswith(("{", "[")) and (found := _TOPIC_LINE.fullmatch(text)):
            yield Item(lines.number, found[2], topic=found[1])
        elif text:
            yield Item(lines.number, text)


def is_log(line: str) -> bool:
    """Whether a line is one of Zigbee2MQTT's log, with a message in it."""
    return _message_of_log(line) is not None


def _message_of_log(line: str) -> re.Match[str] | None:
    return _LOG_LINE.fullmatch(line) if "MQTT publish: topic '" in line else None


def messages_of_log(lines: Lines) -> Iterator[Item]:
    """Yield the MQTT messages in a log of Zigbee2MQTT, as ``mosquitto_sub -F %J`` writes them."""
    for line in lines:
        lines.mark()
        if found := _message_of_log(line):
            message = msgspec.json.encode({"tst": found[1], "topic": found[2], "payload": found[3]})
            yield Item(lines.number, message.decode())


def objects_of_document(pieces: Iterator[str]) -> Iterator[Item | tuple[int, Refused]]:
    """Yield the outermost objects of arrays, in bounded memory.

    Raises:
        FormError: an object is too large.
    """
    # The text from ``done`` on is still needed; ``line`` is the number of the line there, and ``at`` is searched next.
    buffer, done, at, line = "", 0, 0, 1
    group = depth = 0
    is_at_end = False
    while not is_at_end:
        piece = next(pieces, None)
        is_at_end = piece is None
        buffer, at, done = buffer[done:] + (piece or ""), at - done, 0
        while token := _TOKEN.search(buffer, at):
            text = token[0]
            if text == '"' and depth and not is_at_end:
                # The text ends inside a string.
                break
            at = token.end()
            if text == "{":
                if depth == 0:
                    if _is_other(buffer[done : token.start()]):
                        yield line, SOMETHING_ELSE
                    line += buffer.count("\n", done, token.start())
                    done = token.start()
                depth += 1
            elif text == "}" and depth:
                depth -= 1
                if depth == 0:
                    item = buffer[done:at]
                    if not _is_value(item) and (end := _next_object(item)) is not None:
                        # Only the first line is broken.
                        item, at = item[:end], done + end
                    yield Item(line, item, group)
                    line += item.count("\n")
                    done = at
            elif text == "[" and depth == 0:
                group += 1
        if len(buffer) - done > MAX_OBJECT:
            raise FormError(f"the object that begins in line {line:,} has over {MAX_OBJECT >> 20} million characters")
        if depth == 0 and not is_at_end and (end := buffer.rfind("\n", done, at) + 1):
            if _is_other(buffer[done:end]):
                yield line, SOMETHING_ELSE
            line += buffer.count("\n", done, end)
            done = end
    rest = buffer[done:]
    while depth and (end := _next_object(rest)) is not None:
        yield Item(line, rest[:end], group)
        line += rest.count("\n", 0, end)
        rest = rest[end:]
    if depth:
        yield Item(line, rest.rstrip(" \t\r\n,]"), group)
    elif _is_other(rest):
        yield line, SOMETHING_ELSE


SOMETHING_ELSE = Refused("there is something other than objects in the list: remove it")


def _is_other(gap: str) -> bool:
    """Whether the text between two objects is more than commas and brackets."""
    return bool(gap.strip(" \t\r\n,[]\ufeff"))


def _next_object(text: str) -> int | None:
    """Return where the next object begins in a line of its own, if the first one is broken."""
    found = re.search(r'\n(?=\{)|\n(?=[ \t]*\{[ \t]*"[^"\n]*"[^\n]*\}[ \t]*,?[ \t]*(?:\n|\Z))', text)
    return found.end() if found and found.end() < len(text) else None


class JsonValues:
    """Turns JSON values into readings."""

    def __init__(self, field_map: FieldMap) -> None:
        self.interpreter = Interpreter(field_map)
        self._map = field_map
        self._clock = field_map.clock() or Clock(field_map.zone if field_map.has_zone else None)
        self._group, self._memory = 0, {}  # type: ignore[var-annotated]
        self.forms: dict[str, Point | None] = {}
        self.samples: list[Point] = []

    def forget(self) -> None:
        """Forget what earlier values said, before a payload that has nothing to do with them."""
        self._group, self._memory = 0, {}
        self.interpreter.left_out = {}
        self.samples.clear()

    def results(self, text: str | bytes, context: Context, group: int = 0) -> list[Result]:
        """Return the readings in a JSON value, and what is refused in it."""
        if isinstance(text, str) and BROKEN in text:
            return [Refused("a character cannot be decoded: save the file as UTF-8")]
        try:
            value = decoded(text)
        except ValueError as error:
            return [Refused(str(error))]
        if group != self._group:
            self._group, self._memory = group, {}
        context.memory = self._memory
        if isinstance(value, dict):
            return self._object(value, text, context)
        if isinstance(value, list):
            results: list[Result] = []
            for each in value:
                if isinstance(each, dict):
                    results += self._object(each, None, context)
                elif isinstance(each, list):
                    # The first state of each list names its entity.
                    context.memory = self._memory = {}
                    for inner in each:
                        if isinstance(inner, dict):
                            results += self._object(inner, None, context)
                else:
                    results.append(SOMETHING_ELSE)
            return results
        if context.topic:
            return self.results_of(list(scalar_points(context.topic, value, context)))
        return [Refused('a single value without a topic: send an object, such as {"temperature": 21.5}')]

    def _object(self, value: dict[str, Any], text: str | bytes | None, context: Context) -> list[Result]:
        if _is_own(value):
            self.forms.setdefault(OWN_SCHEMA, None)
            return [self._own(value, text, context)]
        try:
            return self.results_of(list(points_of(value, context)))
        except RecursionError:
            return [Refused(f"nested deeper than {MAX_DEPTH}")]

    def results_of(self, points: list[Point | Refused]) -> list[Result]:
        """Return the readings of points, and what is refused in them."""
        results: list[Result] = []
        for point in points:
            if isinstance(point, Refused):
                results.append(point)
            else:
                self.forms.setdefault(point.form, point)
                if len(self.samples) < 1_000:
                    self.samples.append(point)
                results += self.interpreter.results(point)
        return results

    def _own(self, value: dict[str, Any], text: str | bytes | None, context: Context) -> Result:
        stamp = value.get("timestamp")
        try:
            if stamp is None and context.time_us is not None:
                value, text = value | {"timestamp": format_timestamp(context.time_us)}, None
            elif stamp is not None and not self._is_plain(stamp):
                value, text = value | {"timestamp": format_timestamp(self._clock.time_us(stamp))}, None
        except BadTime as error:
            return Refused(f"timestamp: {error}")
        raw = msgspec.json.encode(value) if text is None else text if isinstance(text, bytes) else text.encode()
        try:
            valid = decode(raw)
        except Rejected as rejected:
            return Refused(str(rejected))
        message = _as_recorded(raw)
        unit, sensor_type = message.unit, message.sensor_type
        if (
            unit is not None
            and unit not in ("unknown", STANDARD_UNITS.get(sensor_type))
            and (sensor_type, unit) not in CONVERSIONS
            and sensor_type in STANDARD_UNITS
            and is_known_unit(sensor_type, unit)
        ):
            quantity = Quantity(sensor_type, unit, "value")
            made = reading(message.sensor_id, quantity, message.value, valid.time_us)
            if isinstance(made, Refused):
                return made
            message.value, message.unit = made.message.value, made.message.unit
        return Timed(message, valid.time_us)

    def _is_plain(self, stamp: Any) -> bool:
        """Whether the schema reads a timestamp as it is meant."""
        if not isinstance(stamp, str) or ((self._map.has_zone or self._map.time_format) and not has_offset(stamp)):
            return False
        with suppress(Rejected):
            parse_timestamp(stamp)
            return True
        return False


def _is_own(value: dict[str, Any]) -> bool:
    if "sensor_id" not in value or isinstance(value.get("value"), dict):
        return False
    if "sensor_type" in value and "value" in value:
        return True
    return ("sensor_type" in value or "value" in value) and not any(map(names.measure, value))
