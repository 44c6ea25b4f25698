"""A small dashboard that takes the place of the real one, and can be stopped and started like it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from iot.alerts import DEFAULT_RULES, alert_id, broken_bound, encode, make_alert
from iot.broker.broker import Broker
from iot.readings import decode, format_timestamp
from iot.settings import ALERTS_TOPIC
from tests.support import alarms


class SmallDashboard:
    """Serves windows, alerts and alarms of a topic over HTTP, without Spark. ``wrong`` makes it lose and repeat some.

    Each reading that breaks a rule is an alarm that ends at once.
    """

    def __init__(self, broker: Broker, topic: str, wrong: bool) -> None:
        self._topic, self._wrong = topic, wrong
        self._stop = threading.Event()
        self._counts: Counter[tuple[str, int, str]] = Counter()
        self._events: list[bytes] = []
        self._lost_alarm = False
        self._processed = self._alerts = self._end = 0
        self._runs = threading.Event()
        self._stands_still = False
        # Set once somebody may know that it runs. What was processed before that could not be measured.
        self._is_known = threading.Event()
        self._is_known.set()
        self._consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        self._consumer.assign([TopicPartition(topic, number) for number in range(3)])
        self._reader = threading.Thread(target=self._read)
        self._port = 0
        self.start()
        self.url = f"http://127.0.0.1:{self._port}"

    @contextmanager
    def running(self) -> Iterator[SmallDashboard]:
        self._reader.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._reader.join()
            self.stop()
            self._producer.close()
            self._consumer.close()

    def start(self) -> None:
        """Answer and process, again if it was stopped."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self._runs.set()

    def stop(self) -> None:
        """Neither answer nor process."""
        if self._runs.is_set():
            self._runs.clear()
            self._is_known.clear()
            self._server.shutdown()
            self._server.server_close()

    def stand_still(self) -> None:
        """Answer, but process nothing more."""
        self._stands_still = True

    def _read(self) -> None:
        while not self._stop.is_set():
            if not (self._runs.wait(0.05) and self._is_known.wait(0.05)):
                continue
            self._end = sum(self._consumer.end_offsets(list(self._consumer.assignment())).values())
            if self._stands_still:
                self._stop.wait(0.05)
                continue
            for partition, records in self._consumer.poll(50).items():
                for record in records:
                    name = alert_id(self._topic, partition.partition, record.offset)
                    self._process(record.value, name, self._processed + 1)
                    self._processed += 1
                self._events.append(b"event: metrics\ndata: %b\n\n" % json.dumps(self.metrics()).encode())

    def _process(self, value: bytes, name: str, number: int) -> None:
        reading = decode(value)
        first = reading.time_us // 10_000_000 * 10 + 10
        lost = self._wrong and number == 5
        for end in (first, first + 10, first + 20):
            self._counts[reading.location or "", end, reading.sensor_type] += not (lost and end == first)
        if broken := broken_bound(reading, DEFAULT_RULES):
            self._alerts += 1
            alert = encode(make_alert(reading, *broken, name))
            self._producer.send(ALERTS_TOPIC, alert, record_key(reading.sensor_id)).get(10)
            event = b"event: alert\nid: %b\ndata: %b\n\n" % (name.encode(), alert)
            self._events += [event] * (2 if self._wrong and not self._events else 1)
            firing = alarms.alarm(f"{name}-warning", location=reading.location)
            for alarm in (firing, alarms.resolved(firing)):
                # One alarm is lost.
                if not self._wrong or self._lost_alarm:
                    content = msgspec.json.encode(alarm)
                    self._events.append(
                        b"event: alarm\nid: %b-%b\ndata: %b\n\n" % (name.encode(), alarm.state.encode(), content)
                    )
            self._lost_alarm = True

    def metrics(self) -> dict[str, Any]:
        return {
            "total_messages": self._processed - (self._wrong and self._processed >= 5),
            "rejected_messages": 0,
            "total_alerts": self._alerts,
            "lag": {"total": max(0, self._end - self._processed)},
        }

    def windows(self, location: str) -> list[dict[str, Any]]:
        return [
            {"end": format_timestamp(end * 1_000_000), "sensor_type": sensor_type, "count": count}
            for (where, end, sensor_type), count in list(self._counts.items())
            if where == location
        ]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                if url.path == "/api/stream":
                    self._stream()
                    return
                query = parse_qs(url.query)
                if url.path == "/metrics":
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(b'iot_query_up{query="windows"} 1.0\n')
                    here._is_known.set()
                    return
                content = here.metrics() if url.path == "/api/metrics" else {}
                if url.path == "/api/windows":
                    assert datetime.fromisoformat(query["since"][0]).tzinfo
                    content = {"windows": here.windows(query["location"][0])}
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def _stream(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"retry: 2000\n\n")
                sent = 0
                while here._runs.is_set() and not here._stop.wait(0.01):
                    for event in here._events[sent:]:
                        self.wfile.write(event)
                        sent += 1

            def log_message(self, *_: Any) -> None: ...

        return Handler


def record_key(sensor_id: str) -> bytes:
    return sensor_id.encode()
