"""A plan says which column or field is the sensor, the time, and a measurement; it turns rows into readings.

``make_plan`` takes the names, some sample rows and the map. What it cannot decide it does not guess: it raises
``Unclear`` with every question, and with the lines of a map that would answer them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from statistics import median
from typing import Any, NamedTuple

from iot.devices import names
from iot.devices.field_map import FieldMap
from iot.devices.quantities import SAME, UNITS, BadValue, Quantity, is_known_unit, plain_unit, standard
from iot.devices.results import Refused, Result, checked, reading
from iot.devices.times import BadTime, Clock, detect, form_of, has_offset, is_ambiguous
from iot.readings import CONVERSIONS, STANDARD_UNITS, TIMESTAMP_PATTERN, Message, format_timestamp

# A temperature without a unit is in doubt if half of the first ones are above this: it may be in °F or K.
WARM_CELSIUS = 45.0
DATE_NAMES = ("date", "datum", "day", "fecha")
CLOCK_NAMES = ("time", "zeit", "uhrzeit", "hour", "time_of_day", "hora", "heure")
_CLOCK_TIME = re.compile(r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[.,]\d+)?(?: ?[AaPp]\.?[Mm]\.?)?")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")

# Maximum number of characters of a question or a line of a map.
MAX_TEXT = 600
# Maximum number of pairs of type and unit whose meaning is kept.
MAX_MEANINGS = 10_000
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")

Key = Any
Get = Callable[[Key], Any]


def one_line(text: str) -> str:
    """Return a text for a message: names in files may have line breaks, and any length."""
    text = " ".join(text.splitlines())
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


class Unclear(Exception):  # noqa: N818  # questions, not an error
    """Names and samples leave questions open.

    Attributes:
        texts: each question.
        lines: lines of a map that would answer them, by table.
        has_no_type: nothing names a known type.
    """

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.lines: dict[str, list[str]] = {}
        self.has_no_type = False

    def ask(self, text: str, table: str = "", *lines: str) -> None:
        """Add a question, and what to write in a table of the map."""
        self.texts.append(one_line(text))
        if table:
            self.lines.setdefault(table, []).extend(map(one_line, lines))

    def __str__(self) -> str:
        return "; ".join(self.texts)

    def map_text(self) -> str:
        """Return a map to fill in."""
        order = ("columns", "constants", "units", "time", "csv")
        return "\n\n".join("\n".join([f"[{table}]", *self.lines[table]]) for table in order if table in self.lines)


@dataclass(frozen=True)
class Given:
    """Facts about a payload that are not in its fields.

    Attributes:
        sensor_id: the device's name, from a topic or a token, where no field names it.
        time_us: the moment of receipt, where no field names the time; None for files.
        location: where the device is.
        zone: the zone that the form prescribes; None is local time.
        units: the unit of each type, where the form prescribes it or the payload says so.
        noun: what the form calls a column.
    """

    sensor_id: str | None = None
    time_us: int | None = None
    location: str | None = None
    zone: tzinfo | None = None
    units: tuple[tuple[str, str], ...] = ()
    noun: str = "column"
    zone_reason: str = ""


@dataclass
class Plan:
    """Which key of a row is what."""

    given: Given
    sensor_keys: tuple[Key, ...]
    sensor_constant: str
    time_keys: tuple[Key, ...]
    clock: Clock
    location_keys: tuple[Key, ...]
    location: str | None
    measures: list[tuple[Key, Quantity]]
    decimal: str
    # The keys of the schema's fields where a row is one reading, else empty.
    long: dict[str, Key] = field(default_factory=dict)
    # The keys of fields that hold a unit, by the type whose unit it is; empty text for all types.
    unit_keys: dict[str, Key] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    is_own: bool = False
    labels: dict[Key, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    time_form: str = ""
    has_zone_in_values: bool = False
    _meanings: dict[tuple[str, str | None], _Meaning] = field(default_factory=dict)

    def __post_init__(self) -> None:
        extra = {"quality", "run_id", "sequence"}
        self._has_more = bool(extra & self.long.keys() or extra & self.constants.keys())

    def results(self, get: Get, given: Given | None = None) -> list[Result]:
        """Return the readings of a row, and what is refused in it."""
        given = given or self.given
        sensor_id = self._joined(self.sensor_keys, get) or self.sensor_constant or given.sensor_id or ""
        if not sensor_id:
            labels = ", ".join(self.labels.get(key, str(key)) for key in self.sensor_keys) or "sensor_id"
            return [Refused(f"{labels} has no value: the sensor has no name")]
        stamp = None
        try:
            if self.time_keys:
                stamp = get(self.time_keys[0]) if len(self.time_keys) == 1 else self._joined(self.time_keys, get)
            if stamp is None or stamp == "":
                if given.time_us is None:
                    label = ", ".join(self.labels.get(key, str(key)) for key in self.time_keys) or "timestamp"
                    return [Refused(f"{label} has no value: write the time of the measurement")]
                time_us = given.time_us
            else:
                time_us = self.clock.time_us(stamp)
        except BadTime as error:
            return [Refused(f"timestamp: {error}")]
        location = self._joined(self.location_keys, get) or self.location or given.location
        if self.long:
            return [self._long(get, sensor_id, time_us, stamp, location)]
        units = self._row_units(get) if self.unit_keys else {}
        results = []
        for key, quantity in self.measures:
            unit = units.get(quantity.sensor_type)
            results.append(reading(sensor_id, quantity, get(key), time_us, location, self.decimal, unit))
        if len(results) > 1 and all(isinstance(result, Refused) and result.is_missing for result in results):
            columns = ", ".join(quantity.column for _, quantity in self.measures)
            return [Refused(f"no value in {columns}: nothing to send", is_missing=True)]
        return results

    def _row_units(self, get: Get) -> dict[str, str]:
        """Return the units that a row names in fields of their own, by type.

        A unit that is named for no type, as in ``temperature, humidity, unit``, is that of the types that have it. If
        none has it, it makes all values doubtful.
        """
        units = {}
        for sensor_type, key in self.unit_keys.items():
            if sensor_type and (unit := get(key)) not in (None, ""):
                units[sensor_type] = str(unit).strip()
        if "" in self.unit_keys and (shared := get(self.unit_keys[""])) not in (None, ""):
            types = {quantity.sensor_type for _, quantity in self.measures} - {"motion"} - units.keys()
            having = {each for each in types if is_known_unit(each, str(shared))}
            units |= dict.fromkeys(having or types, str(shared).strip())
        return units

    def _long(self, get: Get, sensor_id: str, time_us: int, stamp: Any, location: str | None) -> Result:
        kind, unit = self._text("sensor_type", get), self._text("unit", get)
        if not kind:
            return Refused("sensor_type has no value: name what was measured")
        meaning = self._meanings.get((kind, unit))
        if meaning is None:
            meaning = self._meaning(kind, unit)
            if len(self._meanings) < MAX_MEANINGS:
                self._meanings[kind, unit] = meaning
        try:
            value, standard_unit = standard(meaning.quantity, get(self.long["value"]), self.decimal)
        except BadValue as error:
            return Refused(str(error), error.is_missing, error.is_in_doubt)
        if self.is_own and isinstance(stamp, str) and _is_schema_time(stamp):
            timestamp = stamp
        else:
            timestamp = format_timestamp(time_us)
        sent_unit = meaning.unit if meaning.keeps_unit else standard_unit
        message = Message(sensor_id, meaning.quantity.sensor_type, value, timestamp, location, sent_unit)
        if self._has_more:
            message.quality, message.run_id = self._text("quality", get), self._text("run_id", get)
            if sequence := self._text("sequence", get):
                if not _WHOLE.fullmatch(sequence):
                    return Refused(f"sequence: {sequence!r} is not a whole number")
                message.sequence = int(sequence)
        return checked(message, time_us)

    def _meaning(self, kind: str, unit: str | None) -> _Meaning:
        """Return what a row of a type and unit means."""
        found = None if self.is_own and kind in STANDARD_UNITS else names.measure(kind)
        sensor_type = found.sensor_type if found else kind
        unit = unit or self.units.get(sensor_type) or (found.unit if found else None)
        # Readers of the topic convert some units themselves, and a unit that nobody knows stays with its value.
        keeps_unit = unit in ("unknown", STANDARD_UNITS.get(sensor_type)) or (
            self.is_own and (unit is None or (sensor_type, unit) in CONVERSIONS or not is_known_unit(sensor_type, unit))
        )
        column = self.labels.get(self.long["value"], "value")
        quantity = Quantity(sensor_type, None if keeps_unit else unit, column, is_assured=self.is_own)
        return _Meaning(quantity, keeps_unit, unit)

    def _text(self, name: str, get: Get) -> str | None:
        raw = get(self.long[name]) if name in self.long else self.constants.get(name)
        return None if raw is None or raw == "" else str(raw).strip() or None

    def _joined(self, keys: tuple[Key, ...], get: Get) -> str:
        if len(keys) == 1:
            raw = get(keys[0])
            return "" if raw is None else str(raw).strip()
        return " ".join(text for key in keys if (raw := get(key)) is not None and (text := str(raw).strip()))

    def description(self) -> list[tuple[str, str]]:
        """Return what was recognised as what: pairs of a field of the schema, and where it comes from."""
        noun = self.given.noun

        def label(keys: Sequence[Key]) -> str:
            return f"{noun}{'s' if len(keys) > 1 else ''} " + ", ".join(self.labels.get(key, str(key)) for key in keys)

        rows = []
        if self.sensor_keys:
            rows.append(("sensor_id", label(self.sensor_keys)))
        elif self.sensor_constant:
            rows.append(("sensor_id", f"{self.sensor_constant!r} for all readings"))
        if self.time_keys:
            rows.append(("timestamp", f"{label(self.time_keys)}: {self.time_form}{self._zone_text()}"))
        if self.location_keys:
            rows.append(("location", label(self.location_keys)))
        elif self.location:
            rows.append(("location", f"{self.location!r} for all readings"))
        for name, key in self.long.items():
            if name not in ("sensor_id", "timestamp", "location"):
                rows.append((name, label([key])))
        for key, quantity in self.measures:
            own = self.unit_keys.get(quantity.sensor_type, self.unit_keys.get(""))
            unit = _unit_text(quantity) if own is None or quantity.unit else f"unit in {label([own])}"
            rows.append((quantity.sensor_type, f"{label([key])}: {unit}"))
        if self.unused:
            rows.append(("not used", ", ".join(self.unused)))
        rows += [("note", note) for note in self.notes]
        return rows

    def _zone_text(self) -> str:
        if self.has_zone_in_values:
            return ""
        if self.clock.zone is None:
            return ", without a time zone: read as local time of this machine"
        return f", read as {self.clock.zone}{self.given.zone_reason}"


_is_schema_time = re.compile(TIMESTAMP_PATTERN.removesuffix("?")).fullmatch
"""Whether a text is a timestamp of the schema with an offset, which everybody reads alike."""


class _Meaning(NamedTuple):
    """The meaning of rows with some type and unit. ``quantity`` has no unit if a value keeps its own ``unit``."""

    quantity: Quantity
    keeps_unit: bool
    unit: str | None


def _unit_text(quantity: Quantity) -> str:
    wanted = STANDARD_UNITS.get(quantity.sensor_type)
    if quantity.unit is None:
        return f"{wanted or 'no unit'}{'' if quantity.is_assured or not wanted else ', as no unit is given'}"
    if wanted is None or _is_standard(quantity.sensor_type, quantity.unit):
        return wanted or quantity.unit
    return f"{quantity.unit}, as {wanted}"


def make_plan(
    columns: Sequence[str],
    samples: Sequence[Sequence[Any]],
    field_map: FieldMap,
    given: Given,
    keys: Sequence[Key] | None = None,
    decimal: str = ".",
    column_units: Mapping[str, str] | None = None,
) -> Plan:
    """Return the plan for rows with these columns.

    Args:
        samples: some rows, each as long as ``columns``.
        keys: by what ``Plan.results`` gets the value of each column; default: its position.
        column_units: units of columns that are not in their names.

    Raises:
        Unclear: it cannot be told.
    """
    keys = list(range(len(columns))) if keys is None else keys
    by_name = dict(zip(columns, keys, strict=True))
    return _Maker(list(columns), samples, field_map, given, by_name, decimal, column_units or {}).plan()


class _Maker:
    def __init__(
        self,
        columns: list[str],
        samples: Sequence[Sequence[Any]],
        field_map: FieldMap,
        given: Given,
        keys: dict[str, Key],
        decimal: str,
        column_units: Mapping[str, str],
    ) -> None:
        self.column_units = column_units
        self.columns, self.samples, self.map, self.given = columns, samples, field_map, given
        self.keys, self.decimal = keys, decimal
        self.noun = given.noun
        self.unclear = Unclear()
        self.used: set[str] = set(field_map.ignore)
        self.notes: list[str] = []

    def plan(self) -> Plan:
        self._require_columns_of_map()
        long = self._long()
        is_own = {"sensor_id", "sensor_type", "value", "timestamp"} <= set(self.columns) and not self.map.columns
        sensor = self._sensor()
        time_columns, clock, time_form, has_zone = self._time()
        location = self._location()
        unit_columns = {} if long else self._unit_columns()
        measures = [] if long else self._measures(unit_columns)
        if not long and not measures:
            known = "temperature, humidity, pressure, motion or light"
            self.unclear.has_no_type = not self.notes
            why = f"; {'; '.join(self.notes)}" if self.notes else ""
            self.unclear.ask(
                f"no {self.noun} names a known type ({known}){why}",
                "columns",
                f'temperature = "…"  # or another type, and the {self.noun} that measures it: {self._choice()}',
            )
        if self.unclear.texts:
            raise self.unclear
        units = dict(self.given.units) | dict(self.map.units)
        unused = [column for column in self.columns if column not in self.used and column]
        unused += [column for column in self.columns if column in self.map.ignore]
        return Plan(
            given=self.given,
            sensor_keys=tuple(self.keys[column] for column in sensor),
            sensor_constant="" if sensor else self.map.constants.get("sensor_id", ""),
            time_keys=tuple(self.keys[column] for column in time_columns),
            clock=clock,
            location_keys=tuple(self.keys[column] for column in location),
            location=None if location else self.map.constants.get("location"),
            measures=[(self.keys[column], quantity) for column, quantity in measures],
            decimal=self.decimal,
            long={name: self.keys[column] for name, column in long.items()},
            unit_keys={sensor_type: self.keys[column] for sensor_type, column in unit_columns.items()},
            constants=dict(self.map.constants),
            units=units,
            is_own=is_own,
            labels={key: one_line(column) or "(without a name)" for column, key in self.keys.items()},
            unused=unused,
            notes=self.notes,
            time_form=time_form,
            has_zone_in_values=has_zone,
        )

    def _values(self, column: str) -> list[Any]:
        at = self.columns.index(column)
        return [value for row in self.samples if (value := row[at]) is not None and value != ""]

    def _choice(self) -> str:
        free = [column for column in self.columns if column and column not in self.map.columns.get("timestamp", ())]
        return ", ".join(free[:8]) + ("…" if len(free) > 8 else "")

    def _require_columns_of_map(self) -> None:
        for name, columns in self.map.columns.items():
            if missing := [column for column in columns if column not in self.keys]:
                self.unclear.ask(
                    f"the map names the {self.noun} {missing[0]!r} for {name}, but there is none of that name; "
                    f"there are {', '.join(filter(None, self.columns))}"
                )
        if self.unclear.texts:
            raise self.unclear

    def _mapped(self, name: str) -> tuple[str, ...]:
        found = self.map.columns.get(name, ())
        self.used.update(found)
        return found

    def _free(self) -> list[str]:
        return [column for column in self.columns if column and column not in self.used]

    def _long(self) -> dict[str, str]:
        """Return the columns of the schema's fields if each row is one reading; empty if it is wide."""
        if self.map.measures:
            return {}
        value = next(iter(self._mapped("value")), None) or names.first_of(self._free(), names.VALUE_NAMES)
        kind = next(iter(self._mapped("sensor_type")), None)
        if kind is None and "sensor_type" not in self.map.constants:
            kind = names.first_of(self._free(), names.TYPE_NAMES)
        if value is None or (kind is None and "sensor_type" not in self.map.constants):
            self.used -= {value} if value and "value" not in self.map.columns else set()
            return {}
        found = {"value": value} | ({"sensor_type": kind} if kind else {})
        unit = next(iter(self._mapped("unit")), None)
        if unit is None and "unit" not in self.map.constants:
            unit = names.first_of(self._free(), names.UNIT_NAMES)
        if unit:
            found["unit"] = unit
        for name in ("quality", "run_id", "sequence"):
            column = next(iter(self._mapped(name)), None) or (name if name in self._free() else None)
            if column and name not in self.map.constants:
                found[name] = column
        self.used.update(found.values())
        return found

    def _sensor(self) -> tuple[str, ...]:
        if columns := self._mapped("sensor_id"):
            return columns
        if "sensor_id" in self.map.constants:
            return ()
        if found := names.first_of(self._free(), names.SENSOR_NAMES):
            self.used.add(found)
            return (found,)
        if self.given.sensor_id is None:
            self.unclear.ask(
                f"no {self.noun} names a sensor",
                "columns",
                f'sensor_id = "…"  # the {self.noun} that names the sensor, or several: ["…", "…"]; '
                f"there are {self._choice()}",
            )
            self.unclear.lines.setdefault("constants", []).append(
                '# sensor_id = "…"  # instead of a column, if all readings are of one sensor'
            )
        return ()

    def _location(self) -> tuple[str, ...]:
        if columns := self._mapped("location"):
            return columns
        if "location" in self.map.constants:
            return ()
        found = names.first_of(self._free(), names.LOCATION_NAMES)
        if found and not any(isinstance(value, (dict, list)) for value in self._values(found)):
            self.used.add(found)
            return (found,)
        return ()

    def _time(self) -> tuple[tuple[str, ...], Clock, str, bool]:
        """Return the columns of the timestamp, how to read it, its form, and whether the values name their zone."""
        columns = self._mapped("timestamp")
        candidates = [columns] if columns else self._time_candidates()
        ambiguous: tuple[tuple[str, ...], str] | None = None
        failed: tuple[tuple[str, ...], str] | None = None
        for columns in candidates:
            zone = self.map.zone if self.map.has_zone else self.given.zone
            if not self.map.has_zone:
                zone = next(filter(None, map(names.zone_in, columns)), zone)
            values = self._joined_values(columns)
            clock = self.map.clock(zone) or detect(values, zone)
            good = [value for value in values if _is_time(clock, value)]
            if good or not values:
                self.used.update(columns)
                has_zone = bool(good) and all(has_offset(value) for value in good) and not clock.pattern
                return columns, clock, form_of(good[0], clock) if good else "recognised in each row", has_zone
            if any(is_ambiguous(value) for value in values):
                ambiguous = ambiguous or (columns, next(value for value in values if is_ambiguous(value)))
            else:
                failed = failed or (columns, values[0])
        if self.given.time_us is not None and not ambiguous and not failed:
            return (), Clock(self.given.zone), "", True
        self._ask_for_time(ambiguous, failed)
        return (), Clock(), "", False

    def _ask_for_time(
        self, ambiguous: tuple[tuple[str, ...], str] | None, failed: tuple[tuple[str, ...], str] | None
    ) -> None:
        zone = () if self.map.has_zone else ('zone = "UTC"  # or local, or one such as Europe/Berlin',)
        if ambiguous:
            columns, value = ambiguous
            self.used.update(columns)
            self.unclear.ask(
                f"{value} in {' and '.join(columns)} may have the day or the month first",
                "time",
                'format = "day first"  # or "month first", or a format such as "%d.%m.%Y %H:%M:%S"',
                *zone,
            )
        elif failed:
            columns, value = failed
            self.used.update(columns)
            try:
                (self.map.clock() or Clock()).time_us(value)
            except BadTime as error:
                self.unclear.ask(
                    f"{' and '.join(columns)}: {error}",
                    "time",
                    'format = "…"  # such as "%d.%m.%Y %H:%M:%S", or s, ms, us or ns since 1970',
                    *zone,
                )
        else:
            self.unclear.ask(
                f"no {self.noun} names the time",
                "columns",
                f'timestamp = "…"  # the {self.noun} with the time: {self._choice()}',
            )
        if (ambiguous or failed) and "timestamp" not in self.map.columns:
            columns = (ambiguous or failed)[0]  # type: ignore[index]
            quoted = ", ".join(f'"{column}"' for column in columns)
            line = f"timestamp = {quoted if len(columns) == 1 else f'[{quoted}]'}"
            self.unclear.lines.setdefault("columns", []).append(line)

    def _time_candidates(self) -> list[tuple[str, ...]]:
        free = [column for column in self._free() if names.is_time(column)]
        rank = {name: at for at, name in enumerate(names.TIME_NAMES)}
        free.sort(key=lambda column: rank.get(names.plain(column), len(rank)))
        date = names.first_of(self._free(), DATE_NAMES)
        clock = names.first_of(self._free(), CLOCK_NAMES)
        if date and clock and date != clock:
            dates, clocks = self._values(date), self._values(clock)
            if (
                dates
                and clocks
                and all(isinstance(value, str) and _DATE.fullmatch(value.strip()) for value in dates)
                and all(isinstance(value, str) and _CLOCK_TIME.fullmatch(value.strip()) for value in clocks)
            ):
                return [(date, clock)]
        return [(column,) for column in free]

    def _joined_values(self, columns: tuple[str, ...]) -> list[Any]:
        if len(columns) == 1:
            return self._values(columns[0])
        places = [self.columns.index(column) for column in columns]
        rows = ([str(row[at]).strip() for at in places if row[at] not in (None, "")] for row in self.samples)
        return [" ".join(row) for row in rows if row]

    def _unit_columns(self) -> dict[str, str]:
        """Return the columns that hold a unit, by the type; empty text if no type is named."""
        found: dict[str, str] = {}
        for column in self._free():
            words = names.words_of(column)
            if words and words[-1] in names.UNIT_NAMES:
                named = names.measure(" ".join(words[:-1]))
                if len(words) == 1 or named:
                    self.used.add(column)
                    found.setdefault(named.sensor_type if named else "", column)
        return found

    def _measures(self, unit_columns: dict[str, str]) -> list[tuple[str, Quantity]]:
        units = dict(self.given.units) | dict(self.map.units)
        assured = {*units, *unit_columns} if "" not in unit_columns else {*units, *STANDARD_UNITS}
        found: list[tuple[str, Quantity]] = []
        bases: dict[tuple[str, tuple[str, ...]], int] = {}
        for sensor_type, columns in self.map.measures.items():
            for column in columns:
                self.used.add(column)
                named = names.measure(column)
                unit = units.get(sensor_type) or (named.unit if named and named.sensor_type == sensor_type else None)
                unit = unit or self.column_units.get(column)
                found.append((column, Quantity(sensor_type, unit, column, is_assured=sensor_type in self.map.units)))
        for column in self._free():
            named = names.measure(column)
            if named is None:
                continue
            self.used.add(column)
            unit = self.map.units.get(named.sensor_type) or named.unit or self.column_units.get(column)
            unit = unit or units.get(named.sensor_type)
            quantity = Quantity(named.sensor_type, unit, column, is_assured=named.sensor_type in assured)
            if not self._is_usable(column, quantity):
                self.used.discard(column)
                continue
            base = (named.sensor_type, named.base)
            if base in bases:
                self._choose(found, bases[base], column, quantity)
            else:
                bases[base] = len(found)
                found.append((column, quantity))
        counts = Counter(quantity.sensor_type for _, quantity in found)
        return [
            (
                column,
                quantity._replace(suffix=column.rpartition(".")[0] or column)
                if counts[quantity.sensor_type] > 1
                else quantity,
            )
            for column, quantity in found
        ]

    def _choose(self, found: list[tuple[str, Quantity]], at: int, column: str, quantity: Quantity) -> None:
        """Keep one of two columns that have the same measurement in two units: the one in the standard unit."""
        before_column, before = found[at]

        def rank(unit: str | None) -> int:
            if unit is None:
                return 1
            return 0 if _is_standard(quantity.sensor_type, unit) else 2

        loser = column
        if rank(quantity.unit) < rank(before.unit):
            found[at] = (column, quantity)
            loser = before_column
        self.used.discard(loser)
        self.notes.append(f"{loser} is not used: {found[at][0]} has the same measurement")

    def _is_usable(self, column: str, quantity: Quantity) -> bool:
        """Whether to use a column; asks if the unit of its values is in doubt."""
        good, bad, doubts = [], [], []
        for value in self._values(column):
            try:
                good.append(standard(quantity, value, self.decimal)[0])
            except BadValue as error:
                if error.is_in_doubt:
                    doubts.append(error)
                elif not error.is_missing:
                    bad.append(error)
        if doubts and not good:
            self.unclear.ask(str(doubts[0]), "units", self._unit_line(quantity.sensor_type))
            return True
        if bad and not good:
            self.notes.append(f"{column} is not used: {bad[0]}")
            return False
        is_without_unit = quantity.sensor_type == "temperature" and quantity.unit is None and not quantity.is_assured
        if is_without_unit and good and median(good) > WARM_CELSIUS:
            self.unclear.ask(
                f"{column}: {median(good):g} may be °C, °F or K, and nothing names the unit",
                "units",
                self._unit_line("temperature"),
            )
        return True

    @staticmethod
    def _unit_line(sensor_type: str) -> str:
        choices = {"temperature": '"°F"  # or "°C" or "K"', "humidity": '"fraction"  # or "%"'}
        return f"{sensor_type} = {choices.get(sensor_type, chr(34) + 'Pa' + chr(34) + '  # or hPa, kPa, inHg, mmHg')}"


def _is_standard(sensor_type: str, unit: str) -> bool:
    """Whether a unit is a spelling of the standard unit."""
    return UNITS[sensor_type].get(plain_unit(unit)) is SAME


def _is_time(clock: Clock, value: Any) -> bool:
    try:
        clock.time_us(value)
    except BadTime:
        return False
    return True
