"""How sending goes: what was sent, whether Kafka is away, a status line and a summary."""

from __future__ import annotations

import threading
from collections import deque

from iot.kafka.sender import Sender
from iot.sensors.faults import Batch
from iot.sensors.pacing import Delays

AWAY_S = 3.0
RATE_OVER_S = 5.0
FAILURES_EVERY_S = 10.0


class Tally:
    """What was sent so far, besides the sender's own account; threads share it."""

    def __init__(self) -> None:
        self.malformed = self.late = 0
        self.last_s = 0.0
        self.delays = Delays()
        self._lock = threading.Lock()

    def add(self, batch: Batch, accepted: int, now_s: float) -> None:
        """Count the first ``accepted`` of a batch, handed to the client at ``now_s``."""
        with self._lock:
            self.malformed += int(batch.malformed[:accepted].sum())
            self.late += int(batch.late[:accepted].sum())
            self.last_s = max(self.last_s, now_s)


class Watch:
    """Notices from the sender's account what people want to know at once: Kafka is away or back, readings failed."""

    def __init__(self, address: str, now_s: float) -> None:
        self._address = address
        self._acknowledged = self._failed = 0
        self._heard_s = self._failures_due_s = now_s
        self._away = False

    def look(self, acknowledged: int, in_flight: int, failed: int, error: str, now_s: float) -> list[str]:
        """Lines to print now."""
        lines = []
        if acknowledged > self._acknowledged:
            if self._away:
                lines.append(f"Kafka at {self._address} is back after {now_s - self._heard_s:.0f} s")
            self._away = False
            self._acknowledged = acknowledged
            self._heard_s = now_s
        elif not in_flight and not self._away:
            self._heard_s = now_s
        elif now_s - self._heard_s >= AWAY_S and not self._away:
            self._away = True
            lines.append(
                f"Kafka at {self._address} has acknowledged nothing for {AWAY_S:.0f} s; trying until it does, "
                "all that was sent is kept"
            )
        if failed > self._failed and now_s >= self._failures_due_s:
            lines.append(f"FAILED {failed - self._failed:,} messages: {error}")
            self._failed = failed
            self._failures_due_s = now_s + FAILURES_EVERY_S
        return lines


class Progress:
    """The status line and the summary of a run that began at ``start_s``."""

    def __init__(self, sender: Sender, tally: Tally, rate_per_s: float, limit: float, start_s: float) -> None:
        self._sender, self._tally = sender, tally
        self._rate_per_s, self._limit, self._start_s = rate_per_s, limit, start_s
        self._recent: deque[tuple[float, int]] = deque([(start_s, 0)])

    def status(self, now_s: float) -> str:
        """One line; the rate is that of the last seconds."""
        accepted, acknowledged, failed = self._sender.accepted, self._sender.acknowledged, self._sender.failed
        while len(self._recent) > 1 and now_s - self._recent[0][0] > RATE_OVER_S:
            self._recent.popleft()
        then_s, before = self._recent[0]
        self._recent.append((now_s, accepted))
        line = (
            f"{rate_text((accepted - before) / max(now_s - then_s, 1e-3))}, {accepted:,} sent, "
            f"{acknowledged:,} acknowledged, {failed:,} failed, {max(0, accepted - acknowledged - failed):,} in flight"
        )
        behind_s = min(now_s - self._start_s, self._limit / self._rate_per_s) - accepted / self._rate_per_s
        return f"{line}, {behind_s:.0f} s behind" if behind_s >= max(1, 2 / self._rate_per_s) else line

    def summary(self, in_flight: int, run_id: str) -> str:
        """Several lines, after the last message is sent."""
        sender, delays = self._sender, self._tally.delays
        # The last message, too, has its share of the time.
        took_s = max(0.0, self._tally.last_s - self._start_s) + 1 / self._rate_per_s
        p50, p99, longest = (
            1000 * each_s for each_s in (delays.percentile_s(50), delays.percentile_s(99), delays.max_s)
        )
        lines = [
            f"sent {sender.accepted:,} messages in {took_s:,.1f} s "
            f"({rate_text(sender.accepted / took_s)} of {rate_text(self._rate_per_s)} asked for)",
            f"acknowledged: {sender.accepted - sender.failed - in_flight:,}",
            f"failed: {sender.failed:,}" + (f" ({sender.last_error})" if sender.failed else ""),
        ]
        if in_flight:
            lines.append(f"not acknowledged: {in_flight:,} (Kafka may or may not have them)")
        lines += [
            f"malformed: {self._tally.malformed:,}",
            f"late: {self._tally.late:,}",
            f"sent after they were due: p50 {p50:,.1f} ms, p99 {p99:,.1f} ms, max {longest:,.1f} ms",
            f"run_id: {run_id}",
        ]
        return "\n".join(lines)


def rate_text(rate_per_s: float) -> str:
    return f"{rate_per_s:,.0f}/s" if rate_per_s >= 10 else f"{rate_per_s:.2g}/s"
