"""Understand names of columns and fields: the type and unit that they measure, or that they name the sensor or time.

A name counts only if every word of it is understood: ``air_temperature`` is a temperature, ``dew_point_temperature``
and ``temperature_setpoint`` are none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, timedelta, timezone, tzinfo
from typing import NamedTuple

from iot.devices.quantities import UNITS, is_known_unit, plain_unit

# How much of a name is looked at.
MAX_NAME = 200


def _words(text: str) -> list[str]:
    return text.split()


TYPE_WORDS = {
    "temperature": "temperature temp temperatur température temperatura tempc tempf tempk temps atmp",
    "humidity": "humidity hum humid rh rhum relhum relhumidity humidité humedad luftfeuchte luftfeuchtigkeit feuchte "
    "feuchtigkeit relativehumidity",
    "pressure": "pressure press baro barometer luftdruck pression presión presion airpressure",
    "light": "light lux illuminance illumination luminosity lightlevel lichtstärke helligkeit",
    "motion": "motion occupancy presence pir movement motiondetected bewegung",
}
_TYPE_OF = {word: sensor_type for sensor_type, words in TYPE_WORDS.items() for word in words.split()}
_UNIT_IN_WORD = {"tempc": "c", "tempf": "f", "tempk": "k", "lux": "lux"}
# Names that say what is measured only together with a unit, such as ``T (degC)``.
_LETTERS = {"t": "temperature", "p": "pressure", "h": "humidity"}
# Words that leave the meaning as it is.
_NEUTRAL = set(
    _words(
        "air ambient sensor sensors measured measurement current reading value val data values readings measurements "
        "payload telemetry fields state outdoor indoor outside inside out in room raumluft aussen innen external "
        "environment env weather station avg mean average degree degrees deg analog"
    )
)
_NEUTRAL_FOR = {
    "humidity": {"relative", "rel", "relativ", "relative_"},
    "pressure": {"barometric", "atmospheric", "baro", "barometer", "bar", "atm"},
    "light": {"level", "illumination", "intensity", "lux"},
    "motion": {"detected", "detection", "motion", "pir"},
}
_CHIPS = re.compile(
    r"(?:am|aht|bme|bmp|bh|dht|ds|hdc|hts|htu|lm|lps|max|mcp|ms|sgp|scd|sht|si|tmp|tsl|veml|sen|hih)"
    r"[0-9x]{2,5}(?:[a-z]\d{0,2})?|sht|dht|bme|bmp|htu|ds"
)
_WORD_UNITS = {
    "temperature": set(_words("c f k celsius fahrenheit kelvin degc degf")),
    "humidity": set(_words("percent pct percentage perc")),
    "pressure": set(_words("hpa pa kpa mbar mb millibar millibars inhg mmhg psi hectopascal pascal")),
    "light": set(_words("lux lx klx")),
    "motion": set(_words("boolean bool")),
}
_WORD_FOR_UNIT = {"pct": "percent", "percentage": "percent", "perc": "percent"}

SENSOR_NAMES = _words(
    "sensor_id sensorid sensor device_id deviceid device device_name devicename sensor_name sensorname station_id "
    "stationid station station_name stationname node_id nodeid node dev_id devid dev_eui deveui device_eui "
    "deviceeui entity_id entityid entity_name gerät geraet gerätename messstelle capteur probe thing gateway_device "
    "mac mac_address macaddress serial serial_number serialno sensor_serial"
)
TIME_NAMES = _words(
    "timestamp datetime date_time time ts date measured_at recorded_at measurement_timestamp measurement_time "
    "measurementtime reading_time created_at createdat timestamp_utc time_utc utc_time utc date_utc dateutc "
    "datetime_utc last_changed last_seen last_updated event_time observed_at sampled_at noted_date received_at "
    "formatted_date local_time localtime epoch unix_time unixtime unix_timestamp epoch_ms epoch_s timestamp_ms time_ms "
    "ts_ms datum zeit zeitstempel zeitpunkt datum_zeit fecha horodatage"
)
LOCATION_NAMES = _words("location room area zone site place building raum standort ort room_id room_name")
TYPE_NAMES = _words("sensor_type type parameter metric quantity variable measurement_type kind property phenomenon")
VALUE_NAMES = _words("value reading val measurement_value wert")
UNIT_NAMES = _words("unit units uom unit_of_measurement einheit")


# Words with which an entity's name does not mean what is measured in a room.
_OTHER = set(
    _words(
        "dew point feels like apparent wet bulb set setpoint target min max minimum maximum cpu core processor chip "
        "board battery device color colour delta difference trend offset calibration limit high low warning alarm "
        "forecast level threshold timeout sensitivity absolute index vapor vapour saturation sealevel sea tyre tire "
        "oil fuel water blood bed sound"
    )
)
# Units of other measurements, and words for numbers without one. A known type in such a unit must be refused.
_OTHER_UNITS = set(_words("ppm ppb V mV A W kWh dBm dB m mm km s ms min raw adc ADC"))
# Home Assistant's device classes of the known types.
DEVICE_CLASSES = {
    "temperature": "temperature",
    "humidity": "humidity",
    "pressure": "pressure",
    "atmospheric_pressure": "pressure",
    "illuminance": "light",
    "motion": "motion",
    "occupancy": "motion",
    "presence": "motion",
}


_OFFSET = re.compile(r"(?:UTC|GMT) ?([+-])(\d{1,2})(?::?(\d{2}))?")


class Measure(NamedTuple):
    """The type and unit that a name says.

    Attributes:
        sensor_type: one of the known types.
        unit: as it is written; None if the name has none.
        base: equal for two names that differ only in their units.
    """

    sensor_type: str
    unit: str | None
    base: tuple[str, ...]


def words_of(name: str) -> list[str]:
    """Split a name into words in small letters: ``TempC_SHT`` gives temp, c, sht."""
    name = name[:MAX_NAME]
    name = re.sub(r"(?<=[a-z])(?:_)?([hk]Pa)\b", r" \1", name).replace("hPa", "hpa").replace("kPa", "kpa")
    spaced = re.sub(r"(?<=[a-zà-ÿ])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return [word for word in re.split(r"[^0-9a-zA-ZÀ-ÿ]+", spaced.lower()) if word]


def plain(name: str) -> str:
    """Return a name as the lists of this module have it: ``Device Name`` gives device_name."""
    return "_".join(words_of(_split_unit(name)[0]))


def measure(name: str) -> Measure | None:
    """Return what a name measures; None if it is not wholly understood, or measures nothing that is known.

    A unit that is not known for the type stays: whoever reads the values must refuse them.
    """
    bare, unit = _split_unit(name)
    all_words = words_of(bare)
    words = [word for word in all_words if not word.isdigit()]
    words = [re.sub(r"(?<=[a-zà-ÿ]{3})\d{1,2}$", "", word) if not _CHIPS.fullmatch(word) else word for word in words]
    found = [(word, _TYPE_OF[word]) for word in words if word in _TYPE_OF]
    if not found:
        if len(words) == 1 and words[0] in _LETTERS and unit and is_known_unit(_LETTERS[words[0]], unit):
            return Measure(_LETTERS[words[0]], unit, ())
        return None
    types = {sensor_type for _, sensor_type in found}
    if len(types) > 1:
        return None
    sensor_type = types.pop()
    for word in words:
        if word in _TYPE_OF:
            unit = unit or _UNIT_IN_WORD.get(word)
        elif word in _WORD_UNITS[sensor_type]:
            # The unit in brackets is repeated in words: Temperature_Celsius(°C).
            unit = unit or _WORD_FOR_UNIT.get(word, word)
        elif word not in _NEUTRAL | _NEUTRAL_FOR.get(sensor_type, set()) and not _CHIPS.fullmatch(word):
            return None
    base = (word for word in all_words if word not in _WORD_UNITS[sensor_type] and word not in _TYPE_OF)
    return Measure(sensor_type, unit, tuple(base))


def entity_measure(entity_id: str) -> Measure | None:
    """Return what an entity of Home Assistant measures, by the end of its name; None if the name does not say it."""
    domain, _, name = entity_id.rpartition(".")
    if domain not in ("", "sensor", "binary_sensor"):
        return None
    # A number may tell several entities apart, or say the hour of a forecast.
    words = [word for word in words_of(name) if not re.fullmatch(r"\d+[a-z]?", word)]
    if set(words) & _OTHER:
        return None
    found = next((each for start in range(len(words)) if (each := measure("_".join(words[start:])))), None)
    if found and (domain == "binary_sensor") != (found.sensor_type == "motion") and domain:
        return None
    return found


def zone_in(name: str) -> tzinfo | None:
    """Return the zone that the name of a column of times says: ``Time (UTC)``, ``Date Time, GMT-05:00``."""
    if found := _OFFSET.search(name[:MAX_NAME]):
        offset = timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
        return timezone(-offset if found[1] == "-" else offset) if offset < timedelta(days=1) else None
    return UTC if {"utc", "gmt", "dateutc"} & set(words_of(name)) else None


def is_time(name: str) -> bool:
    """Whether a name is one of a timestamp."""
    name = _OFFSET.sub("", name[:MAX_NAME])
    words = [word for word in words_of(name) if word not in ("utc", "gmt", "local", "ms", "iso", "8601")]
    return plain(name) in TIME_NAMES or "_".join(words) in TIME_NAMES or words[:1] == ["timestamp"]


def first_of(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the name that comes first in ``wanted``; None if there is none."""
    plain_names = {plain(name): name for name in reversed(names)}
    return next((plain_names[one] for one in wanted if one in plain_names), None)


def _split_unit(name: str) -> tuple[str, str | None]:
    """Split a unit off a name: ``Humidity (%)``, ``Temperature [°C]``, ``temp °F``, ``Humidity %``, ``p in hPa``."""
    name = name[:MAX_NAME].strip()
    if found := re.fullmatch(r"(.*?)[\s_]*[(\[]\s*([^()\[\]]*?)\s*[)\]]\s*", name):
        bare, unit = found[1], found[2]
        if is_unit(unit):
            return bare, unit
        return name, None
    if found := re.fullmatch(r"(.*?[\w)])[\s_,:]*(%|°\s?[CFK]|º\s?[CF]|℃|℉)(?:\s?r\.?h\.?)?", name, re.IGNORECASE):
        return found[1], found[2]
    if (found := re.fullmatch(r"(.*\w)\s*(?:,|/|\bin\b)\s*(\S{1,6})", name)) and is_unit(found[2]):
        return found[1], found[2]
    return name, None


def is_unit(text: str) -> bool:
    """Whether a text is a unit, of any type."""
    if re.search(r"[%°/µ]", text) or text in _OTHER_UNITS:
        return True
    return any(plain_unit(text) in units for units in UNITS.values())
