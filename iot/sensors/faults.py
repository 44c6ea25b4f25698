"""Inject faults into a source of readings: malformed messages and late readings. The same seed gives the same faults.

A malformed message takes the place of a reading in the schedule, but no sequence number. The sequence numbers of a
sensor therefore have no gaps, whatever is injected. A late reading is valid; only its timestamp is in the past.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from iot.kafka.sender import Record
from iot.readings import format_timestamp

# How far back a late reading is stamped.
LATE_S = (60, 120)

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Source(Protocol):
    """Where readings come from: a fleet or a recording, or one thread's share of either.

    ``Fleet`` and ``Replay`` explain the methods.
    """

    keys: list[bytes]

    def numbers(self, first: int, last: int) -> Integers: ...

    def count_below(self, number: int) -> int: ...

    def records(self, times_us: Integers) -> list[Record]: ...


class Batch(NamedTuple):
    """Records to send, and whether each is malformed or late; the arrays are as long as ``records``."""

    records: list[Record]
    malformed: Bools
    late: Bools


class Injector:
    """Adds faults to the readings of a source."""

    def __init__(self, source: Source, malformed_ratio: float, late_ratio: float, seed: str) -> None:
        self.source = source
        self._malformed_ratio, self._late_ratio = malformed_ratio, late_ratio
        # Each purpose has its own generator, so that the faults do not depend on how readings are cut into batches.
        self._is_malformed, self._is_late, self._how_late = (
            np.random.default_rng(list(f"{seed} {purpose}".encode())) for purpose in ("malformed", "late", "how late")
        )
        self._chance = random.Random(seed)

    def batch(self, times_us: Integers) -> Batch:
        """Return the next records, one for each of these times of measurement (µs since the epoch)."""
        if not self._malformed_ratio and not self._late_ratio:
            none = np.zeros(len(times_us), bool)
            return Batch(self.source.records(times_us), none, none)
        malformed = self._is_malformed.random(len(times_us)) < self._malformed_ratio
        late = (self._is_late.random(len(times_us)) < self._late_ratio) & ~malformed
        if late.any():
            times_us = times_us.copy()
            times_us[late] -= (self._how_late.uniform(*LATE_S, late.sum()) * 1e6).astype(np.int64)
        records = self.source.records(times_us[~malformed])
        for at in np.flatnonzero(malformed):
            key = self._chance.choice(self.source.keys)
            records.insert(at, {"key": key, "value": malformed_message(key.decode(), int(times_us[at]), self._chance)})
        return Batch(records, malformed, late)


def malformed_message(sensor_id: str, time_us: int, chance: random.Random) -> bytes:
    """Return a message that the validator rejects, of a kind that ``chance`` picks."""
    fields = {
        "sensor_id": sensor_id,
        "sensor_type": "temperature",
        "location": "building_a",
        "value": round(chance.uniform(18, 26), 2),
        "unit": "celsius",
        "timestamp": format_timestamp(time_us),
    }
    return chance.choice(list(KINDS.values()))(fields, chance)


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _without(name: str) -> Callable[[dict[str, Any], random.Random], bytes]:
    return lambda fields, _: _json({key: value for key, value in fields.items() if key != name})


def _with(name: str, value: Any) -> Callable[[dict[str, Any], random.Random], bytes]:
    return lambda fields, _: _json(fields | {name: value})


def _cut_short(fields: dict[str, Any], chance: random.Random) -> bytes:
    whole = _json(fields)
    return whole[: chance.randrange(1, len(whole))]


def _from_the_future(fields: dict[str, Any], chance: random.Random) -> bytes:
    time = datetime.fromisoformat(fields["timestamp"]) + timedelta(hours=chance.randrange(1, 24))
    return _json(fields | {"timestamp": time.isoformat()})


KINDS: dict[str, Callable[[dict[str, Any], random.Random], bytes]] = {
    "empty": lambda fields, chance: b"",
    "not JSON": lambda fields, chance: f"{fields['sensor_id']};{fields['value']}".encode(),
    "cut short": _cut_short,
    "text after the object": lambda fields, chance: _json(fields) + b";",
    "invalid UTF-8": lambda fields, chance: _json(fields).replace(b"building_a", b"b\xe2timent_a"),
    "no sensor_id": _without("sensor_id"),
    "no value": _without("value"),
    "no timestamp": _without("timestamp"),
    "sensor_id is a number": _with("sensor_id", 7),
    "value is a string": lambda fields, chance: _json(fields | {"value": str(fields["value"])}),
    "value is a boolean": _with("value", True),
    "value NaN": _with("value", float("nan")),
    "value too large": lambda fields, chance: _json(fields | {"value": None}).replace(b"null", b"1e999"),
    "timestamp is not a time": _with("timestamp", "yesterday"),
    "timestamp in the future": _from_the_future,
    "location too long": _with("location", "building_a" * 13),
}
