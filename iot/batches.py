"""What a batch of readings comes to: the report that Spark's tasks hand to the driver, and on to the database.

Structs only, without Spark: ``iot.spark`` fills them, ``iot.results`` stores them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from iot.settings import UserError

MAX_TYPES = 200
MAX_LOCATIONS = 1_000
MAX_SENSORS = 100_000
OTHER = "other"

Offsets = dict[int, int]
"""The next offset to read, or where the topic ends, by partition."""


class Identity(msgspec.Struct, frozen=True):
    """The topic that state is about. A topic that was deleted and created again has another id."""

    topic: str
    topic_id: str

    def require(self, found: Identity, what: str, fix: str) -> None:
        """Check that ``found``, stored in ``what``, is about this topic.

        Args:
            fix: the command that resets the state, for the message.

        Raises:
            UserError: it is about another topic.
        """
        if found == self:
            return
        if found.topic != self.topic:
            why = f"is of topic {found.topic}, not {self.topic}"
        else:
            why = f"is of an earlier topic {self.topic}, which was deleted and made again"
        raise UserError(f"{what} {why}; {fix}")


class Total(msgspec.Struct, array_like=True):
    """Totals of one sensor type; ``unit`` is the unit of its newest reading."""

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
    """Kafka's timestamp of the last message of this sensor and type, whichever reading is the latest."""
    first_heard_ms: int
    """Kafka's timestamp of the first message of this sensor and type in the batch."""


class Candidate(msgspec.Struct, array_like=True, gc=False):
    """A reading that may begin, change or end an alarm. Candidates of a batch are ordered by their first three fields.

    Every reading that matters is a candidate; some that do not matter are candidates too.
    """

    arrived_ms: int
    """Greatest of Kafka's timestamps in this partition, up to this message."""
    partition: int
    offset: int
    sensor_id: str
    sensor_type: str
    location: str
    unit: str
    value: float
    time_us: int


class BatchReport(msgspec.Struct):
    """What a batch comes to, besides its windows."""

    messages: int = 0
    """Valid readings, late ones included."""
    rejected: int = 0
    late: int = 0
    """Readings that were too late for one or more of their windows."""
    most_late_s: int = 0
    """How many whole seconds the latest of these was behind the newest reading before it."""
    rejections: dict[str, int] = {}
    """Rejected messages by the kind of their reason, see ``iot.rejections``."""
    first_ms: int | None = None
    """The smallest of Kafka's timestamps of the first messages of the partitions."""
    next_offsets: Offsets = {}
    """The offset up to which everything has been read, at least of each partition that had messages."""
    totals: dict[str, Total] = {}
    """By sensor type."""
    latest: list[Latest] = []
    candidates: Sequence[Candidate] = []
    """In order; empty without rules for alarms."""
    sensor_types: list[str] = []
    """All sensor types with rows of their own after this batch, at most ``MAX_TYPES``."""
    locations: list[str] = []
    """All locations with rows of their own after this batch, at most ``MAX_LOCATIONS``."""


def keep_latest(latest: dict[tuple[str, str], Latest], entry: Latest) -> None:
    """Merge an entry into the latest readings by sensor and type; the newest ``heard_ms`` stays, and the first one."""
    key = (entry.sensor_id, entry.sensor_type)
    known = latest.get(key)
    if known is None:
        latest[key] = entry
        return
    heard_ms = max(known.heard_ms, entry.heard_ms)
    first_heard_ms = min(known.first_heard_ms, entry.first_heard_ms)
    latest[key] = max(known, entry)
    latest[key].heard_ms, latest[key].first_heard_ms = heard_ms, first_heard_ms


def forget_oldest(latest: dict[tuple[str, str], Latest], slack: int = 1) -> None:
    """Drop all but the ``MAX_SENSORS`` heard from most recently, once there are ``slack`` times as many."""
    if len(latest) > slack * MAX_SENSORS:
        heard = sorted(latest, key=lambda key: latest[key].heard_ms, reverse=True)
        for key in heard[MAX_SENSORS:]:
            del latest[key]
