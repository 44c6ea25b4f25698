"""What the pipeline does about alarms, besides writing them with each batch.

It reads the active ones at the start, judges every second which sensors are silent and which silences are in effect,
sends changes to the topic of alarms, and notifies the receivers of ``--notify``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from iot.alarms.clocks import BrokerClocks
from iot.alarms.model import Alarm
from iot.alarms.notifier import Notifier
from iot.alarms.notify_file import Notify
from iot.alarms.silent import Observation
from iot.alerts import Rules
from iot.batches import Latest, Offsets
from iot.kafka.alarm_publisher import AlarmPublisher
from iot.results.store import Store
from iot.settings import Kafka

# How long the notifier sees an alarm after its end. It asks for one that it told, and sees no more.
RESOLVED_S = 3_600


class PipelineAlarms:
    """The alarms of a running pipeline. ``active`` are those that ``Store.write_batch`` changes."""

    def __init__(
        self,
        store: Store,
        kafka: Kafka,
        rules: Rules,
        topic: str,
        start: Offsets,
        notify: Notify,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            topic: of the readings.
            start: the offsets at which reading them began.
            notify: the receivers of notifications.
            say: prints a line.
            clock: the time in seconds since the epoch.
        """
        self._store, self._start, self._clock = store, start, clock
        self._observation = Observation()
        self._clocks = BrokerClocks()
        self._lock = threading.Lock()
        self._say = say
        self._clocks_differ = False
        self._publisher = AlarmPublisher(kafka, store.alarms.changes, store.alarms.delete_changes)
        self._notifier = Notifier(notify, self._recent, store.notifications, report=say, find=store.alarms.find)
        self.active = store.active_alarms(rules, topic)

    @property
    def outage(self) -> str | None:
        """Why changes cannot be sent; None while they can."""
        return self._publisher.outage

    @property
    def notifications(self) -> list[tuple[str, str, int]]:
        """Receiver, result and number of deliveries since the start."""
        return [(receiver, result, count) for (receiver, result), count in self._notifier.results().items()]

    def start(self) -> None:
        """Start to send changes and notifications."""
        self._publisher.start()
        self._notifier.start()

    def close(self) -> None:
        """Send the changes that wait, if Kafka answers, and stop."""
        self._notifier.stop()
        self._publisher.close()

    def read(self) -> None:
        """Read the active alarms before a query starts, and end those that the present rules do not know.

        Raises: see ``Store``.
        """
        self.active.read()
        self.active.apply_rules(int(self._clock() * 1_000_000))

    def compare_clocks(self, latest: Sequence[Latest]) -> None:
        """Compare the clocks of Kafka's brokers with this machine's, by the readings of a batch that was just read."""
        with self._lock:
            self._clocks.compare(latest, int(self._clock() * 1_000))

    def look(self, at_s: float, ends: Offsets | None) -> None:
        """Judge sensors and silences after a look at the topic.

        Args:
            at_s: a moment before Kafka was asked.
            ends: the end offsets; None if Kafka does not answer.

        Raises: see ``Store``.
        """
        at_ms = int(at_s * 1_000)
        with self._lock:
            self._clocks.look(at_ms, ends)
            distrusted, problem = set(self._clocks.ahead_ms), self._clocks.problem()
        if bool(problem) != self._clocks_differ:
            self._clocks_differ = bool(problem)
            self._say(problem or "the clocks of Kafka's brokers agree with this machine's again")
        self._observation.look(at_ms, ends, self._start | self._store.offsets(), distrusted)
        now_us = int(at_s * 1_000_000)
        self.active.judge_silence(self._observation, now_us)
        self.active.refresh_silences(now_us)

    def _recent(self) -> list[Alarm]:
        return self._store.alarms.recent(int((self._clock() - RESOLVED_S) * 1_000))
