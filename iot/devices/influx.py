"""InfluxDB: line protocol, the annotated CSV of its queries and of ``influx write``, and the JSON of InfluxQL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from iot.devices import names
from iot.devices.plan import Given
from iot.devices.points import Point
from iot.devices.quantities import UNITS, plain_unit
from iot.devices.results import Refused

LINE_PROTOCOL, ANNOTATED_CSV = "InfluxDB line protocol", "InfluxDB annotated CSV"
INFLUXQL = "InfluxDB query result"
# Columns that an annotated CSV has besides tags and fields.
SYSTEM_COLUMNS = {"", "result", "table", "_start", "_stop", "_time", "_value", "_field", "_measurement"}
FIELD_TYPES = {"double", "long", "unsignedlong", "boolean", "field"}

_NAME = r"(?:[^\\,= ]|\\.)+"
_TAGS = rf"(?:,{_NAME}=(?:[^\\,= ]|\\.)+)*"
_FIELD = rf'{_NAME}=(?:"(?:[^"\\]|\\.)*"|[^ ,"]+)'
_LINE = re.compile(
    rf"(?P<measurement>(?:[^\\, #]|\\.)(?:[^\\, ]|\\.)*)(?P<tags>{_TAGS}) +(?P<fields>{_FIELD}(?:,{_FIELD})*)"
    r"(?: +(?P<time>-?\d{1,30}))? *",
    re.DOTALL,
)
_PAIR = re.compile(rf'({_NAME})=("(?:[^"\\]|\\.)*"|(?:[^\\,= ]|\\.)+)')
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_TRUE, _FALSE = {"t", "T", "true", "True", "TRUE"}, {"f", "F", "false", "False", "FALSE"}


def is_line_protocol(line: str) -> bool:
    """Whether a line is one of the line protocol."""
    return _LINE.fullmatch(line.strip()) is not None


def line_point(line: str, given: Given) -> Point | Refused:
    """Return the point of a line, or why it is none."""
    found = _LINE.fullmatch(line.strip())
    if not found:
        return Refused("not line protocol: write measurement,tag=… field=… time")
    tags = {_unescaped(name): _unescaped(value) for name, value in _PAIR.findall(found["tags"])}
    fields: dict[str, Any] = {}
    for name, text in _PAIR.findall(found["fields"]):
        value = _value(text)
        if value is None:
            return Refused(f"field {_unescaped(name)}: {text!r} is no value of line protocol")
        fields[_unescaped(name)] = value
    time = int(found["time"]) if found["time"] else None
    return point(LINE_PROTOCOL, _unescaped(found["measurement"]), tags, fields, time, given)


def point(
    form: str, measurement: str, tags: Mapping[str, str], fields: Mapping[str, Any], time: Any, given: Given
) -> Point:
    """Return the point of a measurement with tags and fields. Its device is a tag, or else the measurement."""
    device = names.first_of(list(tags), names.SENSOR_NAMES)
    place = names.first_of(list(tags), names.LOCATION_NAMES)
    if device:
        sensor_id = tags[device]
    else:
        rest = [value for name, value in tags.items() if name != place] or list(tags.values())
        sensor_id = " ".join(rest) or measurement
    made: dict[str, Any] = {}
    units = dict(given.units)
    for name, value in fields.items():
        if names.plain(name) in names.VALUE_NAMES and not names.measure(name):
            # Home Assistant writes the unit as the measurement, and the type is in the entity's name.
            entity = names.entity_measure(tags["entity_id"]) if "entity_id" in tags else None
            if entity and not names.measure(measurement):
                made[entity.sensor_type] = value
                if plain_unit(measurement) in UNITS[entity.sensor_type]:
                    units[entity.sensor_type] = measurement
                continue
            name = measurement
        made[name] = value
    return Point(
        form,
        made,
        Given(sensor_id, given.time_us, tags[place] if place else given.location, given.zone, tuple(units.items()),
              "field"),
        time,
        dict(tags),
    )  # fmt: skip


def influxql_points(series: list[Any], given: Given) -> Iterator[Point | Refused]:
    """Yield the points in the series that answer a statement of InfluxQL.

    Without ``GROUP BY``, tags are columns. They are told from fields by being texts.
    """
    for each in series:
        columns, rows = (each.get("columns"), each.get("values")) if isinstance(each, dict) else (None, None)
        if not isinstance(columns, list) or not isinstance(rows, list) or not all(isinstance(c, str) for c in columns):
            yield Refused("a series needs columns and values")
            continue
        shared = each.get("tags")
        tags = {name: str(value) for name, value in shared.items()} if isinstance(shared, dict) else {}
        for row in rows:
            if not isinstance(row, list) or len(row) != len(columns):
                yield Refused(f"a row of the series needs {len(columns)} values")
                continue
            cells = {name: value for name, value in zip(columns, row, strict=True) if value is not None}
            time = cells.pop("time", None)
            own = tags | {name: value for name, value in cells.items() if isinstance(value, str)}
            fields = {name: value for name, value in cells.items() if name not in own}
            yield point(INFLUXQL, str(each.get("name", "")), own, fields, time, given)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([,= \\\"])", r"\1", text)


def _value(text: str) -> Any:
    if text.startswith('"'):
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if len(text) > 40:
        return None
    number = text.rstrip("iu") if text[-1:] in ("i", "u") else text
    return (float(number) if number == text else int(number)) if _NUMBER.fullmatch(number) and (
        number == text or number.lstrip("+-").isdigit()) else None  # fmt: skip


class AnnotatedTables:
    """Reads the rows of annotated CSV: annotations, a header, records, and again for the next table."""

    def __init__(self) -> None:
        self._annotations: dict[str, list[str]] = {}
        self._header: list[str] | None = None
        self._constants: dict[str, str] = {}

    def points(self, cells: list[str], given: Given) -> Iterator[Point | Refused]:
        """Yield the point of a row, if it is a record."""
        if not any(cells):
            return
        first = cells[0]
        if first.startswith("#"):
            name, _, inline = first.partition(" ")
            if name == "#constant":
                self._add_constant([*inline.split(" ", 1), *cells[1:]])
                return
            if self._header is not None:
                self._annotations, self._header = {}, None
            self._annotations[name.removeprefix("#").strip()] = [inline, *cells[1:]]
            return
        if self._header is None or _is_header(cells):
            self._header = [cell.strip() for cell in cells]
            return
        if len(cells) != len(self._header):
            yield Refused(f"{len(cells)} columns; expected {len(self._header)}")
            return
        yield self._record(cells, given)

    def _add_constant(self, parts: list[str]) -> None:
        parts = [part for part in parts if part]
        if len(parts) >= 2:
            self._constants[parts[0] if len(parts) == 2 else parts[1]] = parts[-1]

    def _record(self, cells: list[str], given: Given) -> Point | Refused:
        assert self._header is not None
        default = self._annotations.get("default", [])
        kinds = [kind.strip().lower() for kind in self._annotations.get("datatype", [])]
        group = self._annotations.get("group", [])
        measurement, time = self._constants.get("measurement", ""), None
        tags: dict[str, str] = {}
        fields: dict[str, Any] = {}
        field_name, field_value = "", None
        for at, name in enumerate(self._header):
            text = cells[at] or (default[at] if at < len(default) else "")
            kind = kinds[at] if at < len(kinds) else ""
            if kind.startswith("ignore"):
                continue
            if name == "_field":
                field_name = text
            elif name == "_value":
                field_value = text
            elif name == "_measurement" or kind == "measurement":
                measurement = text
            elif name == "_time" or (kind.startswith(("datetime", "time")) and name not in ("_start", "_stop")):
                time = text
            elif name in SYSTEM_COLUMNS:
                continue
            elif kind == "tag" or (kind == "string" and group[at : at + 1] != ["false"]) or not kind:
                tags[name] = text
            elif kind in FIELD_TYPES or kind.startswith(("double:", "long:")):
                fields[name] = text
            elif kind == "string":
                tags[name] = text
        if field_name:
            fields = {field_name: field_value}
        elif field_value is not None:
            fields["_value"] = field_value
        if not time and given.time_us is None:
            return Refused("_time has no value: the record has no time")
        return point(ANNOTATED_CSV, measurement, {k: v for k, v in tags.items() if v}, fields, time or None, given)


def _is_header(cells: list[str]) -> bool:
    return {"_time", "_value"} <= set(cells) or {"result", "table"} <= set(cells)


def is_annotated(rows: list[list[str]]) -> bool:
    """Whether the first rows are of annotated CSV."""
    for cells in rows[:4]:
        if cells and re.match(r"#(?:datatype|group|default|constant|timezone|concat)\b", cells[0]):
            return True
        if any(cells):
            return {"_time", "_value", "_field"} <= set(cells) or {"", "result", "table", "_time"} <= set(cells)
    return False
