"""Whether the clocks of Kafka's brokers agree with this machine's, as the readings show.

Silence is the time between Kafka's timestamp of a reading and a moment of this machine's clock. With a broker whose
clock is behind, every sensor would seem silent. A reading arrived after the last look at which its partition still
ended before it, and before its batch was written. Kafka's timestamp of it must be between these moments. Everything
here is pure: times are handed in, in milliseconds since the epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from operator import itemgetter

from iot.batches import Latest, Offsets

# Maximum difference of the clocks. Clocks that are set by NTP differ by much less.
MAX_DIFFERENCE_MS = 5_000
# How long a look is remembered. Readings that waited longer say nothing about the clock.
LOOKS_MS = 60_000


class BrokerClocks:
    """The difference of the clocks by partition, because each partition has the clock of the broker that leads it."""

    def __init__(self) -> None:
        self._looks: deque[tuple[int, Offsets]] = deque()
        self.ahead_ms: dict[int, int] = {}
        """By how much a broker's clock is ahead at least, negative if it is behind; only clocks that do not agree."""

    def look(self, at_ms: int, ends: Offsets | None) -> None:
        """Take note of a look at the topic.

        Args:
            at_ms: a moment before Kafka was asked.
            ends: the end of each partition, or None if Kafka does not answer.
        """
        if self._looks and at_ms < self._looks[-1][0]:
            # This machine's clock was set back.
            self._looks.clear()
            self.ahead_ms = {}
        if ends is not None:
            self._looks.append((at_ms, ends))
        while self._looks and self._looks[0][0] < at_ms - LOOKS_MS:
            self._looks.popleft()

    def compare(self, latest: Iterable[Latest], now_ms: int) -> None:
        """Compare Kafka's timestamps of the readings of a batch, after the batch was read.

        Where these contradict each other, because the topic has the timestamps of producers, the clocks count as equal.
        """
        partitions = {partition for _, ends in self._looks for partition in ends}
        looks = {
            number: [(ends[number], at_ms) for at_ms, ends in self._looks if number in ends] for number in partitions
        }
        least_ms: dict[int, int] = {}
        most_ms: dict[int, int] = {}
        for entry in latest:
            of_partition = looks.get(entry.partition, [])
            before = bisect_right(of_partition, entry.offset, key=itemgetter(0))
            if before == 0:
                # It may have waited for long.
                continue
            # These timestamps are of this reading or of its neighbours, so the true difference is between the two.
            at_least, at_most = entry.first_heard_ms - now_ms, entry.heard_ms - of_partition[before - 1][1]
            least_ms[entry.partition] = max(at_least, least_ms.get(entry.partition, at_least))
            most_ms[entry.partition] = min(at_most, most_ms.get(entry.partition, at_most))
        for partition, least in least_ms.items():
            most = most_ms[partition]
            if least <= most and (least > MAX_DIFFERENCE_MS or most < -MAX_DIFFERENCE_MS):
                self.ahead_ms[partition] = max(least, 0) or most
            else:
                self.ahead_ms.pop(partition, None)

    def problem(self) -> str | None:
        """Say which clocks do not agree; None if all do."""
        if not self.ahead_ms:
            return None
        partition, worst_ms = max(self.ahead_ms.items(), key=lambda item: (abs(item[1]), -item[0]))
        side = "ahead of" if worst_ms > 0 else "behind"
        numbers = ", ".join(map(str, sorted(self.ahead_ms)))
        return (
            f"the clock of the Kafka broker with partition {partition} is {abs(worst_ms) / 1_000:.0f} s {side} this "
            f"machine's: set both by NTP; until then no sensor in partition {numbers} counts as silent"
        )
