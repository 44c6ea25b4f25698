"""The figures of the gateway for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from iot.gateway.writer import Writer

COUNTERS = {
    "readings": "Readings that Kafka acknowledged.",
    "repeated": "Readings that had been written before.",
    "refused": "Messages that are no reading, written to the dead-letter topic.",
}


class Exporter:
    """Answers Prometheus."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def describe(self) -> list[Metric]:
        return []

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return body and content type for an ``Accept`` header."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"iot_gateway_{name}", text, value=self._writer.counts[name])
        yield GaugeMetricFamily(
            "iot_gateway_in_flight", "Messages that wait for Kafka's acknowledgement.", value=self._writer.in_flight
        )
        yield GaugeMetricFamily(
            "iot_gateway_healthy", "Whether /healthz answers 200.", value=float(not self._writer.problem())
        )
