"""Batches whose readings all are candidates, and what a machine without a database makes of them."""

from __future__ import annotations

from typing import Any

import msgspec

from iot.alarms.machine import Machine, to_alarm
from iot.alarms.model import Alarm
from iot.alerts import Rule, Rules
from iot.batches import Candidate
from iot.results.model import AlarmFilter, Batch
from iot.results.store import Store
from tests.support.results import IDENTITY, NOW_S, Sample, Stream

RULES = Rules(
    (
        Rule("temperature", "celsius", 15.0, 30.0, clear_min=16.0, clear_max=29.0, max_silence_s=300.0),
        Rule("temperature", "celsius", max=40.0, severity="critical", for_s=5.0, keep_firing_for_s=10.0),
        Rule("humidity", "percent", 30.0, 70.0, for_s=3.0),
    )
)
NOW_US = NOW_S * 1_000_000


def candidates(samples: list[Sample], first_offset: int = 0) -> list[Candidate]:
    """All samples, in one partition; their own offsets are ignored."""
    return [
        Candidate(
            one.heard_ms, 0, offset, one.sensor_id, one.sensor_type, one.location, one.unit, one.value, one.time_us
        )
        for offset, one in enumerate(samples, first_offset)
    ]


class AlarmStream:
    """Writes batches of samples, with offsets that count up."""

    def __init__(self, store: Store, rules: Rules = RULES) -> None:
        self.store, self.rules = store, rules
        self.restart()
        self.sent: list[Sample] = []
        self.batches: list[Batch] = []
        self._stream = Stream()

    def make(self, samples: list[Sample]) -> Batch:
        """Make the next batch, which ``write`` writes."""
        numbered = [sample._replace(offset=offset) for offset, sample in enumerate(samples, len(self.sent))]
        self.sent += numbered
        windows, report = self._stream.batch(numbered)
        report.candidates = candidates(numbered, len(self.sent) - len(numbered))
        self.batches.append(Batch("windows", len(self.batches), windows, report))
        return self.batches[-1]

    def write(self, batch: Batch, now_s: float = NOW_S) -> bool:
        return self.store.write_batch(batch, self.rules, now_s, self.active)

    def send(self, *samples: Sample, now_s: float = NOW_S) -> None:
        assert self.write(self.make(list(samples)), now_s)

    def restart(self) -> None:
        """Read the active alarms again, as after a restart."""
        self.active = self.store.active_alarms(self.rules, IDENTITY.topic)
        self.active.read()


def expected(batches: list[Batch], rules: Rules = RULES) -> dict[str, Alarm]:
    """All alarms but pending ones that ended, by id, computed in one go."""
    machine = Machine(rules, IDENTITY.topic, [])
    found: dict[str, Alarm] = {}
    readings = [one for batch in batches for one in batch.report.candidates]
    newest: dict[tuple[str, str], int] = {}
    for one in readings:
        step = machine.advance([one], dict(newest))
        sensor = one.sensor_id, one.sensor_type
        newest[sensor] = max(one.time_us, newest.get(sensor, one.time_us))
        machine.keep(step)
        for change in step.changes:
            if change.forgotten:
                del found[change.active.alarm_id]
            else:
                found[change.active.alarm_id] = to_alarm(change.active)
        for active in step.touched.values():
            if active is not None:
                found[active.alarm_id] = to_alarm(active)
    return found


def topic_of(store: Store) -> dict[str, Alarm]:
    """What the topic of alarms would hold after all changes so far, by id."""
    found: dict[str, Alarm] = {}
    for change in store.alarms.changes():
        if change.body is None:
            found.pop(change.alarm_id, None)
        else:
            found[change.alarm_id] = msgspec.json.decode(change.body, type=Alarm)
    return found


def all_alarms(store: Store, **which: Any) -> dict[str, Alarm]:
    """All alarms in the database, by id."""
    page = store.alarms.page(AlarmFilter(("pending", "firing", "resolved"), **which), 1_000)
    assert page.total == len(page.alarms)
    return {alarm.alarm_id: alarm for alarm in page.alarms}
