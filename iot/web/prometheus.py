"""The figures for Prometheus, taken from the latest snapshot when it scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from iot.web.snapshots import Snapshot

COUNTERS = {
    "iot_messages": ("total_messages", "Valid readings processed."),
    "iot_rejected_messages": ("rejected_messages", "Messages that are not valid readings."),
    "iot_late_messages": ("late_messages", "Readings too late for at least one of their windows."),
    "iot_alerts": ("total_alerts", "Alerts raised."),
}
GAUGES = {
    "iot_active_sensors": ("active_sensors", "Sensors heard from in the last minute."),
    "iot_active_alerts": ("active_alerts", "Active sensors whose latest reading breaks a rule."),
    "iot_messages_per_second": ("messages_per_second", "Readings processed a second, over the last ten seconds."),
}


class Exporter:
    """Answers Prometheus. A figure that is not known is left out."""

    def __init__(self, latest: Callable[[], Snapshot], streams: Callable[[], int], clock: Callable[[], float]) -> None:
        self._latest = latest
        self._streams = streams
        self._clock = clock
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def describe(self) -> list[Metric]:
        return []

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for an ``Accept`` header; raises ``UserError`` if there is no snapshot."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        snapshot = self._latest()
        figures = snapshot.metrics
        for name, (key, text) in COUNTERS.items():
            yield CounterMetricFamily(name, text, value=getattr(figures, key))
        for name, (key, text) in GAUGES.items():
            if (value := getattr(figures, key)) is not None:
                yield GaugeMetricFamily(name, text, value=value)
        lag = GaugeMetricFamily(
            "iot_lag_messages", "Readings in Kafka that are not processed yet.", labels=["partition"]
        )
        for partition, behind in (figures.lag.partitions if figures.lag else {}).items():
            lag.add_metric([partition], behind)
        yield lag
        up = GaugeMetricFamily("iot_query_up", "Whether a Spark query runs.", labels=["query"])
        for query in snapshot.state.status.queries if snapshot.state.status else []:
            up.add_metric([query.name], float(query.active))
        yield up
        yield GaugeMetricFamily("iot_healthy", "Whether /healthz answers 200.", value=float(snapshot.healthy))
        if snapshot.state.processed_s is not None:
            age_s = self._clock() - snapshot.state.processed_s
            yield GaugeMetricFamily("iot_last_update_age_seconds", "Age of the newest result.", value=max(0.0, age_s))
        yield GaugeMetricFamily("iot_event_streams", "Open event streams.", value=self._streams())
