"""The alarms of a topic of readings, as the independent reference, the API and the topic of alarms have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from iot.alarms.machine import to_alarm
from iot.alarms.model import Alarm
from iot.alerts import Rule
from iot.batches import Candidate
from iot.settings import ALARMS_TOPIC
from tests.support import alarm_oracle, oracle

Alarms = dict[str, Alarm]
"""By alarm id."""

# Maximum number of differences that are named.
MAX_NAMED = 5


def expected(records: Iterable[oracle.Record], rules: Iterable[Rule], topic: str) -> Alarms:
    """The alarms about bounds of these messages; all messages of a sensor must be in one partition."""
    readings = []
    for record in sorted(records, key=lambda one: (one.partition, one.offset)):
        if found := oracle.reading_of(record):
            fields = (found[name] for name in ("sensor_id", "sensor_type", "location", "unit", "value", "time_us"))
            readings.append(Candidate(record.timestamp_ms, record.partition, record.offset, *fields))
    return {one.alarm_id: to_alarm(one) for one in alarm_oracle.alarms(readings, rules, topic)}


def in_api(get: Callable[[str], Any]) -> Alarms:
    """All alarms of the API.

    Args:
        get: returns the JSON at a path of the API.

    Raises:
        AssertionError: the API has an alarm twice, or its total differs.
    """
    found: list[Alarm] = []
    more = ""
    while True:
        page = get(f"/api/alarms?state=pending,firing,resolved&limit=1000{more}")
        found += msgspec.convert(page["alarms"], list[Alarm])
        if not page["next"]:
            break
        more = f"&after={page['next']}"
    by_id = {alarm.alarm_id: alarm for alarm in found}
    assert len(by_id) == len(found) == page["total"]
    return by_id


def in_topic(bootstrap_servers: str, topic: str) -> Alarms:
    """The newest state of each alarm in the topic of alarms."""
    found: Alarms = {}
    for record in oracle.read_topic(bootstrap_servers, ALARMS_TOPIC):
        name = (record.key or b"").decode()
        if not name.startswith(f"{topic}-"):
            continue
        if record.value is None:
            found.pop(name, None)
        else:
            found[name] = msgspec.json.decode(record.value, type=Alarm)
    return found


def without_progress(alarms: Alarms) -> Alarms:
    """Blank what may change without a message in the topic of alarms."""
    same = {"value": 0.0, "alerts": 0, "updated": "", "location": ""}
    return {
        name: alarm if alarm.state == "resolved" else msgspec.structs.replace(alarm, **same)
        for name, alarm in alarms.items()
    }


def differences(found: Alarms, wanted: Alarms) -> list[str]:
    """A line for each alarm that is missing, that is not expected, or that differs; the first few of each kind."""
    return list(_differences(found, wanted))


def _differences(found: Alarms, wanted: Alarms) -> Iterator[str]:
    missing, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    for what, names, of in (("missing", missing, wanted), ("not expected", more, found)):
        yield from (f"{len(names)} {what}, such as {of[name]}" for name in names[:MAX_NAMED])
    differ = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    for name in differ[:MAX_NAMED]:
        ours, theirs = msgspec.to_builtins(found[name]), msgspec.to_builtins(wanted[name])
        fields = [f"{key} {ours[key]} instead of {theirs[key]}" for key in theirs if ours[key] != theirs[key]]
        yield f"{len(differ)} differ, such as {name}: {', '.join(fields)}"
