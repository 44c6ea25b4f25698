"""Threads that follow readings: they note what arrives in Kafka and at the dashboard, and when.

Arrivals are noted by key. Comparing them with the expected keys shows which were lost and which were doubled.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from iot import alerts
from iot.alerts import Delivered
from iot.batches import Offsets
from iot.kafka.client_config import confluent_config
from iot.loadtest.dashboard_client import DashboardClient
from iot.loadtest.latency import Latencies, over_time
from iot.loadtest.results import Stage
from iot.readings import Rejected, decode, format_timestamp
from iot.settings import SLIDE_S, WINDOW_S, Kafka, reason

# Maximum silence on the event stream. Its heartbeat comes every 15 s.
SILENT_S = 40.0
# How long to wait for a record, and maximum number of records read at once.
POLL_S, AT_ONCE = 0.1, 10_000
# How often to read the windows. Their latency is measured no more finely than this.
WINDOWS_EVERY_S = 0.1
# How long to wait before a retry.
RETRY_S = 0.5
# Maximum number of lost keys and of doubled keys that are named.
MAX_NAMED = 5

Expected = Mapping[Hashable, Sequence[float]]
"""By key, the moments at which its arrivals were due, in order."""


class Arrivals:
    """The moments of arrival, by key. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times_s: defaultdict[Hashable, list[float]] = defaultdict(list)
        self.count = 0

    def add(self, key: Hashable, now_s: float, times: int = 1) -> None:
        with self._lock:
            self._times_s[key] += [now_s] * times
            self.count += times

    def times_s(self, key: Hashable) -> list[float]:
        """The moments of arrival of one key, in order."""
        with self._lock:
            return list(self._times_s.get(key, ()))

    def compare(self, name: str, expected: Expected) -> Stage:
        """Compare with what was expected. The first arrival of a key counts as the first that was due."""
        with self._lock:
            arrived = {key: list(times_s) for key, times_s in self._times_s.items()}
        latencies, lost, doubled = Latencies(), Counter[Hashable](), Counter[Hashable]()
        pairs: list[tuple[float, float]] = []
        for key in expected.keys() | arrived.keys():
            due_s, came_s = expected.get(key, ()), arrived.get(key, ())
            pairs += [(due, came - due) for due, came in zip(due_s, came_s, strict=False)]
            lost[key] += max(0, len(due_s) - len(came_s))
            doubled[key] += max(0, len(came_s) - len(due_s))
        latencies.add([latency_s for _, latency_s in pairs])
        start_s = min((due_s[0] for due_s in expected.values() if due_s), default=0.0)
        which = [f"lost {key} {n} times" for key, n in lost.most_common(MAX_NAMED) if n]
        which += [f"doubled {key} {n} times" for key, n in doubled.most_common(MAX_NAMED) if n]
        return Stage(
            name=name,
            expected=sum(map(len, expected.values())),
            arrived=sum(map(len, arrived.values())),
            lost=lost.total(),
            doubled=doubled.total(),
            latency_ms=latencies.milliseconds(),
            latency_curve=latencies.curve(),
            latency_over_time=over_time(pairs, start_s),
            which=which,
        )


class Follower(ABC):
    """A thread that notes arrivals until it is closed. ``away`` says why it cannot at the moment."""

    def __init__(self) -> None:
        self.arrivals = Arrivals()
        self.away = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (OSError, ValueError, KeyError, http.client.HTTPException, KafkaException) as error:
                self.away = reason(error)
                self._stop.wait(RETRY_S)

    @abstractmethod
    def _follow(self) -> None:
        """Note arrivals until stopped; after an error it is called again."""


class KafkaFollower(Follower):
    """Reads a topic from the offsets ``begin`` on."""

    def __init__(self, kafka: Kafka, topic: str, begin: Offsets) -> None:
        super().__init__()
        self._kafka, self._topic = kafka, topic
        self._offsets = dict(begin)

    def _follow(self) -> None:
        # kafka-python needs a third of a core for 1,000 single readings a second, so librdkafka reads them. It requires
        # a group name, but it joins no group: partitions are assigned, and nothing is committed.
        settings = {"group.id": "load-test", "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
        settings |= {"auto.offset.reset": "earliest", "error_cb": self._note_away, "log_level": 0}
        consumer = Consumer(confluent_config(self._kafka) | settings)
        try:
            consumer.assign([TopicPartition(self._topic, *place) for place in self._offsets.items()])
            while not self._stop.is_set():
                if (first := consumer.poll(POLL_S)) is None:
                    continue
                now_s = time.monotonic()
                messages: list[Any] = [first, *consumer.consume(AT_ONCE, 0)]
                for message in messages:
                    if error := message.error():
                        self._note_away(error)
                        continue
                    self.away = ""
                    self._offsets[message.partition()] = message.offset() + 1
                    self._note(message.partition(), message.offset(), message.value(), now_s)
        finally:
            consumer.close()

    def _note_away(self, error: KafkaError) -> None:
        # Reading needs no permission for the group. librdkafka reports a missing one once and continues.
        if error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
            self.away = error.str()

    @abstractmethod
    def _note(self, partition: int, offset: int, value: bytes | None, now_s: float) -> None:
        """Take one record of the topic."""


class TopicFollower(KafkaFollower):
    """Reads the readings of one run back from the topic: notes (sensor, sequence), and the place of each."""

    def __init__(self, kafka: Kafka, topic: str, begin: Offsets, run_id: str) -> None:
        super().__init__(kafka, topic, begin)
        self._run_id = run_id
        self.places: dict[str, tuple[str, int]] = {}
        """(Sensor, sequence) of each reading, by the id of an alert about it."""

    def _note(self, partition: int, offset: int, value: bytes | None, now_s: float) -> None:
        try:
            reading = decode(value)
        except Rejected:
            return
        if reading.run_id == self._run_id and reading.sequence is not None:
            key = (reading.sensor_id, reading.sequence)
            self.places[alerts.alert_id(self._topic, partition, offset)] = key
            self.arrivals.add(key, now_s)


class StreamFollower(Follower):
    """Listens to the event stream and notes alerts and firing alarms about one location, by the id of the alert.

    The alert of an alarm is that of its first reading.
    """

    def __init__(self, dashboard: DashboardClient, location: str) -> None:
        super().__init__()
        self.alarms = Arrivals()
        self._dashboard, self._location = dashboard, location
        self._last_id = ""
        self.opened = threading.Event()

    def _follow(self) -> None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        with self._dashboard.open("/api/stream", SILENT_S, Accept="text/event-stream", **headers) as response:
            event = event_id = ""
            while not self._stop.is_set():
                line = response.readline()
                if not line:
                    raise ConnectionError("the event stream ended")
                # The dashboard sends a first line as soon as the stream is open.
                self.opened.set()
                name, _, value = line.decode().strip().partition(": ")
                if name == "event":
                    event = value
                elif name == "id":
                    event_id = value
                elif name == "data" and self._wanted(event):
                    self._note(event, json.loads(value), time.monotonic())
                    self._last_id = event_id

    def _wanted(self, event: str) -> bool:
        return event in ("alert", "alarm")

    def _note(self, event: str, content: dict[str, Any], now_s: float) -> None:
        if content["location"] != self._location:
            return
        if event == "alert":
            self.arrivals.add(content["alert_id"], now_s)
        elif content["state"] == "firing":
            self.alarms.add(content["alarm_id"].removesuffix(f"-{content['severity']}"), now_s)


class WindowsFollower(Follower):
    """Reads the windows of one location and notes by how much each count grew, by window end and sensor type.

    Windows that ended before ``since_us``, in microseconds since the epoch, are not read. ``on_answer`` is called with
    the moment of each answer and how long it took, in seconds.
    """

    def __init__(
        self,
        dashboard: DashboardClient,
        location: str,
        since_us: int,
        on_answer: Callable[[float, float], None] = lambda now_s, took_s: None,
        every_s: float = WINDOWS_EVERY_S,
    ) -> None:
        super().__init__()
        self.since_us = since_us
        self._dashboard, self._location = dashboard, location
        self._on_answer, self._every_s = on_answer, every_s
        self._counts: Counter[Hashable] = Counter()

    def _follow(self) -> None:
        while not self._stop.wait(self._every_s):
            query = urllib.parse.urlencode({"location": self._location, "since": format_timestamp(self.since_us)})
            asked_s = time.monotonic()
            rows = self._dashboard.get(f"/api/windows?{query}")["windows"]
            now_s = time.monotonic()
            self._on_answer(now_s, now_s - asked_s)
            for row in rows:
                key = (int(datetime.fromisoformat(row["end"]).timestamp()), row["sensor_type"])
                if row["count"] > self._counts[key]:
                    self.arrivals.add(key, now_s, row["count"] - self._counts[key])
                    self._counts[key] = row["count"]


class AlertNotes:
    """Notes the ids of alerts about one location that an ``AlertFeed`` delivers."""

    def __init__(self, location: str) -> None:
        self.arrivals = Arrivals()
        self._location = location

    def note(self, delivered: list[Delivered], _: Offsets) -> None:
        now_s = time.monotonic()
        for one in delivered:
            if one.alert.location == self._location:
                self.arrivals.add(one.alert.alert_id, now_s)


def window_ends(time_us: int) -> list[int]:
    """The ends of the windows that a reading belongs to, in seconds since the epoch."""
    first = time_us // 1_000_000 // SLIDE_S * SLIDE_S + SLIDE_S
    return list(range(first, first + WINDOW_S, SLIDE_S))
