"""Decide which notifications are due, as a function of the time, the alarms and what was delivered before.

The rules are those of Alertmanager's dispatcher and notification log. Alarms of one receiver form groups. A change of a
group, an alarm that fires or one that ends, is sent ``group_wait`` after it was seen, but not before ``group_interval``
is over since the last message. A group without changes is repeated every ``repeat_interval``.

These rules are stricter than Alertmanager's:

- The end of an alarm is told only if its beginning was, and then once.
- An alarm stays in its group, with the location that was told, until its end is told.
- What waits is in the log too, so that restarts in quick succession do not put a message off for ever.

The log is written before a delivery (``begun``) and after it (``delivered`` or ``rejected``). If the receiver did not
take the message, the entry from before is written again. If the result is unknown, the entry stays as ``begun`` left
it: what was sent is sent again while it fires, and its end is told in any case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from iot.alarms.matching import Labels
from iot.alarms.model import ACTIVE, Alarm, Matcher
from iot.alerts import Severity
from iot.readings import format_timestamp

# How long to wait at least before a group is sent again that its receiver has rejected.
REJECTED_S = 300.0
# Maximum number of characters in a group key. PostgreSQL indexes at most 2700 bytes.
MAX_KEY = 500


@dataclass(frozen=True)
class Routing:
    """Which alarms a receiver gets, and when. Names and defaults are Alertmanager's; times are in seconds.

    ``group_by`` is by rule, because alarms of one rule usually have one reason. ``severity`` is empty for all of them.
    """

    group_by: tuple[str, ...] = ("rule",)
    group_wait_s: float = 30.0
    group_interval_s: float = 300.0
    repeat_interval_s: float = 4 * 3600.0
    send_resolved: bool = True
    severity: tuple[Severity, ...] = ()
    matchers: tuple[Matcher, ...] = ()
    silence_covers_told: bool = True
    """Whether a silence also suppresses what was told before it: an Alertmanager would take that for the end."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a receiver was told about a group, and what waits to be sent. Times are seconds since the epoch.

    ``told`` are the alarms that were delivered as firing and not yet as resolved, as they were at their first message.
    ``unsure`` are those of a delivery that was begun and whose result is unknown. ``sent_s`` is the time of the last
    delivery. ``due_s`` is when the present change is to be sent, None without one.
    """

    labels: dict[str, str] = {}
    told: tuple[Alarm, ...] = ()
    unsure: tuple[Alarm, ...] = ()
    sent_s: float | None = None
    due_s: float | None = None


def known_of(entry: Entry) -> tuple[Alarm, ...]:
    """Return the alarms that the receiver knows, or may know, as firing."""
    return entry.told + entry.unsure


encode_entry = msgspec.json.Encoder().encode
"""Encode an ``Entry`` as JSON bytes for the notification log."""
decode_entry = msgspec.json.Decoder(Entry).decode
"""Decode an ``Entry``; raises ``msgspec.DecodeError`` for anything else."""


class Notification(NamedTuple):
    """A message that is due: all alarms of a group that fire, new ones first, and those that ended since the last one.

    ``new`` is how many of ``firing`` were not told before.
    """

    group_key: str
    labels: Mapping[str, str]
    firing: tuple[Alarm, ...]
    resolved: tuple[Alarm, ...]
    new: int


class Plan(NamedTuple):
    """What ``plan`` found: the entries to write now, None to delete one, and then the notifications to deliver."""

    entries: dict[str, Entry | None]
    due: list[Notification]


def plan(routing: Routing, alarms: Sequence[Alarm], entries: Mapping[str, Entry], now_s: float) -> Plan:
    """Decide what to send to one receiver.

    Args:
        alarms: all active ones, and those resolved lately. One that was told and is missing here counts as resolved
            now.
        entries: the receiver's notification log, by group key.
    """
    homes = {alarm.alarm_id: key for key, entry in entries.items() for alarm in known_of(entry)}
    groups: dict[str, dict[str, Alarm]] = {key: {} for key in entries}
    labels: dict[str, dict[str, str]] = {}
    new = [one for one in alarms if one.alarm_id not in homes and _may_begin(one, routing)]
    if routing.matchers:
        new = [new[position] for position in Labels(new).matching(routing.matchers)]
    for alarm in alarms:
        if key := homes.get(alarm.alarm_id):
            groups[key][alarm.alarm_id] = alarm
    for alarm in new:
        group_labels = {name: getattr(alarm, name) for name in routing.group_by}
        key = group_key(group_labels)
        labels[key] = group_labels
        groups.setdefault(key, {})[alarm.alarm_id] = alarm
    found = Plan({}, [])
    for key, group in groups.items():
        entry = entries.get(key)
        planned, notification = _plan_group(routing, key, entry or Entry(labels.get(key, {})), group, now_s)
        if _kept(planned) != entry:
            found.entries[key] = _kept(planned)
        if notification:
            found.due.append(notification)
    return found


def group_key(labels: Mapping[str, str]) -> str:
    """Return the key of a group in Alertmanager's form, such as ``{}:{rule="LOW_HUMIDITY"}``; a long one is cut."""
    pairs = (f"{name}={msgspec.json.encode(value).decode()}" for name, value in sorted(labels.items()))
    key = f"{{}}:{{{', '.join(pairs)}}}"
    if len(key) > MAX_KEY:
        digest = hashlib.sha256(key.encode()).hexdigest()
        key = f"{key[: MAX_KEY - len(digest) - 1]} {digest}"
    return key


def _may_begin(alarm: Alarm, routing: Routing) -> bool:
    is_severe = not routing.severity or alarm.severity in routing.severity
    return alarm.state == "firing" and not alarm.silenced_by and is_severe


def _plan_group(
    routing: Routing, key: str, entry: Entry, group: Mapping[str, Alarm], now_s: float
) -> tuple[Entry, Notification | None]:
    told = {alarm.alarm_id: alarm for alarm in entry.told}
    known = told | {alarm.alarm_id: alarm for alarm in entry.unsure}
    ended = {alarm_id: _end(alarm, group.get(alarm_id), now_s) for alarm_id, alarm in known.items()}
    # The end of a silenced alarm is told to nobody, also not after the silence: as in Alertmanager.
    resolved = {
        alarm_id: end
        for alarm_id, end in ended.items()
        if end and routing.send_resolved and not (end.silenced_by and routing.silence_covers_told)
    }
    dropped = {alarm_id for alarm_id, end in ended.items() if end and alarm_id not in resolved}
    firing = [
        _as_told(alarm, known.get(alarm_id))
        for alarm_id, alarm in group.items()
        if alarm.state == "firing"
        and not (alarm.silenced_by and (routing.silence_covers_told or alarm_id not in known))
    ]
    firing.sort(key=lambda alarm: (alarm.alarm_id in told, alarm.fired or "", alarm.alarm_id))
    new = sum(alarm.alarm_id not in told for alarm in firing)

    # A clock that was set back must not put anything off.
    sent_s = None if entry.sent_s is None else min(entry.sent_s, now_s)
    due_s = None
    if new or resolved:
        earliest_s = now_s if sent_s is None else sent_s + routing.group_interval_s
        due_s = max(now_s + routing.group_wait_s, earliest_s)
    elif firing and sent_s is not None and now_s >= sent_s + routing.repeat_interval_s:
        due_s = now_s
    if due_s is not None and entry.due_s is not None:
        longest_s = max(routing.group_wait_s, routing.group_interval_s, REJECTED_S)
        due_s = min(entry.due_s, now_s + longest_s)
    planned = Entry(entry.labels, _without(entry.told, dropped), _without(entry.unsure, dropped), sent_s, due_s)
    if due_s is None or due_s > now_s:
        return planned, None
    return planned, Notification(key, entry.labels, tuple(firing), tuple(resolved.values()), new)


def _end(told: Alarm, present: Alarm | None, now_s: float) -> Alarm | None:
    """Return a told alarm as resolved, or None if it is still active."""
    if present is None:
        return msgspec.structs.replace(told, state="resolved", resolved=format_timestamp(round(now_s * 1e6)))
    return None if present.state in ACTIVE else _as_told(present, told)


def _as_told(present: Alarm, told: Alarm | None) -> Alarm:
    """Keep the location under which the receiver knows the alarm: it is part of its identity there."""
    if told is None or present.location == told.location:
        return present
    return msgspec.structs.replace(present, location=told.location)


def begun(entry: Entry, notification: Notification) -> Entry:
    """Return the entry to write before a delivery is tried."""
    known = {alarm.alarm_id for alarm in entry.unsure}
    sent = (alarm for alarm in notification.firing[: notification.new] if alarm.alarm_id not in known)
    return msgspec.structs.replace(entry, unsure=(*entry.unsure, *sent))


def delivered(entry: Entry, notification: Notification, now_s: float) -> Entry | None:
    """Return the entry to write after a delivery; None to delete it, because the group is over."""
    resolved = {alarm.alarm_id for alarm in notification.resolved}
    new = notification.firing[: notification.new]
    sent = resolved | {alarm.alarm_id for alarm in new}
    told = (*_without(entry.told, resolved), *new)
    return _kept(Entry(entry.labels, told, _without(entry.unsure, sent), now_s, None))


def rejected(entry: Entry, routing: Routing, now_s: float) -> Entry:
    """Return the entry to write after a receiver said that it will never take this message.

    ``entry`` is the one from before ``begun``. The group is tried again after ``group_interval``, as in Alertmanager.
    """
    return msgspec.structs.replace(entry, due_s=now_s + max(routing.group_interval_s, REJECTED_S))


def _without(alarms: tuple[Alarm, ...], ids: set[str]) -> tuple[Alarm, ...]:
    return tuple(alarm for alarm in alarms if alarm.alarm_id not in ids) if ids else alarms


def _kept(entry: Entry) -> Entry | None:
    """Return None for an entry that says nothing: the next alarm of the group waits for ``group_wait`` alone."""
    return entry if entry.told or entry.unsure or entry.due_s is not None else None
