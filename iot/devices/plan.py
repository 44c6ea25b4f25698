"""A plan says which column or field is the sensor, the time, and a measurement; it turns rows into readings.

``iot.devices.plan_maker`` makes plans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any, NamedTuple

from iot.devices import names
from iot.devices.quantities import SAME, UNITS, BadValue, Quantity, is_known_unit, plain_unit, standard
from iot.devices.results import Refused, Result, checked, reading
from iot.devices.times import BadTime, Clock
from iot.readings import CONVERSIONS, STANDARD_UNITS, TIMESTAMP_PATTERN, Message, format_timestamp

# Maximum number of pairs of type and unit whose meaning is kept.
MAX_MEANINGS = 10_000
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")

Key = Any
Get = Callable[[Key], Any]


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
    if wanted is None or is_standard_unit(quantity.sensor_type, quantity.unit):
        return wanted or quantity.unit
    return f"{quantity.unit}, as {wanted}"


def is_standard_unit(sensor_type: str, unit: str) -> bool:
    """Whether a unit is a spelling of the standard unit."""
    return UNITS[sensor_type].get(plain_unit(unit)) is SAME
