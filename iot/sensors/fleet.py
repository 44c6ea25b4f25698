"""A fleet of simulated sensors, whose readings are encoded and ready to send.

Each sensor has its own base value, follows the time of day (warmest in the afternoon), and wanders a little. Every
20 s a few sensors get a fault for some seconds. The fault drives the value over an alert bound, like a failing heater
or a blocked vent. All other values stay within the bounds.

The sensors take turns: reading n is of sensor n modulo the size of the fleet. A value depends only on the seed, the
sequence number and the time, not on how readings are cut into batches.

A load test must not measure the generator, so it is fast: it computes a whole batch at once, and it joins messages
from parts that are encoded in advance.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from iot.kafka.sender import Record
from iot.readings import STANDARD_UNITS, format_timestamp

DAY_S = 86_400
# How often faults are drawn, and for how many sensors one fault is drawn each time.
PERIOD_S = 20
SENSORS_PER_FAULT = 50
LOCATIONS = tuple(f"building_{letter}" for letter in "abcde")
# Maximum value, exclusive.
VALUES_END = 1_100
# Size of the table of deviations, a power of two. Each sensor goes round the table from its own starting point.
WANDERINGS = 65_536

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Profile(NamedTuple):
    """How a type of sensor behaves, in its standard unit. For motion, values are shares of the time with motion."""

    base: float
    spread: float
    daily: float
    wander: float
    low_fault: float = math.nan
    high_fault: float = math.nan


PROFILES = {
    "temperature": Profile(22.0, 1.5, 2.5, 0.15, 12.0, 34.0),
    "humidity": Profile(50.0, 4.0, -6.0, 0.6, 24.0, 78.0),
    "pressure": Profile(1014.0, 2.0, 3.0, 0.2, 992.0, 1037.0),
    "motion": Profile(0.12, 0.08, 0.10, 0.0),
    "light": Profile(380.0, 60.0, 300.0, 8.0),
}
TYPES = tuple(PROFILES)


class Fleet:
    """Sensors ``sensor_0`` to ``sensor_{size - 1}``, of the five types in turn. The same seed gives the same values.

    A fleet can be split between threads: share 1 of 3 makes the readings of sensors 1, 4, 7 … only.
    """

    def __init__(self, size: int, seed: int, run_id: str, share: int = 0, shares: int = 1) -> None:
        """
        Args:
            size: number of sensors of the whole fleet, at least ``shares``.
            run_id: the ``run_id`` of every reading.
            share: which of the ``shares`` parts of the fleet, from 0.
        """
        self._size, self._seed = size, seed
        self._sensors = np.arange(share, size, shares)
        self._made = 0
        self._records: list[Record] = []
        self._values = _value_texts()
        sensor_types = [TYPES[number % len(TYPES)] for number in self._sensors]
        self.keys = [b"sensor_%d" % number for number in self._sensors]
        self._heads = list(map(_head, self._sensors.tolist(), sensor_types))
        units = {name: b',"unit":%b,"timestamp":"' % _json(STANDARD_UNITS[name]) for name in TYPES}
        self._units = [units[name] for name in sensor_types]
        self._tail = b'+00:00","quality":"%b","run_id":' + _json(run_id).replace(b"%", b"%%") + b',"sequence":%d}'

        chance = _generator(seed, "fleet")
        profiles = [PROFILES[name] for name in sensor_types]
        spread = np.array([profile.spread for profile in profiles])
        self._base = np.array([profile.base for profile in profiles])
        self._base += spread * chance.uniform(-1, 1, size)[self._sensors]
        self._daily = np.array([profile.daily for profile in profiles])
        self._phase_s = chance.uniform(-3600, 3600, size)[self._sensors]
        self._wander = np.array([profile.wander for profile in profiles])
        self._place = chance.integers(0, WANDERINGS, size)[self._sensors]
        self._is_motion = np.array([name == "motion" for name in sensor_types])
        self._deviations = _wanderings(seed)
        self._sorted_deviations = np.sort(self._deviations)
        self._can_fail = np.flatnonzero([PROFILES[TYPES[n % len(TYPES)]].low_fault > 0 for n in range(size)])
        self._periods: dict[int, Period] = {}

    def numbers(self, first: int, last: int) -> Integers:
        """Return the positions among the whole fleet's readings of this share's readings ``first`` to ``last - 1``."""
        mine = np.arange(first, last)
        numbers: Integers = mine // len(self.keys) * self._size + self._sensors[mine % len(self.keys)]
        return numbers

    def count_below(self, number: int) -> int:
        """Return how many of the first ``number`` readings of the whole fleet are in this share."""
        rounds, more = divmod(number, self._size)
        return rounds * len(self.keys) + int(np.searchsorted(self._sensors, more))

    def records(self, times_us: Integers) -> list[Record]:
        """Return the next readings, encoded, one for each of these times of measurement (µs since the epoch).

        The next call reuses the records: keep their values, not the records.
        """
        count, size = len(times_us), len(self.keys)
        if not count:
            return []
        first, self._made = self._made, self._made + count
        numbers = np.arange(first, first + count)
        sequence = numbers // size
        hundredths, faulty = self._measure(numbers - sequence * size, sequence, times_us)
        millisecond = times_us // 1000
        tails: list[bytes] = []
        while len(tails) < count:
            number, turn = divmod(first + len(tails), size)
            tails += [self._tail % (b"good", number)] * min(size - turn, count - len(tails))
        for at in faulty:
            tails[at] = self._tail % (b"suspect", (first + at) // size)
        messages = map(
            b"".join,
            zip(
                _in_turn(self._heads, first, count),
                self._values[hundredths].tolist(),
                _in_turn(self._units, first, count),
                _stamps(millisecond),
                _thousand()[times_us - millisecond * 1000].tolist(),
                tails,
                strict=False,
            ),
        )
        begin = first % size
        while len(self._records) < begin + count:
            self._records += [{"key": key, "value": b""} for key in self.keys]
        records = self._records[begin : begin + count]
        for record, message in zip(records, messages, strict=True):
            record["value"] = message
        return records

    def _measure(self, sensor: Integers, sequence: Integers, times_us: Integers) -> tuple[Integers, list[int]]:
        """Return values in hundredths of their unit, and the positions of those that a fault drives.

        Args:
            sensor: each reading's position in this share.
            sequence: each reading's sequence number; as long as ``sensor``, like ``times_us``.
        """
        deviation = self._deviations[(self._place[sensor] + sequence) & (WANDERINGS - 1)]
        period = times_us // (PERIOD_S * 1_000_000)
        lowest = period.min()
        if lowest == period.max():
            value, faulty = self._measure_in(int(lowest), sensor, deviation, times_us)
        else:
            value, faulty = np.empty(len(sensor)), []
            for one in np.unique(period):
                at = np.flatnonzero(period == one)
                value[at], driven = self._measure_in(int(one), sensor[at], deviation[at], times_us[at])
                faulty += at[driven].tolist()
        hundredths: Integers = np.rint(value * 100).astype(np.int64)
        return hundredths.clip(0, len(self._values) - 1), faulty

    def _measure_in(
        self, period: int, sensor: Integers, deviation: Floats, times_us: Integers
    ) -> tuple[Floats, list[int]]:
        """Return values at times within one period, and the positions of those that a fault drives."""
        now = self._periods.get(period)
        if now is None:
            # Times are near the present; late readings look only a few periods back.
            if len(self._periods) >= 16:
                self._periods.clear()
            now = self._periods[period] = self._draw_period(period)
        level = now.level[sensor]
        value = level + self._wander[sensor] * deviation
        motion = np.flatnonzero(self._is_motion[sensor])
        value[motion] = deviation[motion] < level[motion]
        at = np.flatnonzero(now.has_fault[sensor])
        fault = np.searchsorted(now.faulty, sensor[at])
        active = (now.begin_us[fault] <= times_us[at]) & (times_us[at] < now.end_us[fault])
        at, fault = at[active], fault[active]
        value[at] = now.fault_level[fault] + self._wander[sensor[at]] * deviation[at]
        return value, at.tolist()

    def _draw_period(self, period: int) -> Period:
        # The values are lowest at about 03:00 UTC and highest at 15:00.
        day = (period * PERIOD_S + self._phase_s - 3 * 3600) * (2 * math.pi / DAY_S)
        level = self._base - self._daily * np.cos(day)
        share = np.clip(level[self._is_motion], 0, 0.99)
        level[self._is_motion] = self._sorted_deviations[(share * WANDERINGS).astype(np.int64)]

        chance = _generator(self._seed, "faults", period)
        count = math.ceil(len(self._can_fail) / SENSORS_PER_FAULT)
        numbers = np.sort(chance.choice(self._can_fail, count, replace=False))
        begin_us = (period * PERIOD_S + chance.uniform(0, 8, count)) * 1e6
        end_us = begin_us + chance.uniform(5, 12, count) * 1e6
        profiles = [PROFILES[TYPES[number % len(TYPES)]] for number in numbers]
        sides = zip(profiles, chance.random(count) < 0.5, strict=True)
        fault_level = np.array([profile.low_fault if low else profile.high_fault for profile, low in sides])
        mine = np.isin(numbers, self._sensors)
        faulty = np.searchsorted(self._sensors, numbers[mine])
        has_fault = np.zeros(len(self._sensors), bool)
        has_fault[faulty] = True
        return Period(level, has_fault, faulty, begin_us[mine], end_us[mine], fault_level[mine])


class Period(NamedTuple):
    """The state of the fleet for ``PERIOD_S``.

    ``level`` and ``has_fault`` have one item per sensor, the others one per fault, in order of the sensor. The level of
    a motion sensor is the deviation below which there is motion.
    """

    level: Floats
    has_fault: npt.NDArray[np.bool_]
    faulty: Integers
    begin_us: Floats
    end_us: Floats
    fault_level: Floats


class _Milliseconds(dict[int, bytes]):
    """Maps milliseconds since the epoch to the first part of a timestamp: 2026-11-24T02:15:07.123."""

    def __missing__(self, millisecond: int) -> bytes:
        if len(self) >= 10_000:
            self.clear()
        text = self[millisecond] = format_timestamp(millisecond * 1000)[:23].encode()
        return text


_MILLISECONDS = _Milliseconds()
_json = msgspec.json.Encoder().encode


def _stamps(millisecond: Integers) -> list[bytes]:
    """Return the first part of each timestamp, up to milliseconds."""
    first, last = int(millisecond.min()), int(millisecond.max())
    if last - first >= len(millisecond):
        return [_MILLISECONDS[each] for each in millisecond.tolist()]
    # Usually many readings share a millisecond; then a table is faster.
    table = np.array([_MILLISECONDS[each] for each in range(first, last + 1)], dtype=object)
    stamps: list[bytes] = table[millisecond - first].tolist()
    return stamps


@cache
def _thousand() -> npt.NDArray[np.object_]:
    """Return 000 to 999."""
    return np.array([b"%03d" % number for number in range(1000)], dtype=object)


@cache
def _value_texts() -> npt.NDArray[np.object_]:
    """Return the JSON text of each number of hundredths, from 0: item 100942 is 1009.42."""
    return np.array([b"%g" % (hundredths / 100) for hundredths in range(VALUES_END * 100)], dtype=object)


def _head(number: int, sensor_type: str) -> bytes:
    location = LOCATIONS[number // len(TYPES) % len(LOCATIONS)]
    fields = {"sensor_id": f"sensor_{number}", "sensor_type": sensor_type, "location": location}
    return _json(fields)[:-1] + b',"value":'


def _in_turn(parts: list[bytes], first: int, count: int) -> list[bytes]:
    """Return ``count`` parts from turn ``first``, starting over at the end of ``parts``."""
    at = first % len(parts)
    rounds, rest = divmod(max(0, at + count - len(parts)), len(parts))
    return parts[at : at + count] + parts * rounds + parts[:rest]


def _wanderings(seed: int) -> Floats:
    """Return deviations that each are near the one before; standard deviation 1, at most 4."""
    steps = _generator(seed, "wander").standard_normal(WANDERINGS)
    near = np.fft.rfft(0.8 ** np.arange(WANDERINGS))
    deviations: Floats = np.fft.irfft(np.fft.rfft(steps) * near, WANDERINGS)
    deviations /= deviations.std()
    return deviations.clip(-4, 4)


def _generator(*seed: Any) -> np.random.Generator:
    """Return a generator for one purpose, from any seed."""
    return np.random.default_rng(list(" ".join(map(str, seed)).encode()))
