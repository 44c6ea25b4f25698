"""The figures of /api/metrics and the verdict of /healthz, computed from a state of the results database.

A figure that is not known is None, never 0: the page says so in words.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from typing import Any

from iot.batches import MAX_LOCATIONS, MAX_SENSORS, MAX_TYPES, OTHER
from iot.readings import STANDARD_UNITS, format_timestamp
from iot.results.model import STARTING, State, Status
from iot.settings import BOOTSTRAP_SERVERS, READINGS_TOPIC
from iot.web.schemas import AlarmCount, AlertCount, HealthLevel, Lag, LatestReading, Metrics, PageState, SensorStats

# How long the processing, a query or all sensors may be silent before the page says so.
SILENT_S = 15.0
# Maximum share of rejected messages without a warning.
WARN_REJECTED = 0.01


def metrics(state: State, now_s: float) -> Metrics:
    """The answer of /api/metrics; ``now_s`` is in seconds since the epoch."""
    status = state.status
    name, why = _page_state(state, now_s)
    known = name != "failed"
    level, reasons = _health(state, now_s)
    return Metrics(
        total_messages=state.messages,
        rejected_messages=state.rejected,
        late_messages=state.late,
        total_alerts=state.total_alerts,
        active_alerts=state.active_alerts if known else None,
        active_sensors=state.active_sensors if known else None,
        system_health=level,
        health_reasons=reasons,
        recent_alerts=state.recent_alerts,
        sensor_stats=_sensor_stats(state),
        messages_per_second=state.rate_10s if known and not _nothing_processed(state) else None,
        lag=_lag(state, now_s),
        last_update=None if state.processed_s is None else _iso(state.processed_s),
        active_alarms=_active_alarms(state),
        silent_sensors=state.silent_sensors,
        state=name,
        state_reason=why,
        spark_ui=status.spark_ui if status else None,
        producer_command=_producer_command(status),
        sensor_types=sorted(state.sensor_types) + [OTHER] * (OTHER in state.totals.keys() - state.sensor_types),
        locations=sorted(state.locations) + [OTHER] * (len(state.locations) >= MAX_LOCATIONS),
        limits_reached=_limits_reached(state),
        latest=[
            LatestReading(
                one.sensor_id,
                one.sensor_type,
                one.location,
                one.value,
                one.unit,
                format_timestamp(one.time_us),
                one.alert,
            )
            for one in state.latest
        ],
        rate_history=[(_iso(end_s), per_s) for end_s, per_s in state.rate_history],
        alert_history=[AlertCount(_iso(start_s), kind, count) for start_s, kind, count in state.alert_history],
        retention_s=state.retention_s,
    )


def health(state: State, now_s: float) -> tuple[bool, str | None]:
    """Whether every query runs and was polled within 15 s, and the reason if not."""
    problems = _silence(state.status, now_s) or _query_problems(state.status, now_s)
    if not problems and not (state.status and state.status.queries):
        problems = ["no query runs yet"]
    return not problems, "; ".join(problems) or None


def _page_state(state: State, now_s: float) -> tuple[PageState, str | None]:
    """Which of the four states the page is in, and the reason."""
    failures = _failures(state.status, now_s)
    if failures:
        return "failed", failures[0]
    if _nothing_processed(state):
        starting = state.status and any(query.reason == STARTING for query in state.status.queries)
        return "no_data", "Spark is starting" if starting else "no reading has been processed yet"
    silent_s = now_s - (state.processed_s or 0.0)
    if silent_s <= SILENT_S:
        return "live", None
    lag = _lag(state, now_s)
    if lag and lag.total:
        return "stale", f"no reading was processed for {silent_s:.0f} s, and {lag.total:,} wait in Kafka"
    return "stale", f"no new reading for {silent_s:.0f} s"


def _health(state: State, now_s: float) -> tuple[HealthLevel | None, list[str]]:
    """Critical, Warning or Good, with reasons; None before anything was processed."""
    failures = _failures(state.status, now_s)
    if not failures and _nothing_processed(state):
        return None, []
    warnings = []
    if not failures and state.status and state.status.lag_10s:
        warnings.append("processing is more than 10 s behind")
    if not failures and state.status and state.status.alarms_away:
        warnings.append(f"changes of alarms wait to be sent: {state.status.alarms_away}")
    rejected = state.rejected / max(1, state.messages + state.rejected)
    if rejected > WARN_REJECTED:
        warnings.append(f"{rejected:.1%} of the messages were rejected")
    if not failures and state.active_alerts:
        sensors = "sensor is" if state.active_alerts == 1 else "sensors are"
        warnings.append(f"{state.active_alerts} {sensors} out of bounds")
    level: HealthLevel = "Critical" if failures else "Warning" if warnings else "Good"
    return level, failures + warnings


def _failures(status: Status | None, now_s: float) -> list[str]:
    """The reasons why no results are computed or stored, the worst first."""
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


def is_silent(status: Status | None, now_s: float) -> bool:
    """Whether the processing does not report, so that what it reported before says nothing about now."""
    return bool(_silence(status, now_s))


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


def _sensor_stats(state: State) -> list[SensorStats]:
    """A row per sensor type, over everything processed."""
    rows = []
    for sensor_type, total in sorted(state.totals.items()):
        average = _known(total.total / total.count)
        rows.append(
            SensorStats(
                sensor_type=sensor_type,
                unit=STANDARD_UNITS.get(sensor_type, total.unit),
                count=total.count,
                avg_value=average,
                min_value=total.min,
                max_value=total.max,
                avg_temp=average if sensor_type == "temperature" else None,
                avg_humidity=average if sensor_type == "humidity" else None,
            )
        )
    return rows


def _active_alarms(state: State) -> list[AlarmCount]:
    """Alarms by state and severity, of all sensor types."""
    counts: Counter[tuple[Any, Any]] = Counter()
    for one in state.alarms:
        counts[one.state, one.severity] += one.number
    return [AlarmCount(*group, count) for group, count in sorted(counts.items())]


def _lag(state: State, now_s: float) -> Lag | None:
    """Readings in Kafka that are not processed; None until that is known for every partition."""
    status = state.status
    if status is None or _silence(status, now_s) or status.kafka or not status.end_offsets:
        return None
    partitions = {}
    for partition, end in sorted(status.end_offsets.items()):
        # Nothing can be missing from an empty partition.
        processed = state.offsets.get(partition, status.read_offsets.get(partition, 0 if end == 0 else None))
        if processed is None:
            return None
        partitions[str(partition)] = max(0, end - processed)
    return Lag(sum(partitions.values()), partitions)


def _limits_reached(state: State) -> list[str]:
    """The limits that were reached: later names are counted as ``other``, and the oldest sensors are dropped."""
    limits = (
        ("sensor types", len(state.sensor_types), MAX_TYPES),
        ("locations", len(state.locations), MAX_LOCATIONS),
        ("sensors", state.sensors, MAX_SENSORS),
    )
    return [f"{what}: {most:,}" for what, count, most in limits if count >= most]


def _producer_command(status: Status | None) -> str:
    """The command that sends readings to the topic that is processed."""
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
