"""The map: a TOML file that says what cannot be recognised in a file or payload.

``[columns]`` says which column or field is what, ``[constants]`` what is the same for all readings, ``[units]`` the
unit of each type, ``[time]`` format and zone of the timestamps, ``[csv]`` delimiter, decimal sign, encoding and header.
"""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

from iot.devices.quantities import UNITS, is_known_unit
from iot.devices.times import DAY_FIRST, EPOCH_UNITS, MONTH_FIRST, Clock, zone_of
from iot.inputs import name_of, read_text
from iot.readings import MAX_STRING, Message
from iot.settings import UserError, reason

# The names of the schema that a column or a constant can be. Any other name in [columns] is a sensor type.
FIELDS = ("sensor_id", "sensor_type", "location", "value", "unit", "timestamp", "quality", "run_id", "sequence")
CONSTANTS = ("sensor_id", "sensor_type", "location", "unit", "quality")
TIME_WORDS = (DAY_FIRST, MONTH_FIRST, "iso", *EPOCH_UNITS)
TABLES = {
    "columns": None,
    "constants": CONSTANTS,
    "units": None,
    "time": ("format", "zone"),
    "csv": ("delimiter", "decimal", "encoding", "header"),
}
assert set(FIELDS) == set(Message.__struct_fields__)


@dataclass(frozen=True)
class FieldMap:
    """The content of a map. Everything that it does not say is recognised as without a map.

    Attributes:
        columns: the columns of each field of the schema or sensor type. Several columns of a field are joined with
            blanks; several columns of a type are several sensors.
        ignore: columns that are not used.
    """

    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignore: frozenset[str] = frozenset()
    constants: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    time_format: str | None = None
    zone: tzinfo | None = None
    has_zone: bool = False
    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: tuple[str, ...] = ()

    @property
    def measures(self) -> dict[str, tuple[str, ...]]:
        """The columns that are sensor types."""
        return {name: columns for name, columns in self.columns.items() if name not in FIELDS}

    def clock(self, zone: tzinfo | None = None) -> Clock | None:
        """Return how the map says that timestamps are read; None if it names no format."""
        zone = self.zone if self.has_zone else zone
        if self.time_format in (DAY_FIRST, MONTH_FIRST):
            return Clock(zone, order=self.time_format)
        if self.time_format in EPOCH_UNITS:
            return Clock(zone, unit=self.time_format)
        if self.time_format == "iso":
            return Clock(zone)
        return Clock(zone, pattern=self.time_format) if self.time_format else None


NO_MAP = FieldMap()


def load_map(path: Path) -> FieldMap:
    """Read a map from a TOML file.

    Raises:
        UserError: the file cannot be read or is wrong. The text names the file, the key and what is expected.
    """
    name = f"the map {name_of(path)}"
    text = read_text(path, name)
    try:
        return parse_map(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{name}: not TOML: {reason(error)}") from error
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def parse_map(document: Mapping[str, Any]) -> FieldMap:
    """Return the map that a TOML document says.

    Raises:
        ValueError: it is wrong. The text names the key and what is expected.
    """
    for table, content in document.items():
        if table not in TABLES:
            raise ValueError(f"unknown table [{table}]; expected {_listed([f'[{name}]' for name in TABLES])}")
        if not isinstance(content, dict):
            raise ValueError(f"{table} is no table; expected [{table}] and keys below it")
        allowed = TABLES[table]
        for key in content:
            if allowed is not None and key not in allowed:
                raise ValueError(f"[{table}] has an unknown key {key!r}; expected {_listed(list(allowed))}")
    columns = {key: _names(f"[columns] {key}", value) for key, value in document.get("columns", {}).items()}
    ignore = frozenset(columns.pop("ignore", ()))
    constants = {key: _text(f"[constants] {key}", value) for key, value in document.get("constants", {}).items()}
    units = {key: _text(f"[units] {key}", value) for key, value in document.get("units", {}).items()}
    for key, text in [*columns.items(), *units.items()]:
        if not 1 <= len(key) <= MAX_STRING:
            raise ValueError(f"{text} is for a type without a name of 1 to {MAX_STRING} characters")
    for key, unit in units.items():
        if not is_known_unit(key, unit):
            raise ValueError(f"[units] {key} is {unit!r}; expected one of {', '.join(UNITS[key])}")
    if "value" in columns and len(columns["value"]) > 1:
        raise ValueError("[columns] value is a list; expected one column")
    return FieldMap(
        columns, ignore, constants, units, **_time(document.get("time", {})), **_csv(document.get("csv", {}))
    )


def _time(table: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if "format" in table:
        made["time_format"] = text = _text("[time] format", table["format"])
        if text not in TIME_WORDS:
            _require_pattern(text)
    if "zone" in table:
        text = _text("[time] zone", table["zone"])
        try:
            made |= {"zone": zone_of(text), "has_zone": True}
        except ValueError as error:
            raise ValueError(f"[time] zone: {error}") from error
    return made


def _require_pattern(text: str) -> None:
    expected = f"expected {_listed([repr(word) for word in TIME_WORDS])} or a format such as '%d.%m.%Y %H:%M:%S'"
    try:
        read = datetime.strptime(datetime(2018, 12, 8, 21, 43, 7).strftime(text), text)
    except (ValueError, re.error) as error:
        raise ValueError(f"[time] format is {text!r}; {expected}") from error
    if (read.month, read.day) != (12, 8) or read.year != 2018:
        raise ValueError(f"[time] format is {text!r}, without year, month or day; {expected}")


def _csv(table: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if "delimiter" in table:
        made["delimiter"] = text = table["delimiter"]
        if not isinstance(text, str) or len(text) != 1 or text in '"\r\n' or not text.isascii():
            raise ValueError(f"[csv] delimiter is {text!r}; expected one character such as ';' or '\\t'")
    if "decimal" in table:
        made["decimal"] = text = table["decimal"]
        if text not in (".", ","):
            raise ValueError(f"[csv] decimal is {text!r}; expected '.' or ','")
    if "encoding" in table:
        made["encoding"] = text = _text("[csv] encoding", table["encoding"])
        try:
            is_text = codecs.lookup(text)._is_text_encoding
        except LookupError:
            is_text = False
        if not is_text:
            raise ValueError(f"[csv] encoding is {text!r}; expected one such as 'utf-8' or 'cp1252'")
    if "header" in table:
        made["header"] = _names("[csv] header", table["header"])
    if made.get("decimal") == "," and made.get("delimiter") == ",":
        raise ValueError("[csv] delimiter and decimal are both ','; expected two characters")
    return made


def _names(key: str, value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} is {value!r}; expected the name of a column, or a list of names")
    return tuple(names)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_STRING:
        raise ValueError(f"{key} is {value!r}; expected a text of 1 to {MAX_STRING} characters in quotes")
    return value


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
