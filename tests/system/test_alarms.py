"""Alarms of the real application: equal to the reference, also after a kill; and a sensor is silent only if it is."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from iot.alarms.model import SENSOR_SILENT, Alarm
from iot.kafka.sender import Record, make_sender
from iot.readings import Message, encode, format_timestamp
from iot.results.model import AlarmFilter
from iot.results.store import Store
from iot.rules_file import load_rules
from tests.support import alarms_of_topic, oracle
from tests.support.app import App
from tests.support.streams import stream, write

pytestmark = pytest.mark.timeout(600)

MAX_SILENCE_S = 6
PULSES = 50
RULES = f"""
[[rule]]
sensor_type = "temperature"
unit = "celsius"
min = 12
max = 28
clear_max = 25

[[rule]]
sensor_type = "temperature"
unit = "celsius"
max = 30
severity = "critical"
for = "2s"
keep_firing_for = "3s"

[[rule]]
sensor_type = "humidity"
unit = "percent"
min = 10
for = "500ms"

[[rule]]
sensor_type = "pulse"
unit = "unknown"
max_silence = "{MAX_SILENCE_S}s"
"""


def stored(store: Store) -> dict[str, Alarm]:
    """All alarms in the database, by id."""
    found: dict[str, Alarm] = {}
    cursor = None
    while True:
        page = store.alarms.page(AlarmFilter(("pending", "firing", "resolved")), 1_000, cursor)
        found |= {alarm.alarm_id: alarm for alarm in page.alarms}
        cursor = page.next
        if cursor is None:
            return found


def silent(store: Store) -> set[str]:
    return {alarm.sensor_id for alarm in stored(store).values() if alarm.rule == SENSOR_SILENT}


class Pulses:
    """Sensors that each send four readings a second."""

    def __init__(self, kafka, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self.sensors = {f"pulse_{number}" for number in range(PULSES)}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        sender = make_sender("confluent-kafka", self._kafka, self._topic)
        while not self._stop.wait(0.25):
            now = format_timestamp(time.time_ns() // 1_000)
            messages = [Message(name, "pulse", 1.0, now, unit="unknown") for name in sorted(self.sensors)]
            sender.send([Record(key=one.sensor_id.encode(), value=encode(one)) for one in messages], self._stop)
        sender.flush(10)
        sender.close()


def test_alarms_equal_the_reference_after_a_kill_and_only_a_sensor_that_stops_is_silent(
    broker, topic, tmp_path, eventually
):
    rules_file = tmp_path / "rules.toml"
    rules_file.write_text(RULES)
    app = App(broker, topic, tmp_path, "--rules", str(rules_file))
    store = Store(f"sqlite:///{tmp_path / 'results.db'}")
    messages = list(stream(40_000, seed=5, span_s=120, late=0.005, sensors=40))
    pulses = Pulses(broker.kafka, topic)
    with pulses.running():
        with app.running() as process:
            write(broker.kafka, topic, iter(messages[:15_000]), at_once=500)
            eventually(lambda: app.messages() > 5_000, 120)
            write(broker.kafka, topic, iter(messages[15_000:25_000]), at_once=500)
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        eventually(lambda: app.status("/healthz") == 0, 20)
        write(broker.kafka, topic, iter(messages[25_000:]), at_once=500)
        # All sensors send for longer than they may be silent, and nobody listens.
        time.sleep(MAX_SILENCE_S + 1)
        with app.running() as process:
            eventually(lambda: app.messages() >= 40_000, 120)
            since_s = time.monotonic()
            eventually(lambda: time.monotonic() - since_s > MAX_SILENCE_S + 3, 60)
            assert silent(store) == set()
            pulses.sensors.discard("pulse_7")
            eventually(lambda: silent(store) == {"pulse_7"}, 60)
            pulses.sensors.add("pulse_7")
            eventually(lambda: not _firing_silence(store), 30)
            assert silent(store) == {"pulse_7"}
            pulses._stop.set()
            pulses._thread.join()
            records = oracle.read_topic(broker.bootstrap_servers, topic)
            eventually(lambda: app.messages() == len(records), 60)
            wanted = alarms_of_topic.expected(records, load_rules(rules_file).rules, topic)
            found = {name: one for name, one in stored(store).items() if one.rule != SENSOR_SILENT}
            assert alarms_of_topic.differences(found, wanted) == []
            assert {one.state for one in wanted.values()} == {"firing", "resolved", "pending"}
            assert len(wanted) > 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            said = process.stdout.read()
    assert "Traceback" not in said
    assert "failed" not in said
    assert store.alarms.changes() == []
    in_topic = alarms_of_topic.in_topic(broker.bootstrap_servers, topic)
    told = alarms_of_topic.without_progress(stored(store))
    assert alarms_of_topic.differences(alarms_of_topic.without_progress(in_topic), told) == []
    store.close()


def _firing_silence(store: Store) -> set[str]:
    return {
        alarm.sensor_id for alarm in stored(store).values() if (alarm.rule, alarm.state) == (SENSOR_SILENT, "firing")
    }
