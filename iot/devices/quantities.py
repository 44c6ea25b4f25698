"""Read measured values, and convert them to the standard unit of their type.

A reading leaves this module in the standard unit of its type, or not at all: a unit that is not known for a type is a
reason to refuse the value, and so is a number that cannot be in the standard unit where no unit is given.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

from iot.readings import STANDARD_UNITS

# sensor type: {unit, in small letters without blanks: (subtract, multiply, divide)};
# standard value = (value - subtract) * multiply / divide
SAME = (0.0, 1.0, 1.0)
UNITS: dict[str, dict[str, tuple[float, float, float]]] = {
    "temperature": {
        **dict.fromkeys(("celsius", "c", "°c", "ºc", "℃", "degc", "deg_c", "degreescelsius", "degreecelsius", "cel",
                         "°celsius", "centigrade"), SAME),
        **dict.fromkeys(("fahrenheit", "f", "°f", "ºf", "℉", "degf", "deg_f", "degreesfahrenheit", "°fahrenheit"),
                        (32.0, 1.0, 1.8)),
        **dict.fromkeys(("kelvin", "k", "°k", "degk"), (273.15, 1.0, 1.0)),
    },
    "humidity": {
        **dict.fromkeys(("percent", "%", "pct", "%rh", "rh%", "%r.h.", "percentage", "%rel", "rh"), SAME),
        **dict.fromkeys(("fraction", "ratio"), (0.0, 100.0, 1.0)),
    },
    "pressure": {
        **dict.fromkeys(("hpa", "mbar", "mb", "millibar", "millibars", "hectopascal"), SAME),
        **dict.fromkeys(("pa", "pascal", "pascals"), (0.0, 1.0, 100.0)),
        **dict.fromkeys(("kpa", "kilopascal"), (0.0, 10.0, 1.0)),
        **dict.fromkeys(("bar",), (0.0, 1000.0, 1.0)),
        **dict.fromkeys(("inhg", "in", "inch", "inches", "inchhg", "in.hg", '"hg'), (0.0, 33.863886666667, 1.0)),
        **dict.fromkeys(("mmhg", "torr"), (0.0, 1.33322387415, 1.0)),
        **dict.fromkeys(("psi",), (0.0, 68.947572931783, 1.0)),
        **dict.fromkeys(("atm",), (0.0, 1013.25, 1.0)),
    },
    "light": {**dict.fromkeys(("lux", "lx"), SAME), **dict.fromkeys(("klx", "klux"), (0.0, 1000.0, 1.0))},
    "motion": dict.fromkeys(("boolean", "bool"), SAME),
}  # fmt: skip
YES = {"true", "on", "yes", "1", "1.0", "detected", "motion", "occupied", "t"}
NO = {"false", "off", "no", "0", "0.0", "clear", "not_detected", "unoccupied", "f"}
# Texts that stand where a value is missing.
NO_VALUE = {"", "nan", "na", "n/a", "n.a.", "null", "none", "nil", "-", "--", "---", "—", "?", "unavailable", "unknown",
            "undefined", "#n/a", "missing"}  # fmt: skip

# Maximum number of characters of a number with its unit.
MAX_NUMBER = 400
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_is_number = re.compile(_NUMBER, re.ASCII).fullmatch
_number_and_unit = re.compile(rf"({_NUMBER})\s*([^\d\s.,+-][^\d]*)", re.ASCII).fullmatch
_GROUPED = {
    ".": re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII),
    ",": re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?", re.ASCII),
}


class BadValue(ValueError):  # noqa: N818  # a verdict on one value
    """A value is not what its type needs. The text says why, and how to fix it.

    Attributes:
        is_missing: there is no value, rather than a wrong one.
        is_in_doubt: the unit is not known, and the number does not fit the standard unit.
    """

    def __init__(self, text: str, is_missing: bool = False, is_in_doubt: bool = False) -> None:
        super().__init__(" ".join(text.split()))
        self.is_missing, self.is_in_doubt = is_missing, is_in_doubt


class Quantity(NamedTuple):
    """The type and unit of a column or field.

    Attributes:
        sensor_type: one of the known types, or any other that a map names.
        unit: as it is written; None where nothing says it.
        column: the column or field, for messages.
        suffix: is added to the sensor's name where a device has several sensors of one type.
        is_assured: no number is in doubt, because the form or a map names the unit.
    """

    sensor_type: str
    unit: str | None
    column: str
    suffix: str = ""
    is_assured: bool = False


@lru_cache(1_000)
def plain_unit(unit: str) -> str:
    """Return a unit in the spelling of ``UNITS``."""
    return re.sub(r"[\s\u00a0\u202f]+", "", unit).lower().replace("\u00ba", "°").replace("˚", "°")


def is_known_unit(sensor_type: str, unit: str) -> bool:
    """Whether a value in this unit can be converted to the standard unit of its type."""
    return sensor_type not in UNITS or plain_unit(unit) in UNITS[sensor_type]


def standard(quantity: Quantity, raw: object, decimal: str = ".", unit: str | None = None) -> tuple[float, str | None]:
    """Return a value in the standard unit of its type, and that unit; an unknown type keeps value and unit.

    Args:
        raw: a number, a boolean, or a text with a number in it.
        decimal: the decimal sign of texts.
        unit: the unit of this value, if it has one of its own.

    Raises:
        BadValue: there is no value, or it cannot be converted.
    """
    sensor_type = quantity.sensor_type
    if unit and quantity.unit and plain_unit(unit) != plain_unit(quantity.unit):
        known = UNITS.get(sensor_type, {})
        if known.get(plain_unit(unit)) is not known.get(plain_unit(quantity.unit)):
            raise BadValue(f"{quantity.column}: the unit is {unit!r}, but the name says {quantity.unit!r}: correct one")
    unit = unit or quantity.unit
    if sensor_type == "motion":
        return _yes_or_no(quantity, raw), "boolean"
    if isinstance(raw, str):
        value, own_unit = _number(quantity, raw, decimal)
        if own_unit:
            if unit and plain_unit(unit) != plain_unit(own_unit):
                raise BadValue(f"{quantity.column}: {raw.strip()!r} is not in {unit}: correct one of the two units")
            unit = own_unit
    elif raw is None:
        raise _missing(quantity)
    elif isinstance(raw, bool) or not isinstance(raw, (int, float)):
        raise BadValue(f"{quantity.column}: {_short(raw)} is not a number")
    else:
        try:
            value = float(raw)
        except OverflowError:
            value = math.inf
    if math.isnan(value):
        raise _missing(quantity)
    if math.isinf(value):
        raise BadValue(f"{quantity.column}: the number is out of range")
    units = UNITS.get(sensor_type)
    if units is None:
        return value, unit
    if unit is None:
        if not quantity.is_assured:
            _require_plausible(quantity, value)
        return value, STANDARD_UNITS[sensor_type]
    conversion = units.get(plain_unit(unit))
    if conversion is None:
        raise BadValue(
            f"{quantity.column}: the unit {unit!r} of {sensor_type} is not known: name one of "
            f"{', '.join(('°C', '°F', 'K') if sensor_type == 'temperature' else list(units)[:8])}",
            is_in_doubt=True,
        )
    if conversion is not SAME:
        subtract, multiply, divide = conversion
        value = (value - subtract) * multiply / divide
        if math.isinf(value):
            raise BadValue(f"{quantity.column}: the number is out of range")
        if divide == 1.0:
            # 295.37 K are 22.22 °C, not 22.220000000000027.
            value = round(value, 9)
    return value, STANDARD_UNITS[sensor_type]


def _require_plausible(quantity: Quantity, value: float) -> None:
    """Refuse a number without a unit that is not one in the standard unit.

    No place on Earth has an air pressure outside 300 to 1200 hPa; 0.45 is a fraction of 1, not a relative humidity in
    percent.
    """
    sensor_type = quantity.sensor_type
    if (sensor_type == "pressure" and not 300 <= value <= 1200) or (
        sensor_type == "humidity" and not (value == 0 or 1 < value <= 110)
    ):
        raise BadValue(
            f"{quantity.column}: {value:g} is not plausible in {STANDARD_UNITS[sensor_type]}: "
            f"name the unit of {sensor_type} in a map",
            is_in_doubt=True,
        )
    if sensor_type == "temperature" and not -273.15 <= value <= 5000:
        raise BadValue(f"{quantity.column}: {value:g} is not plausible in celsius: name the unit in a map")
    if sensor_type == "light" and value < 0:
        raise BadValue(f"{quantity.column}: light cannot be {value:g} lux")


def _yes_or_no(quantity: Quantity, raw: object) -> float:
    if isinstance(raw, bool):
        return float(raw)
    text = str(raw).strip().lower() if raw is not None else ""
    if text in YES:
        return 1.0
    if text in NO:
        return 0.0
    if text in NO_VALUE:
        raise _missing(quantity)
    raise BadValue(f"{quantity.column}: {_short(raw)} is neither 0 nor 1: write one of them")


def _number(quantity: Quantity, text: str, decimal: str) -> tuple[float, str]:
    """Return the number in a text, and its unit, which is often empty."""
    if len(text) > MAX_NUMBER:
        raise BadValue(f"{quantity.column}: {_short(text)} is not a number")
    plain = text.strip().replace("\u2212", "-").replace("\u00a0", " ").replace("\u202f", " ")
    if _is_number(plain) and (decimal == "." or "." not in plain):
        return float(plain), ""
    if plain.lower() in NO_VALUE:
        raise _missing(quantity)
    unit = ""
    pointed = _pointed(plain, decimal)
    if pointed is None and (split := re.match(r"(.*?\d[.,]?)\s*([^\d\s.,][^\d]*)\Z", plain)):
        pointed, unit = _pointed(split[1], decimal), split[2].strip()
    if pointed is None or (unit and not is_known_unit(quantity.sensor_type, unit)):
        why = ""
        if re.fullmatch(r"[+-]?\d+[.,]\d+", plain):
            why = f": the decimal sign of this file is {decimal!r}"
        raise BadValue(f"{quantity.column}: {_short(text)} is not a number{why}")
    return float(pointed), unit


def _pointed(text: str, decimal: str) -> str | None:
    """Return a number with a decimal point and without separators of thousands; None for any other text."""
    if decimal == "." and _is_number(text):
        return text
    if decimal == "," and "." not in text and _is_number(pointed := text.replace(",", ".")):
        return pointed
    if _GROUPED[decimal].fullmatch(text):
        thousands = "," if decimal == "." else "."
        return text.replace(thousands, "").replace(",", ".")
    return None


def _missing(quantity: Quantity) -> BadValue:
    return BadValue(f"{quantity.column} has no value: write a number to send it", is_missing=True)


def _short(raw: object) -> str:
    try:
        text = repr(raw)
    except ValueError:
        # Python writes no whole number of so many digits.
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:60] + "…"
