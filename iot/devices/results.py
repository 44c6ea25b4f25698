"""The results of a row or payload: readings, or reasons why there is none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from iot.devices.quantities import BadValue, Quantity, standard
from iot.readings import MAX_STRING, Message, format_timestamp
from iot.settings import UserError


class Refused(NamedTuple):
    """A row, or a value in it, that is not sent.

    Attributes:
        reason: what is wrong and how to fix it.
        is_missing: a value is missing, rather than wrong.
        is_in_doubt: the meaning of the value is not known.
        is_other: it measures nothing of a known type.
    """

    reason: str
    is_missing: bool = False
    is_in_doubt: bool = False
    is_other: bool = False


class Timed(NamedTuple):
    """A reading, and its timestamp in microseconds since the epoch."""

    message: Message
    time_us: int


Result = Timed | Refused


class FormError(UserError):
    """Nobody can tell what the content means. Its text is one line; ``map_text`` is a map to fill in."""

    def __init__(self, text: str, map_text: str = "") -> None:
        super().__init__(text)
        self.map_text = map_text


def reading(
    sensor_id: str,
    quantity: Quantity,
    raw: object,
    time_us: int,
    location: str | None = None,
    decimal: str = ".",
    unit: str | None = None,
) -> Result:
    """Return the reading of one value, in its standard unit, or why there is none."""
    try:
        value, unit = standard(quantity, raw, decimal, unit)
    except BadValue as error:
        return Refused(str(error), error.is_missing, error.is_in_doubt)
    name = f"{sensor_id} {quantity.suffix}" if quantity.suffix else sensor_id
    message = Message(name, quantity.sensor_type, value, format_timestamp(time_us), location, unit)
    return checked(message, time_us)


def checked(message: Message, time_us: int) -> Result:
    """Return a message as a reading, unless it breaks the schema. Its timestamp and its value are valid already."""
    texts = (message.sensor_id, message.sensor_type, message.location, message.unit, message.quality, message.run_id)
    if texts not in _valid:
        if why := _broken_rule(message):
            return Refused(why)
        if len(_valid) >= MAX_VALID:
            _valid.clear()
        _valid.add(texts)
    return Timed(message, time_us)


# Texts of messages that were found valid. The same ones come again and again.
MAX_VALID = 10_000
_valid: set[tuple[str | None, ...]] = set()


def _broken_rule(message: Message) -> str:
    for name, text in (("sensor_id", message.sensor_id), ("sensor_type", message.sensor_type)):
        if not 1 <= len(text) <= MAX_STRING:
            return f"{name} has {len(text)} characters: use 1 to {MAX_STRING}"
        if not text.isascii() and not _is_unicode(text):
            return f"{name} is no valid text: correct the encoding"
    for name, optional in (
        ("location", message.location),
        ("unit", message.unit),
        ("quality", message.quality),
        ("run_id", message.run_id),
    ):
        if optional:
            if len(optional) > MAX_STRING:
                return f"{name} has {len(optional)} characters: use at most {MAX_STRING}"
            if not optional.isascii() and not _is_unicode(optional):
                return f"{name} is no valid text: correct the encoding"
    return ""


def _is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which stands for a byte that could not be decoded."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def has_reading(results: Iterable[Result]) -> bool:
    """Whether one of the results is a reading."""
    return any(isinstance(result, Timed) for result in results)
