"""The messages about alarms: Alertmanager's JSON for programs, and short plain text for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from typing import Any

from iot.alarms.grouping import Notification
from iot.alarms.model import SENSOR_SILENT, Alarm
from iot.readings import format_timestamp
from iot.terminal import printable

# How long an Alertmanager believes that an alarm fires without hearing of it again: four times as long as the pause
# between two reports, like Prometheus.
REPORT_EVERY_S = 60.0
BELIEVED_S = 4 * REPORT_EVERY_S
NO_TIME = "0001-01-01T00:00:00Z"


def labels(alarm: Alarm) -> dict[str, str]:
    """Return what identifies the alarm for Alertmanager, where ``alertname`` is the rule. Empty ones are left out."""
    named = {
        "alertname": alarm.rule,
        "severity": alarm.severity,
        "sensor_id": alarm.sensor_id,
        "sensor_type": alarm.sensor_type,
        "location": alarm.location,
        # There may be rules for one sensor type in several units.
        "unit": alarm.unit,
    }
    return {name: value for name, value in named.items() if value}


def alarm_annotations(alarm: Alarm) -> dict[str, str]:
    """Return the figures of the alarm as text."""
    return {
        "summary": sentence(alarm),
        "alarm_id": alarm.alarm_id,
        "value": _number(alarm.value),
        "peak": _number(alarm.peak),
        "threshold": _number(alarm.threshold),
        "unit": alarm.unit,
        "started": alarm.started,
    }


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return Alertmanager's own fingerprint of the labels, 16 hexadecimal digits: FNV-1a over names and values."""
    content = b"".join(part.encode() + b"\xff" for pair in sorted(labels.items()) for part in pair)
    hashed = reduce(lambda found, byte: ((found ^ byte) * 0x100000001B3) % 2**64, content, 0xCBF29CE484222325)
    return f"{hashed:016x}"


def webhook_body(notification: Notification, receiver: str, max_alerts: int, external_url: str) -> dict[str, Any]:
    """Return Alertmanager's webhook body of version 4.

    Args:
        max_alerts: maximum number of alarms in it, 0 for no limit. ``truncatedAlerts`` counts those left out.
    """
    alarms = _new_first(notification)
    shown = alarms[:max_alerts] if max_alerts else alarms
    alerts = [_webhook_alert(alarm, external_url) for alarm in shown]
    return {
        "version": "4",
        "groupKey": notification.group_key,
        "truncatedAlerts": len(alarms) - len(shown),
        "status": "firing" if notification.firing else "resolved",
        "receiver": receiver,
        "groupLabels": {"alertname" if name == "rule" else name: value for name, value in notification.labels.items()},
        "commonLabels": _common(alert["labels"] for alert in alerts),
        "commonAnnotations": _common(alert["annotations"] for alert in alerts),
        "externalURL": external_url,
        "alerts": alerts,
    }


def _new_first(notification: Notification) -> list[Alarm]:
    new = notification.new
    return [*notification.firing[:new], *notification.resolved, *notification.firing[new:]]


def _webhook_alert(alarm: Alarm, external_url: str) -> dict[str, Any]:
    named = labels(alarm)
    return {
        "status": alarm.state,
        "labels": named,
        "annotations": alarm_annotations(alarm),
        "startsAt": alarm.fired or alarm.started,
        "endsAt": alarm.resolved or NO_TIME,
        "generatorURL": external_url,
        "fingerprint": fingerprint(named),
    }


def _common(each: Iterable[dict[str, str]]) -> dict[str, str]:
    pairs = [set(one.items()) for one in each]
    return dict(sorted(set.intersection(*pairs))) if pairs else {}


def alertmanager_alerts(notification: Notification, external_url: str, now_s: float) -> list[dict[str, Any]]:
    """Return the body of ``POST /api/v2/alerts``.

    Alertmanager judges by its own clock, and the clocks of sensors may be ahead. So no time here is in the future, but
    the end of an alarm that fires: without another report it then counts as resolved.
    """
    now = datetime.fromtimestamp(now_s, UTC)
    alerts = []
    for alarm in _new_first(notification):
        starts = min(_time(alarm.fired or alarm.started), now)
        ends = max(starts, min(_time(alarm.resolved), now)) if alarm.resolved else None
        until = format_timestamp(round((now_s + BELIEVED_S) * 1e6))
        alerts.append(
            {
                "labels": labels(alarm),
                "annotations": alarm_annotations(alarm),
                "startsAt": starts.isoformat(),
                "endsAt": ends.isoformat() if ends else until,
                "generatorURL": external_url,
            }
        )
    return alerts


def title(notification: Notification) -> str:
    """Return a title such as ``2 alarms firing, 1 resolved: HIGH_TEMPERATURE``."""
    alarms = (*notification.firing, *notification.resolved)
    counts = [(len(notification.firing), "firing"), (len(notification.resolved), "resolved")]
    (count, state), *more = [(count, state) for count, state in counts if count]
    text = f"{count} alarm{'s' if count > 1 else ''} {state}" + "".join(f", {count} {state}" for count, state in more)
    rules = sorted({alarm.rule for alarm in alarms})
    return f"{text}: {', '.join(rules[:3])}{' and more' if len(rules) > 3 else ''}"


def text(notification: Notification, external_url: str, most_characters: int) -> str:
    """Return one line for each alarm, new ones first, as many as fit into ``most_characters``."""
    lines = [_line(alarm) for alarm in _new_first(notification)]
    link = [external_url] if external_url else []
    shown = lines
    while len(whole := _joined(shown, len(lines) - len(shown), link)) > most_characters and len(shown) > 1:
        # The average line tells how many fit, so that thousands of lines take few rounds.
        fitting = len(shown) * most_characters // len(whole)
        shown = lines[: max(1, min(fitting, len(shown) - 1))]
    return whole[:most_characters]


def _joined(shown: Sequence[str], left_out: int, link: Sequence[str]) -> str:
    return "\n".join([*shown, *([f"and {left_out} more"] if left_out else []), *link])


def _line(alarm: Alarm) -> str:
    return f"{alarm.state.upper()} {alarm.severity}: {sentence(alarm)}"


def sentence(alarm: Alarm) -> str:
    """Say which sensor has which problem since when; for a resolved alarm also until when."""
    where = f"{alarm.sensor_id} ({alarm.location})" if alarm.location else alarm.sensor_id
    since = _shown(alarm.started)
    if alarm.rule == SENSOR_SILENT:
        if alarm.resolved:
            told = f"sends {alarm.sensor_type} again since {_shown(alarm.resolved)}; the last before was at {since}"
        else:
            told = f"no {alarm.sensor_type} reading since {since}, for more than {_number(alarm.threshold)} s"
    else:
        side = "above" if alarm.rule.startswith("HIGH_") else "below"
        bound = f"{side} {_number(alarm.threshold)} {alarm.unit}"
        figures = f"now {_number(alarm.value)}, peak {_number(alarm.peak)}"
        if alarm.resolved:
            told = f"{alarm.sensor_type} was {bound} from {since} to {_shown(alarm.resolved)}, {figures}"
        else:
            told = f"{alarm.sensor_type} {bound} since {since}, {figures}"
    return printable(f"{where}: {told}")


def _number(value: float) -> str:
    return f"{value:.10g}"


def _time(timestamp: str) -> datetime:
    return datetime.fromisoformat(timestamp)


def _shown(timestamp: str) -> str:
    return f"{_time(timestamp):%Y-%m-%d %H:%M:%S} UTC"
