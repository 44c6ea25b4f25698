"""The figures for Prometheus, taken from the latest snapshot when it scrapes.

Names follow Prometheus' conventions: base units, ``_total`` for counters, and labels with few values. No label names a
sensor or a location.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from importlib import metadata

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from iot import VERSION
from iot.rejections import KINDS
from iot.results.model import State, Status
from iot.web.figures import is_silent
from iot.web.snapshots import Snapshot

COUNTERS = {
    "iot_messages": ("total_messages", "Valid readings processed."),
    "iot_late_messages": ("late_messages", "Readings too late for at least one of their windows."),
    "iot_alerts": ("total_alerts", "Alerts raised."),
}
GAUGES = {
    "iot_active_sensors": ("active_sensors", "Sensors heard from in the last minute."),
    "iot_active_alerts": ("active_alerts", "Active sensors whose latest reading breaks a rule."),
    "iot_messages_per_second": ("messages_per_second", "Readings processed a second, over the last ten seconds."),
    "iot_silent_sensors": ("silent_sensors", "Sensors about which SENSOR_SILENT fires."),
}
HISTOGRAMS = {
    "iot_batch_duration_seconds": ("batch", "Time from the start of a batch until its results are stored."),
    "iot_batch_write_duration_seconds": ("write", "Time that the database takes to store the results of a batch."),
    "iot_window_latency_seconds": (
        "windows",
        "Time from a reading's arrival in Kafka until its windows are stored, for the first reading of each batch.",
    ),
    "iot_alert_latency_seconds": (
        "alerts",
        "Time from a measurement until its alert is stored, for the first of the alerts that are stored together.",
    ),
}
# Rejected messages that were counted before their reasons were.
UNKNOWN = "unknown"
# The packages of which the version matters, and their labels.
PACKAGES = {"pyspark": "spark_version", "kafka-python": "kafka_python_version", "SQLAlchemy": "sqlalchemy_version"}


class Exporter:
    """Answers Prometheus. A figure that is not known is left out."""

    def __init__(self, latest: Callable[[], Snapshot], streams: Callable[[], int], clock: Callable[[], float]) -> None:
        """
        Args:
            latest: returns the latest snapshot.
            streams: returns the number of open event streams.
            clock: returns seconds since the epoch.
        """
        self._latest = latest
        self._streams = streams
        self._clock = clock
        self._build = InfoMetricFamily("iot_build", "Versions of the application and of what it runs on.", versions())
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        # Memory, processor time and files of the web server's process.
        ProcessCollector(registry=self._registry)

    def describe(self) -> list[Metric]:
        return []

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for an ``Accept`` header; raises ``UserError`` if there is no snapshot."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        snapshot, now_s = self._latest(), self._clock()
        state, status = snapshot.state, snapshot.state.status
        yield self._build
        yield from _results(snapshot)
        yield from _alarms(state)
        yield GaugeMetricFamily("iot_healthy", "Whether /healthz answers 200.", value=float(snapshot.healthy))
        yield GaugeMetricFamily("iot_event_streams", "Open event streams.", value=self._streams())
        if state.processed_s is not None:
            age_s = max(0.0, now_s - state.processed_s)
            yield GaugeMetricFamily("iot_last_update_age_seconds", "Age of the newest result.", value=age_s)
        if status is not None:
            yield from _processing(status, now_s)
            yield from _components(status, snapshot.database_failure, now_s)


def versions() -> dict[str, str]:
    """The labels of ``iot_build_info``; of packages only those that are installed."""
    found = {"version": VERSION, "python_version": platform.python_version()}
    for package, label in PACKAGES.items():
        try:
            found[label] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _results(snapshot: Snapshot) -> Iterator[Metric]:
    """What was counted, and what waits."""
    figures, state = snapshot.metrics, snapshot.state
    for name, (key, text) in COUNTERS.items():
        yield CounterMetricFamily(name, text, value=getattr(figures, key))
    rejected = CounterMetricFamily(
        "iot_rejected_messages", "Messages that are not valid readings, by the kind of reason.", labels=["reason"]
    )
    for kind in KINDS:
        rejected.add_metric([kind], state.rejections.get(kind, 0))
    if unknown := state.rejected - sum(state.rejections.values()):
        rejected.add_metric([UNKNOWN], unknown)
    yield rejected
    for name, (key, text) in GAUGES.items():
        if (value := getattr(figures, key)) is not None:
            yield GaugeMetricFamily(name, text, value=value)
    yield GaugeMetricFamily("iot_sensors", "Sensors whose latest reading is kept.", value=state.sensors)
    lag = GaugeMetricFamily("iot_lag_messages", "Readings in Kafka that are not processed yet.", labels=["partition"])
    for partition, behind in (figures.lag.partitions if figures.lag else {}).items():
        lag.add_metric([partition], behind)
    yield lag


def _alarms(state: State) -> Iterator[Metric]:
    """Active alarms, and what their receivers were told."""
    alarms = GaugeMetricFamily("iot_alarms", "Active alarms.", labels=["state", "severity", "sensor_type"])
    for *labels, count in state.alarms:
        alarms.add_metric(labels, count)
    yield alarms
    sent = CounterMetricFamily(
        "iot_notifications", "Notifications of alarms since the start.", labels=["receiver", "result"]
    )
    for receiver, result, count in state.status.notifications if state.status else []:
        sent.add_metric([receiver, result], count)
    yield sent


def _processing(status: Status, now_s: float) -> Iterator[Metric]:
    """When the processing was last heard of, how long its work takes, and how much space it needs."""
    yield GaugeMetricFamily(
        "iot_processing_start_time_seconds", "When the processing started, since the epoch.", value=status.started_s
    )
    yield GaugeMetricFamily(
        "iot_heartbeat_timestamp_seconds", "When the processing last reported, since the epoch.", value=status.at_s
    )
    up = GaugeMetricFamily("iot_query_up", "Whether a Spark query runs.", labels=["query"])
    for query in status.queries:
        up.add_metric([query.name], float(query.active and not is_silent(status, now_s)))
    yield up
    if status.timings is not None:
        for name, (key, text) in HISTOGRAMS.items():
            histogram = getattr(status.timings, key)
            yield HistogramMetricFamily(name, text, buckets=histogram.cumulative(), sum_value=histogram.total)
    if status.database_bytes is not None:
        yield GaugeMetricFamily("iot_database_size_bytes", "Size of the results database.", value=status.database_bytes)
    size = GaugeMetricFamily("iot_checkpoint_size_bytes", "Size of a query's checkpoint.", labels=["query"])
    for name, count in status.checkpoint_bytes.items():
        size.add_metric([name], count)
    yield size


def _components(status: Status, database_failure: str | None, now_s: float) -> Iterator[Metric]:
    """What the processing depends on, and what it passes on; nothing if it does not report any more."""
    up = GaugeMetricFamily(
        "iot_component_up",
        "Whether Kafka answers, the database can be read and written, alerts are stored and alarms are published.",
        labels=["component"],
    )
    failures = {
        "kafka": status.kafka,
        "database": status.database or database_failure,
        "alerts": status.alerts_away,
        "alarms": status.alarms_away,
    }
    for name, failure in failures.items():
        # Only the database's own failure is known without the processing.
        if not is_silent(status, now_s) or (name == "database" and database_failure):
            up.add_metric([name], float(failure is None))
    yield up
