"""What a webhook was told about alarms, and whether that is what it must be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import msgspec

from iot.alarms.model import Alarm
from iot.settings import ALARMS_TOPIC
from tests.support import oracle
from tests.support.alarms_of_topic import Alarms

# Each alarm is a group of its own, so that no message repeats what another one told.
NOTIFY = """
group_by = ["sensor_id", "rule", "severity"]
group_wait = "0s"
group_interval = "1s"

[[receiver]]
name = "hook"
webhook = "{url}"
"""
# An alarm that fires for this long must be told. The notifier looks every second.
LASTS_S = 4.0

Span = tuple[float, float]
"""From and until, in seconds since the epoch."""


class Told(NamedTuple):
    """How often each alarm was told as firing, and as resolved, by alarm id."""

    firing: Counter[str]
    resolved: Counter[str]

    @property
    def repeats(self) -> int:
        return sum(times - 1 for counts in self for times in counts.values())


def told(bodies: Iterable[Any]) -> Told:
    """Count the alarms in the bodies that a webhook has taken."""
    alerts = [(alert["status"], alert["annotations"]["alarm_id"]) for body in bodies for alert in body["alerts"]]
    return Told(*(Counter(name for status, name in alerts if status == which) for which in ("firing", "resolved")))


def firing_spans(bootstrap_servers: str, topic: str) -> dict[str, Span]:
    """When each alarm that is over fired, by the timestamps of the topic of alarms."""
    began_s: dict[str, float] = {}
    spans: dict[str, Span] = {}
    for record in oracle.read_topic(bootstrap_servers, ALARMS_TOPIC):
        if record.value is None:
            continue
        alarm, at_s = msgspec.json.decode(record.value, type=Alarm), record.timestamp_ms / 1000
        if alarm.state == "firing":
            began_s.setdefault(alarm.alarm_id, at_s)
        elif alarm.state == "resolved" and alarm.alarm_id in began_s:
            spans.setdefault(alarm.alarm_id, (began_s[alarm.alarm_id], at_s))
    return {name: span for name, span in spans.items() if name.startswith(f"{topic}-")}


def lasted(spans: dict[str, Span], outages: Collection[Span]) -> set[str]:
    """The alarms that fired for ``LASTS_S`` without an outage meanwhile."""
    return {
        name
        for name, (from_s, until_s) in spans.items()
        if until_s - from_s >= LASTS_S and not any(from_s < end and begin < until_s for begin, end in outages)
    }


def faults(of: Told, alarms: Alarms, must_be_told: Collection[str], cut_off: int) -> list[str]:
    """A line for each kind of mistake in what was told.

    Args:
        alarms: all of them, as they are now. Those that fire now must be told.
        must_be_told: ids of others that must be told, too.
        cut_off: how many deliveries a kill may have cut off. Each may be repeated.
    """
    firing = {name for name, alarm in alarms.items() if alarm.state == "firing"}
    ended = {name for name, alarm in alarms.items() if alarm.state == "resolved"}
    kinds = {
        "never fired, but told": (of.firing.keys() | of.resolved.keys()) - firing - ended,
        "fired, but not told": (firing | set(must_be_told)) - of.firing.keys(),
        "not told as firing, but as resolved": of.resolved.keys() - of.firing.keys(),
        "still firing, but told as resolved": of.resolved.keys() & firing,
        "resolved, but only told as firing": (of.firing.keys() & ended) - of.resolved.keys(),
    }
    lines = [f"{len(names)} alarms {what}, such as {min(names)}" for what, names in kinds.items() if names]
    if of.repeats > cut_off:
        lines.append(f"{of.repeats} repeats, but at most {cut_off} deliveries were cut off")
    return lines
