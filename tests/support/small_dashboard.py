"""A small dashboard that takes the place of the real one."""

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

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from iot.alerts import DEFAULT_RULES, alert_id, broken_bound, encode, make_alert
from iot.broker.broker import Broker
from iot.readings import decode, format_timestamp
from iot.settings import ALERTS_TOPIC


class SmallDashboard:
    """Serves the windows and alerts of a topic over HTTP, without Spark. ``wrong`` makes it lose and repeat some."""

    def __init__(self, broker: Broker, topic: str, wrong: bool) -> None:
        self._topic, self._wrong = topic, wrong
        self._stop = threading.Event()
        self._counts: Counter[tuple[str, int, str]] = Counter()
        self._events: list[bytes] = []
        self._consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        self._consumer.assign([TopicPartition(topic, number) for number in range(3)])
        self._reader = threading.Thread(target=self._read)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def running(self) -> Iterator[SmallDashboard]:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self._reader.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._reader.join()
            self.server.shutdown()
            self.server.server_close()
            self._producer.close()
            self._consumer.close()

    def _read(self) -> None:
        number = 0
        while not self._stop.is_set():
            for partition, records in self._consumer.poll(50).items():
                for record in records:
                    number += 1
                    self._process(record.value, alert_id(self._topic, partition.partition, record.offset), number)

    def _process(self, value: bytes, name: str, number: int) -> None:
        reading = decode(value)
        first = reading.time_us // 10_000_000 * 10 + 10
        lost = self._wrong and number == 5
        for end in (first, first + 10, first + 20):
            self._counts[reading.location or "", end, reading.sensor_type] += not (lost and end == first)
        if broken := broken_bound(reading, DEFAULT_RULES):
            alert = encode(make_alert(reading, *broken, name))
            self._producer.send(ALERTS_TOPIC, alert, record_key(reading.sensor_id)).get(10)
            event = b"event: alert\nid: %b\ndata: %b\n\n" % (name.encode(), alert)
            self._events += [event] * (2 if self._wrong and not self._events else 1)

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
                content: dict[str, Any] = {"total_messages": 0}
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
                while not here._stop.wait(0.01):
                    for event in here._events[sent:]:
                        self.wfile.write(event)
                        sent += 1

            def log_message(self, *_: Any) -> None: ...

        return Handler


def record_key(sensor_id: str) -> bytes:
    return sensor_id.encode()
