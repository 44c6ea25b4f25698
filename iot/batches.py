"""What a batch reports of itself, what the next one has to know of it, and how many names have rows of their own."""

from __future__ import annotations

import msgspec

from iot.settings import LATENESS_S, UserError

MAX_TYPES = 200
MAX_LOCATIONS = 1_000
MAX_SENSORS = 100_000
OTHER = "other"

# Spark's first watermark is the epoch: what ends before it never reaches a window.
FIRST_NEWEST_US = LATENESS_S * 1_000_000


class Context(msgspec.Struct):
    """What a batch has to know of those before it."""

    newest_us: int = FIRST_NEWEST_US
    """The newest event time of all valid readings before this batch, in whole milliseconds as Spark's watermark is."""
    sensor_types: list[str] = []
    """The sensor types that have rows of their own, at most ``MAX_TYPES``."""
    locations: list[str] = []


class Total(msgspec.Struct, array_like=True):
    """Running totals of one sensor type; ``unit`` is that of its newest reading."""

    count: int
    total: float
    min: float
    max: float
    newest_us: int
    unit: str


class Latest(msgspec.Struct, array_like=True, order=True):
    """The latest reading of one sensor and type: greatest event time, then offset."""

    time_us: int
    offset: int
    partition: int
    sensor_id: str
    sensor_type: str
    location: str
    value: float
    unit: str
    heard_ms: int
    """Kafka's timestamp of the last message of this sensor and type, whichever is its latest reading."""


class Report(msgspec.Struct):
    """What a batch did beside its windows."""

    messages: int = 0
    """Valid readings, late ones included."""
    rejected: int = 0
    late: int = 0
    """Readings that some of their windows, or all, had to do without."""
    latest_by_us: int = 0
    """How far the latest of the late was behind the newest reading before it."""
    newest_us: int = FIRST_NEWEST_US
    """The newest event time after this batch, this batch included."""
    next_offsets: dict[int, int] = {}
    """By partition that had messages: the offset after the last of them."""
    totals: dict[str, Total] = {}
    """By sensor type."""
    latest: list[Latest] = []
    sensor_types: list[str] = []
    """All that have rows of their own after this batch."""
    locations: list[str] = []

    def context(self) -> Context:
        """The context of the batch after this one."""
        return Context(self.newest_us // 1000 * 1000, self.sensor_types, self.locations)


encode_report = msgspec.msgpack.Encoder().encode
decode_report = msgspec.msgpack.Decoder(Report).decode


def keep_latest(latest: dict[tuple[str, str], Latest], entry: Latest) -> None:
    """Keep of one sensor and type the latest reading, and when it was last heard from."""
    key = (entry.sensor_id, entry.sensor_type)
    known = latest.get(key)
    if known is None:
        latest[key] = entry
        return
    heard_ms = max(known.heard_ms, entry.heard_ms)
    latest[key] = max(known, entry)
    latest[key].heard_ms = heard_ms


def forget_oldest(latest: dict[tuple[str, str], Latest], slack: int = 1) -> None:
    """Drop all but the ``MAX_SENSORS`` heard from most recently, once there are ``slack`` times as many."""
    if len(latest) > slack * MAX_SENSORS:
        heard = sorted(latest, key=lambda key: latest[key].heard_ms, reverse=True)
        for key in heard[MAX_SENSORS:]:
            del latest[key]


class Identity(msgspec.Struct, frozen=True):
    """The topic that a checkpoint is about; made anew, a topic of the same name has another id."""

    topic: str
    topic_id: str

    def require(self, found: Identity, what: str, cure: str) -> None:
        """Raises ``UserError`` when ``found``, kept in ``what``, is about another topic."""
        if found == self:
            return
        if found.topic != self.topic:
            why = f"is of topic {found.topic}, not {self.topic}"
        else:
            why = f"is of an earlier topic {self.topic}, which was deleted and made again"
        raise UserError(f"{what} {why}; {cure}")


Offsets = dict[int, int]
"""The next offset to read, or where the topic ends, by partition."""
