"""The figures of /api/metrics, and whether all is well: from a state of the results database and the clock.

A figure that is not known is null: the page then says so, where a zero would lie.
"""

from __future__ import annotations

import math
import shlex
from typing import Any

import msgspec

from iot.batches import MAX_LOCATIONS, MAX_SENSORS, MAX_TYPES, OTHER
from iot.readings import STANDARD_UNITS, format_timestamp
from iot.results.model import STARTING, State, Status
from iot.settings import BOOTSTRAP_SERVERS, READINGS_TOPIC

# Silent for this long: the processing is gone, a query is stuck, no sensor sends.
SILENT_S = 15.0
WARN_REJECTED = 0.01

NO_DATA, LIVE, STALE, FAILED = "no_data", "live", "stale", "failed"


def metrics(state: State, now_s: float) -> dict[str, Any]:
    """The answer of /api/metrics, ready for JSON."""
    status = state.status
    name, why = _page_state(state, now_s)
    known = name != FAILED
    nothing = _nothing_processed(state)
    active_alerts = state.active_alerts if known else None
    health, reasons = _health(state, now_s)
    return {
        "total_messages": state.messages,
        "rejected_messages": state.rejected,
        "late_messages": state.late,
        "total_alerts": state.total_alerts,
        "active_alerts": active_alerts,
        "active_sensors": state.active_sensors if known else None,
        "system_health": health,
        "health_reasons": reasons,
        "recent_alerts": [msgspec.structs.asdict(alert) for alert in state.recent_alerts],
        "sensor_stats": _sensor_stats(state),
        "messages_per_second": state.rate_10s if known and not nothing else None,
        "lag": _lag(state, now_s),
        "last_update": None if state.processed_s is None else _iso(state.processed_s),
        # Beyond what is promised: for the page.
        "state": name,
        "state_reason": why,
        "spark_ui": status.spark_ui if status else None,
        "producer_command": _producer_command(status),
        "sensor_types": sorted(state.sensor_types) + [OTHER] * (OTHER in state.totals.keys() - state.sensor_types),
        "locations": sorted(state.locations) + [OTHER] * (len(state.locations) >= MAX_LOCATIONS),
        "limits_reached": _limits_reached(state),
        "latest": [
            {
                "sensor_id": one.sensor_id,
                "sensor_type": one.sensor_type,
                "location": one.location,
                "value": one.value,
                "unit": one.unit,
                "timestamp": format_timestamp(one.time_us),
                "alert": one.alert,
            }
            for one in state.latest
        ],
        "rate_history": [[_iso(end_s), per_s] for end_s, per_s in state.rate_history],
        "alert_history": [
            {"minute": _iso(start_s), "type": kind, "count": count} for start_s, kind, count in state.alert_history
        ],
        "retention_s": state.retention_s,
    }


def health(state: State, now_s: float) -> tuple[bool, str | None]:
    """Whether every query runs and was asked within 15 s, and why not."""
    problems = _silence(state.status, now_s) or _query_problems(state.status, now_s)
    if not problems and not (state.status and state.status.queries):
        problems = ["no query runs yet"]
    return not problems, "; ".join(problems) or None


def _page_state(state: State, now_s: float) -> tuple[str, str | None]:
    """Which of the four states the page is in, and why."""
    failures = _failures(state.status, now_s)
    if failures:
        return FAILED, failures[0]
    if _nothing_processed(state):
        starting = state.status and any(query.reason == STARTING for query in state.status.queries)
        return NO_DATA, "Spark is starting" if starting else "no reading has been processed yet"
    silent_s = now_s - (state.processed_s or 0.0)
    if silent_s <= SILENT_S:
        return LIVE, None
    waiting = (_lag(state, now_s) or {"total": 0})["total"]
    if waiting:
        return STALE, f"no reading was processed for {silent_s:.0f} s, and {waiting:,} wait in Kafka"
    return STALE, f"no new reading for {silent_s:.0f} s"


def _health(state: State, now_s: float) -> tuple[str | None, list[str]]:
    """Critical, Warning or Good, with reasons; None with nothing to judge."""
    failures = _failures(state.status, now_s)
    if not failures and _nothing_processed(state):
        return None, []
    warnings = []
    if not failures and state.status and state.status.lag_10s:
        warnings.append("processing is more than 10 s behind")
    rejected = state.rejected / max(1, state.messages + state.rejected)
    if rejected > WARN_REJECTED:
        warnings.append(f"{rejected:.1%} of the messages were rejected")
    if not failures and state.active_alerts:
        sensors = "sensor is" if state.active_alerts == 1 else "sensors are"
        warnings.append(f"{state.active_alerts} {sensors} out of bounds")
    level = "Critical" if failures else "Warning" if warnings else "Good"
    return level, failures + warnings


def _failures(status: Status | None, now_s: float) -> list[str]:
    """What keeps results from being made, the worst first."""
    silence = _silence(status, now_s)
    if silence or status is None:
        return silence
    failures = _query_problems(status, now_s, also_starting=False)
    if status.kafka:
        failures.insert(0, status.kafka)
    if status.database:
        failures.append(f"results cannot be written: {status.database}")
    if status.alerts_away:
        failures.append(f"alerts cannot be kept: {status.alerts_away}")
    return failures


def _silence(status: Status | None, now_s: float) -> list[str]:
    if status is None:
        return ["the processing has not started"]
    silent_s = now_s - status.at_s
    return [f"no sign of life from the processing for {silent_s:.0f} s"] if silent_s > SILENT_S else []


def _query_problems(status: Status | None, now_s: float, also_starting: bool = True) -> list[str]:
    problems = []
    for query in status.queries if status else ():
        if query.reason == STARTING and not also_starting:
            continue
        if not query.active:
            problems.append(f"query {query.name} is not running: {query.reason or 'the reason is not known'}")
        elif now_s - query.polled_s > SILENT_S:
            problems.append(f"query {query.name} has not answered for {now_s - query.polled_s:.0f} s")
    return problems


def _nothing_processed(state: State) -> bool:
    return state.messages + state.rejected == 0


def _sensor_stats(state: State) -> list[dict[str, Any]]:
    """A row per sensor type, over everything processed."""
    rows = []
    for sensor_type, total in sorted(state.totals.items()):
        average = _known(total.total / total.count)
        rows.append(
            {
                "sensor_type": sensor_type,
                "unit": STANDARD_UNITS.get(sensor_type, total.unit),
                "count": total.count,
                "avg_value": average,
                "min_value": total.min,
                "max_value": total.max,
                "avg_temp": average if sensor_type == "temperature" else None,
                "avg_humidity": average if sensor_type == "humidity" else None,
            }
        )
    return rows


def _lag(state: State, now_s: float) -> dict[str, Any] | None:
    """Readings in Kafka that are not processed, by partition; None while that is not known of every one."""
    status = state.status
    if status is None or _silence(status, now_s) or status.kafka or not status.end_offsets:
        return None
    partitions = {}
    for partition, end in sorted(status.end_offsets.items()):
        # Of an empty partition nothing can be missing.
        processed = state.offsets.get(partition, status.read_offsets.get(partition, 0 if end == 0 else None))
        if processed is None:
            return None
        partitions[str(partition)] = max(0, end - processed)
    return {"total": sum(partitions.values()), "partitions": partitions}


def _limits_reached(state: State) -> list[str]:
    """Limits beyond which names are counted as ``other``, and sensors forgotten."""
    limits = (
        ("sensor types", len(state.sensor_types), MAX_TYPES),
        ("locations", len(state.locations), MAX_LOCATIONS),
        ("sensors", state.sensors, MAX_SENSORS),
    )
    return [f"{what}: {most:,}" for what, count, most in limits if count >= most]


def _producer_command(status: Status | None) -> str:
    """What sends readings where they are awaited, as a command."""
    words = ["python", "iot_producer.py"]
    if status and status.bootstrap_servers not in ("", BOOTSTRAP_SERVERS):
        words += ["--bootstrap-servers", status.bootstrap_servers]
    if status and status.topic not in ("", READINGS_TOPIC):
        words += ["--topic", status.topic]
    return shlex.join(words)


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _iso(moment_s: float) -> str:
    return format_timestamp(round(moment_s * 1_000_000))
