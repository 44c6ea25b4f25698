"""What the producer shows: notices of outages and failures, a status line, and a summary."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from iot.kafka.sender import Sender
from iot.sensors.sending import PacedSending, SendingThreads
from iot.terminal import StatusLine

# How often to look for something to show.
LOOK_S = 0.1
# How long to wait for the next acknowledgement after a stop.
STOP_WAIT_S = 10.0

# How long Kafka may acknowledge nothing before a notice says so.
OUTAGE_AFTER_S = 3.0
# How far back the rate in the status line looks.
RATE_OVER_S = 5.0
# How often failures are reported.
FAILURES_EVERY_S = 10.0


class DeliveryMonitor:
    """Finds what users want to know at once: Kafka stopped acknowledging, it is back, or messages failed."""

    def __init__(self, sender: Sender, address: str, now_s: float, why: Callable[[], str] = str) -> None:
        """``why`` finds out which address fails, when an outage begins; an empty text if it cannot."""
        self._sender, self._address, self._why = sender, address, why
        self._acknowledged = self._failed = 0
        self._acknowledged_s = self._failures_due_s = now_s
        self._is_out = False

    def notices(self, now_s: float) -> list[str]:
        """Return the lines to print now. Call this several times a second."""
        acknowledged, in_flight, failed = self._sender.acknowledged, self._sender.in_flight, self._sender.failed
        lines = []
        if acknowledged > self._acknowledged:
            if self._is_out:
                lines.append(f"Kafka at {self._address} is back after {now_s - self._acknowledged_s:.0f} s")
            self._is_out = False
            self._acknowledged = acknowledged
            self._acknowledged_s = now_s
        elif not in_flight and not self._is_out:
            self._acknowledged_s = now_s
        elif now_s - self._acknowledged_s >= OUTAGE_AFTER_S and not self._is_out:
            self._is_out = True
            why = f" ({found})" if (found := self._why()) else ""
            lines.append(
                f"Kafka at {self._address} has acknowledged nothing for {OUTAGE_AFTER_S:.0f} s{why}; "
                "retrying until it does, all messages are kept"
            )
        if failed > self._failed and now_s >= self._failures_due_s:
            lines.append(f"FAILED {failed - self._failed:,} messages: {self._sender.last_error}")
            self._failed = failed
            self._failures_due_s = now_s + FAILURES_EVERY_S
        return lines


class Progress:
    """The status line and the summary of a run."""

    def __init__(self, sending: PacedSending) -> None:
        self._sender, self._counts = sending.sender, sending.counts
        self._rate_per_s, self._limit = sending.schedule.rate_per_s, sending.limit
        self._start_s = sending.schedule.start_s
        self._recent: deque[tuple[float, int]] = deque([(self._start_s, 0)])

    def status(self, now_s: float) -> str:
        """Return one line. Its rate is that of the last few seconds."""
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
        """Return several lines, to print after the last message is sent."""
        sender, delays = self._sender, self._counts.delays
        # The last message also takes its interval.
        took_s = max(0.0, self._counts.last_s - self._start_s) + 1 / self._rate_per_s
        p50, p99, longest = (
            1000 * each_s for each_s in (delays.percentile_s(50), delays.percentile_s(99), delays.max_s)
        )
        lines = [
            f"sent {sender.accepted:,} messages in {took_s:,.1f} s "
            f"({rate_text(sender.accepted / took_s)}, target {rate_text(self._rate_per_s)})",
            f"acknowledged: {sender.accepted - sender.failed - in_flight:,}",
            f"failed: {sender.failed:,}" + (f" ({sender.last_error})" if sender.failed else ""),
        ]
        if in_flight:
            lines.append(f"not acknowledged: {in_flight:,} (they may or may not be in Kafka)")
        lines += [
            f"malformed: {self._counts.malformed:,}",
            f"late: {self._counts.late:,}",
            f"delay after the due time: p50 {p50:,.1f} ms, p99 {p99:,.1f} ms, max {longest:,.1f} ms",
            f"run_id: {run_id}",
        ]
        return "\n".join(lines)


def wait_for_delivery(
    threads: SendingThreads, sending: PacedSending, monitor: DeliveryMonitor, progress: Progress, status: StatusLine
) -> int:
    """Show progress until every message is acknowledged or has failed; returns how many are still in flight.

    Some are still in flight only if the run was stopped and no acknowledgement came for ``STOP_WAIT_S``.
    """
    sender, stop = sending.sender, sending.stop

    def show() -> None:
        status.print(*monitor.notices(time.monotonic()))
        status.update(lambda: progress.status(time.monotonic()))

    while not threads.wait(LOOK_S):
        show()
    is_announced, acknowledged, acknowledged_s = False, -1, math.inf
    while in_flight := sender.flush(LOOK_S):
        show()
        if stop.is_set() and not is_announced:
            is_announced = True
            status.print(
                f"stopping once {in_flight:,} messages are acknowledged, or after {STOP_WAIT_S:.0f} s without an "
                "acknowledgement; Ctrl-C again stops at once"
            )
        if sender.acknowledged > acknowledged or not stop.is_set():
            acknowledged, acknowledged_s = sender.acknowledged, time.monotonic()
        if time.monotonic() - acknowledged_s >= STOP_WAIT_S:
            break
    show()
    return in_flight


def rate_text(rate_per_s: float) -> str:
    return f"{rate_per_s:,.0f}/s" if rate_per_s >= 10 else f"{rate_per_s:.2g}/s"
