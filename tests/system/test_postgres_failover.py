"""The application's PostgreSQL is killed and its standby takes over: nothing is lost and nothing doubled."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from iot.broker.broker import Broker, find_free_port
from iot.settings import READINGS_TOPIC
from tests.support import oracle
from tests.support.app import App, require_exact
from tests.support.postgres import running_pair
from tests.support.scripts import ROOT, started

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
# How long windows may stand still; on a free machine it is about 2 s.
STILL_S = 30.0


def test_a_failover_costs_no_reading(tmp_path, eventually):
    with running_pair() as pair, Broker(find_free_port(), tmp_path / "broker") as broker:
        app = App(broker, READINGS_TOPIC, tmp_path, "--database-url", pair.url)
        producer = [sys.executable, str(ROOT / "iot_producer.py"), "--bootstrap-servers", broker.bootstrap_servers]
        producer += ["--rate", "1000", "--sensors", "60", "--malformed-ratio", "0.01", "--late-ratio", "0.01"]
        with app.running() as process, started(producer, stdout=subprocess.DEVNULL) as sensors:
            eventually(lambda: app.messages() > 5_000, 300)
            before = app.messages()
            failed_s = time.monotonic()
            pair.fail_over()
            eventually(lambda: app.messages() > before + 2_000, 120)
            still_s = time.monotonic() - failed_s
            print(f"windows moved again {still_s:.1f} s after the kill")
            eventually(lambda: app.status("/healthz") == 200, 60)
            sensors.send_signal(signal.SIGINT)
            assert sensors.wait(60) == 0
            records = oracle.read_topic(broker.bootstrap_servers, READINGS_TOPIC)
            assert oracle.gaps_and_repeats(records) == ([], [])
            require_exact(app, records, READINGS_TOPIC, eventually)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=60)
            assert process.returncode == 0, said
            assert "taken over" not in said
    assert still_s < STILL_S
