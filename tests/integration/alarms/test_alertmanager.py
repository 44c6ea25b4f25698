"""A real Alertmanager hears of alarms, of their ends, and of nothing any more when the notifier dies."""

from __future__ import annotations

import time

from iot.alarms.grouping import Notification
from iot.alarms.messages import fingerprint
from iot.alarms.notifier import Notifier
from iot.alarms.notify_file import load_notify
from iot.alarms.receivers import deliver_to
from tests.support.alarms import MemoryLog, alarm, at, resolved
from tests.support.alertmanager import Alertmanager
from tests.support.alertmanager import alertmanager as alertmanager  # a fixture
from tests.support.waiting import wait_for


def load(tmp_path, server: Alertmanager):
    path = tmp_path / "notify.toml"
    path.write_text(f'[[receiver]]\nname = "am"\nalertmanager = "{server.url}"\n')
    return load_notify(path)


def test_alertmanager_shows_an_alarm_until_it_ends(tmp_path, alertmanager):
    started_s = time.time() - 60
    alarms = [alarm("a", started=at(started_s), fired=at(started_s)), alarm("b", silenced_by=["s"])]
    lines: list[str] = []
    running = Notifier(load(tmp_path, alertmanager), lambda: alarms, MemoryLog(), report=lines.append, poll_s=0.05)
    running.start()
    try:
        wait_for(lambda: bool(alertmanager.alerts()))
        (shown,) = alertmanager.alerts()
        labels = {
            "alertname": "HIGH_TEMPERATURE",
            "severity": "warning",
            "sensor_id": "sensor_a",
            "sensor_type": "temperature",
            "location": "lab",
            "unit": "celsius",
        }
        assert shown["labels"] == labels
        assert shown["fingerprint"] == fingerprint(labels)
        assert shown["startsAt"][:19] == at(started_s)[:19]
        assert shown["annotations"]["summary"].startswith("sensor_a (lab): temperature above 30 celsius since")
        alarms[0] = resolved(alarms[0], time.time())
        wait_for(lambda: not alertmanager.alerts())
    finally:
        running.stop()
    assert running.results() == {("am", "delivered"): 2, ("am", "failed"): 0, ("am", "rejected"): 0}
    assert lines == []


def test_an_alarm_of_which_nothing_more_is_heard_resolves_by_itself(tmp_path, alertmanager):
    (receiver,) = load(tmp_path, alertmanager).receivers
    begun_s = time.time()
    told = Notification("{}:{}", {}, (alarm("a", fired=at(begun_s - 500)),), (), 1)
    # This notifier's clock is behind, so that its four minutes are over in ten seconds.
    assert deliver_to(receiver, "", lambda: begun_s - 230)(told).result == "delivered"
    assert alertmanager.alerts()
    wait_for(lambda: not alertmanager.alerts())


def test_alertmanager_takes_thousands_of_alarms(tmp_path, alertmanager):
    (receiver,) = load(tmp_path, alertmanager).receivers
    alarms = tuple(alarm(str(number), fired=at(time.time())) for number in range(2_345))
    assert deliver_to(receiver, "", time.time)(Notification("{}:{}", {}, alarms, (), 2_345)).result == "delivered"
    assert len(alertmanager.alerts()) == 2_345


def test_labels_have_alertmanagers_fingerprint(tmp_path, alertmanager):
    (receiver,) = load(tmp_path, alertmanager).receivers
    hostile = alarm("ü \"x\"\\ \n", location="«»", fired=at(time.time()))  # fmt: skip
    assert deliver_to(receiver, "", time.time)(Notification("{}:{}", {}, (hostile,), (), 1)).result == "delivered"
    (shown,) = alertmanager.alerts()
    assert shown["labels"]["sensor_id"] == hostile.sensor_id
    assert shown["fingerprint"] == fingerprint(shown["labels"])
