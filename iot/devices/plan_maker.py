"""Make a plan from the names of columns or fields, some sample rows, and the map.

What cannot be decided is not guessed: ``make_plan`` raises ``Unclear`` with every question, and with the lines of a map
that would answer them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from iot.devices import names
from iot.devices.field_map import FieldMap
from iot.devices.plan import Given, Key, Plan, is_standard_unit
from iot.devices.quantities import BadValue, Quantity, standard
from iot.devices.times import BadTime, Clock, detect, form_of, has_offset, is_ambiguous
from iot.devices.unclear import Unclear, one_line
from iot.readings import STANDARD_UNITS

# A temperature without a unit is in doubt if half of the first ones are above this: it may be in °F or K.
WARM_CELSIUS = 45.0
DATE_NAMES = ("date", "datum", "day", "fecha")
CLOCK_NAMES = ("time", "zeit", "uhrzeit", "hour", "time_of_day", "hora", "heure")
_CLOCK_TIME = re.compile(r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[.,]\d+)?(?: ?[AaPp]\.?[Mm]\.?)?")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")


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
            return 0 if is_standard_unit(quantity.sensor_type, unit) else 2

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


def _is_time(clock: Clock, value: Any) -> bool:
    try:
        clock.time_us(value)
    except BadTime:
        return False
    return True
