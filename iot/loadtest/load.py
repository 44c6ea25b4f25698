"""The readings of an end-to-end test, and what must arrive for each of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

import numpy as np

from iot import readings
from iot.kafka.sender import MarkedRecord
from iot.loadtest.follow import Expected, window_ends
from iot.readings import STANDARD_UNITS, Message, format_timestamp
from iot.sensors.pacing import Schedule, WallClock

SENSORS = 20
# For each type a value within the default rules and a value that breaks one.
VALUES = {"temperature": (22.5, 34.0), "humidity": (50.0, 24.0), "pressure": (1014.0, 1037.0)}
# One in this many readings breaks a rule.
ALERT_EVERY = 20


class Load:
    """The readings of one run. Reading n is due at start + n / rate and comes from sensor n modulo ``SENSORS``.

    A sensor's next reading after one that breaks a rule is within the rules. So each such reading fires an alarm of its
    own, and each alarm ends.
    """

    def __init__(self, messages: int, rate_per_s: float, run_id: str, location: str, start_s: float) -> None:
        self._run_id, self._location = run_id, location
        self.schedule = Schedule(rate_per_s, start_s)
        numbers = np.arange(messages)
        self.due_s: list[float] = self.schedule.due_s(numbers).tolist()
        self.times_us: list[int] = WallClock().time_us(self.schedule.due_s(numbers)).tolist()

    def key(self, number: int) -> tuple[str, int]:
        """The sensor and sequence of a reading."""
        return f"load_{number % SENSORS}", number // SENSORS

    def breaks_rule(self, number: int) -> bool:
        # All sensors break a rule in turn, but the last reading of none does.
        is_last = number >= len(self.due_s) - SENSORS
        return not is_last and number % ALERT_EVERY == number // ALERT_EVERY % ALERT_EVERY

    def record(self, number: int) -> MarkedRecord:
        sensor_id, sequence = self.key(number)
        sensor_type = self.sensor_type(number)
        message = Message(
            sensor_id,
            sensor_type,
            VALUES[sensor_type][self.breaks_rule(number)],
            format_timestamp(self.times_us[number]),
            self._location,
            STANDARD_UNITS[sensor_type],
            "good",
            self._run_id,
            sequence,
        )
        return {"key": sensor_id.encode(), "value": readings.encode(message)}

    def sensor_type(self, number: int) -> str:
        return list(VALUES)[number % SENSORS % len(VALUES)]

    def expected_readings(self) -> Expected:
        return {self.key(number): [due] for number, due in enumerate(self.due_s)}

    def expected_alerts(self, places: dict[str, tuple[str, int]]) -> Expected:
        """By alert id. A reading whose place in the topic is unknown gets a key that no alert has."""
        ids = {key: alert_id for alert_id, key in places.items()}
        return {
            ids.get(self.key(number), f"of {self.key(number)}"): [due]
            for number, due in enumerate(self.due_s)
            if self.breaks_rule(number)
        }

    def expected_windows(self) -> Expected:
        expected: defaultdict[Hashable, list[float]] = defaultdict(list)
        for number, due in enumerate(self.due_s):
            for end_s in window_ends(self.times_us[number]):
                expected[end_s, self.sensor_type(number)].append(due)
        return expected
