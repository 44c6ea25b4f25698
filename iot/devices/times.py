"""Read timestamps as files and devices write them: ISO 8601 and its relatives, and times since the epoch.

Nothing is guessed. ``08-12-2018`` may be August or December, so such a column is read only if one of its values has a
number above 12 in one of the two places, or if a map says which comes first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from iot.readings import Rejected, format_timestamp, parse_timestamp

DAY_FIRST, MONTH_FIRST = "day first", "month first"
# How many of each unit make a second, by the unit's name.
EPOCH_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# The smallest and the largest time since the epoch, in seconds, whose unit its size tells: 1973 and 2286.
EARLIEST_S, LATEST_S = 100_000_000, 10_000_000_000
# Maximum number of characters of a timestamp.
MAX_TIME = 100
# Years of measurements. A device that does not know the time begins in 0001, 1601 or 1899.
YEARS = range(1900, 2200)

NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")
_CLOCK = (
    r"(?:[T ,]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?"
    r"(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?)?"
    r"(?: ?(?P<zone>Z|z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})(?: UTC)?)?"
)
_YEAR_FIRST = re.compile(r"(?P<year>\d{4})([-/.])(?P<month>\d{1,2})\2(?P<day>\d{1,2})" + _CLOCK)
_COMPACT = re.compile(
    r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})T(?P<hour>\d{2})(?P<minute>\d{2})(?P<second>\d{2})"
    r"(?:\.(?P<fraction>\d+))?(?P<half>x)?(?P<zone>Z|[+-]\d{2}:?\d{2})?"
)
_YEAR_LAST = re.compile(r"(?P<one>\d{1,2})([-/.])(?P<two>\d{1,2})\2(?P<year>\d{4})" + _CLOCK)
_SHORT_YEAR = re.compile(r"(?P<one>\d{1,2})([-/.])(?P<two>\d{1,2})\2(?P<year>\d{2})" + _CLOCK)
_WEEKDAY = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? )?"
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_NAMED = (
    re.compile(_WEEKDAY + r"(?P<day>\d{1,2})[ -](?P<name>[A-Za-z]{3,9})\.?[ -](?P<year>\d{4})" + _CLOCK),
    re.compile(_WEEKDAY + r"(?P<name>[A-Za-z]{3,9})\.? (?P<day>\d{1,2}),? (?P<year>\d{4})" + _CLOCK),
    re.compile(
        _WEEKDAY + r"(?P<name>[A-Za-z]{3}) +(?P<day>\d{1,2}) (?P<hour>\d{2}):(?P<minute>\d{2}):(?P<second>\d{2})"
        r"(?:\.(?P<fraction>\d+))?(?P<half>x)? (?:(?P<zone>UTC|GMT) )?(?P<year>\d{4})"
    ),
)
# The beginning of a timestamp that Python parses by itself.
_USUAL = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:\.\d+)?(Z|[+-]\d{2}:\d{2})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


class BadTime(ValueError):  # noqa: N818  # a verdict on one value
    """A value is not a time, or nobody can tell which. The text says why, and how to fix it."""


class Clock:
    """Reads the timestamps of one input.

    Attributes:
        zone: the zone of timestamps without an offset; None is the local time of this machine.
        order: ``DAY_FIRST``, ``MONTH_FIRST`` or None, for dates such as 08-12-2018.
        unit: the unit of numbers, a key of ``EPOCH_UNITS``; None takes it from their size.
        pattern: a format of ``strptime``; None recognises the usual formats.
    """

    def __init__(
        self, zone: tzinfo | None = None, order: str | None = None, unit: str | None = None, pattern: str | None = None
    ) -> None:
        self.zone, self.order, self.unit, self.pattern = zone, order, unit, pattern
        self._minute, self._offset_us = "", 0

    def time_us(self, value: object) -> int:
        """Return a timestamp as microseconds since the epoch; finer digits are cut.

        Raises:
            BadTime: it is no timestamp, or an ambiguous one.
        """
        if isinstance(value, str):
            text = value.strip().replace("\u202f", " ")
            if len(text) > MAX_TIME:
                raise BadTime(f"{text[:MAX_TIME]!r}… is not a time")
            usual = _USUAL.fullmatch(text) if self.pattern is None else None
            return self._usual_us(text, usual[1]) if usual else self._text_us(text)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30:
            return self._number_us(value)
        raise BadTime(f"{str(value)[:MAX_TIME]!r} is not a time" if not isinstance(value, int) else "not a time")

    def _usual_us(self, text: str, offset: str | None) -> int:
        if offset is None and text[:16] == self._minute:
            with suppress(ValueError):
                return _since_epoch_us(datetime.fromisoformat(text[:26]).replace(tzinfo=UTC)) - self._offset_us
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise BadTime(f"{text!r} names a day or hour that does not exist") from None
        return self._moment_us(moment, text)

    def _text_us(self, text: str) -> int:
        if self.pattern:
            try:
                moment = datetime.strptime(text, self.pattern)
            except ValueError:
                raise BadTime(f"{text!r} does not have the format {self.pattern!r} of the map") from None
            return self._moment_us(moment, text)
        if NUMBER.fullmatch(text):
            return self._number_us(int(text) if text.lstrip("+-").isdigit() else float(text))
        if found := _YEAR_FIRST.fullmatch(text) or _COMPACT.fullmatch(text):
            return self._fields_us(found.groupdict(), text)
        if found := _YEAR_LAST.fullmatch(text) or _SHORT_YEAR.fullmatch(text):
            if self.order is None:
                raise BadTime(f"{text!r} may have the day or the month first: say which in a map")
            first, second = ("day", "month") if self.order == DAY_FIRST else ("month", "day")
            year = found["year"] if len(found["year"]) == 4 else str(datetime.strptime(found["year"], "%y").year)
            fields = {first: found["one"], second: found["two"], "year": year}
            return self._fields_us(found.groupdict() | fields, text)
        for pattern in _NAMED:
            if (found := pattern.fullmatch(text)) and (month := _month(found["name"])):
                return self._fields_us(found.groupdict() | {"month": str(month)}, text)
        raise BadTime(f"{text!r} is not a time: write YYYY-MM-DDTHH:MM:SSZ, or name the format in a map")

    def _fields_us(self, fields: dict[str, str | None], text: str) -> int:
        year, month, day = (int(fields[name] or 0) for name in ("year", "month", "day"))
        hour, minute, second = (int(fields[name] or 0) for name in ("hour", "minute", "second"))
        micros = int((fields["fraction"] or "0")[:6].ljust(6, "0"))
        if half := fields["half"]:
            if not 1 <= hour <= 12:
                raise BadTime(f"{text!r} names an hour that does not exist")
            hour = hour % 12 + (12 if half in "Pp" else 0)
        try:
            moment = datetime(year, month, day, hour, minute, second, micros)
        except ValueError:
            raise BadTime(f"{text!r} names a day or hour that does not exist") from None
        zone = fields["zone"]
        if zone:
            sign, digits = (zone[0], zone[1:].replace(":", "").ljust(4, "0")) if zone[0] in "+-" else ("+", "0000")
            if int(digits[:2]) > 23 or int(digits[2:]) > 59:
                raise BadTime(f"{text!r} has an offset that does not exist")
            moment = datetime.fromisoformat(f"{moment.isoformat()}{sign}{digits[:2]}:{digits[2:]}")
        return self._moment_us(moment, text)

    def _moment_us(self, moment: datetime, text: str) -> int:
        if moment.year not in YEARS:
            raise BadTime(f"{text!r} is in the year {moment.year}: correct the clock of the device")
        if moment.tzinfo is not None:
            return _since_epoch_us(moment)
        if self.zone is None:
            try:
                us = parse_timestamp(moment.isoformat())
            except Rejected as error:
                raise BadTime(str(error)) from None
        else:
            # Where a local time exists twice or is skipped, the schema takes the earlier moment, too.
            us = min(_since_epoch_us(moment.replace(tzinfo=self.zone, fold=fold)) for fold in (0, 1))
        if _USUAL.fullmatch(text):
            self._minute, self._offset_us = text[:16], _since_epoch_us(moment.replace(tzinfo=UTC)) - us
        return us

    def _number_us(self, number: float) -> int:
        if self.unit:
            us = _scaled_us(number, EPOCH_UNITS[self.unit])
            if not EARLIEST_S <= abs(us) / 1e6 < LATEST_S:
                raise BadTime(
                    f"{number} {UNIT_NAMES[self.unit]} since 1970 is {_shown(us)}: correct the unit in the map"
                )
            return us
        for per_second in EPOCH_UNITS.values():
            if EARLIEST_S * per_second <= number < LATEST_S * per_second:
                return _scaled_us(number, per_second)
        raise BadTime(f"{number} is not a time in s, ms, µs or ns since 1970: name the format in a map")


def detect(values: Iterable[object], zone: tzinfo | None) -> Clock:
    """Return a clock for these timestamps. It has an order of day and month only if a value proves it."""
    orders = set()
    for value in values:
        if isinstance(value, str) and (found := _YEAR_LAST.fullmatch(value.strip())):
            if int(found["one"]) > 12 >= int(found["two"]):
                orders.add(DAY_FIRST)
            elif int(found["two"]) > 12 >= int(found["one"]):
                orders.add(MONTH_FIRST)
    return Clock(zone, orders.pop() if len(orders) == 1 else None)


def is_ambiguous(value: object) -> bool:
    """Whether a value is a date like 08-12-2018, or 08-12-18."""
    return isinstance(value, str) and bool(_YEAR_LAST.fullmatch(value.strip()) or _SHORT_YEAR.fullmatch(value.strip()))


def has_offset(value: object) -> bool:
    """Whether a value names its moment by itself: it has an offset, or counts from the epoch."""
    if not isinstance(value, str):
        return True
    text = value.strip()
    if NUMBER.fullmatch(text):
        return True
    patterns = (_YEAR_FIRST, _COMPACT, _YEAR_LAST, *_NAMED)
    return any((found := pattern.fullmatch(text)) and found["zone"] for pattern in patterns)


def form_of(value: object, clock: Clock) -> str:
    """Return the name of the format of a timestamp, for people."""
    if clock.pattern:
        return f"format {clock.pattern}"
    if not isinstance(value, str) or NUMBER.fullmatch(value.strip()):
        number = float(value)  # type: ignore[arg-type]
        for unit, per_second in EPOCH_UNITS.items():
            if clock.unit == unit or (not clock.unit and number < LATEST_S * per_second):
                return f"{UNIT_NAMES[unit]} since 1970"
    if isinstance(value, str) and _YEAR_LAST.fullmatch(value.strip()):
        return str(clock.order)
    return "ISO 8601" if isinstance(value, str) and value[:4].isdigit() else "date with the name of the month"


def zone_of(name: str) -> tzinfo | None:
    """Return the zone of a name such as Europe/Berlin; None for ``local``.

    Raises:
        ValueError: there is no such zone.
    """
    if name == "local":
        return None
    if name.upper() in ("UTC", "GMT", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError(f"no time zone {name!r}; expected one such as UTC, local or Europe/Berlin") from None


def _month(name: str) -> int:
    short = name[:3].title()
    return _MONTHS.index(short) + 1 if short in _MONTHS else 0


def _since_epoch_us(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _scaled_us(number: float, per_second: int) -> int:
    try:
        if isinstance(number, int):
            return number * 1_000_000 // per_second
        return round(number * (1_000_000 / per_second)) if per_second <= 1_000_000 else int(number / 1_000)
    except (OverflowError, ValueError):
        raise BadTime(f"{number} is not a time") from None


def _shown(us: int) -> str:
    try:
        return format_timestamp(us)
    except OverflowError:
        return "outside the years 1 to 9999"
