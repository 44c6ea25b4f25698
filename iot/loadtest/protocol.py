"""The messages between ``trial`` and its worker processes: one line of JSON each.

``trial`` writes a ``WorkerJob``. The worker answers ``Ready``, and ``trial`` writes the moment to start. The worker
reports ``WorkerProgress`` regularly and one ``Outcome`` at the end. ``Refused`` can replace any of its messages.
"""

from __future__ import annotations

import msgspec

from iot.loadtest.plan import Plan


class WorkerJob(msgspec.Struct, frozen=True):
    """The readings that one worker sends. ``threads`` numbers its threads, from 0, among those of the whole plan."""

    plan: Plan
    bootstrap_servers: str
    properties: dict[str, str]
    topic: str
    run_id: str
    threads: list[int]


class Ready(msgspec.Struct, tag=True):
    """The worker is connected and waits for the moment to start, in seconds of the monotonic clock."""


class WorkerProgress(msgspec.Struct, tag=True):
    """Readings so far, at a moment of the monotonic clock.

    ``latencies`` is the encoded histogram of those measured since the report before; empty if there are none.
    """

    at_s: float
    sent: int
    acknowledged: int
    failed: int
    latencies: str = ""


class Outcome(msgspec.Struct, tag=True):
    """The result of a worker.

    The worker ended at ``ended_s``, when its last reading was acknowledged or given up. ``failed`` includes readings
    that were given up. ``latencies`` and ``delays`` are encoded histograms.
    """

    ended_s: float
    sent: int
    acknowledged: int
    failed: int
    error: str
    latencies: str
    delays: str


class Refused(msgspec.Struct, tag=True):
    """The worker cannot continue; ``why`` is shown to the user."""

    why: str


Message = Ready | WorkerProgress | Outcome | Refused
