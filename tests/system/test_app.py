"""The application as a user runs it: its API equals the reference, also after a kill, and errors take one line."""

from __future__ import annotations

import os
import signal
import time

import pytest

from iot.broker.broker import find_free_port
from iot.spark.checkpoints import lock
from tests.support import oracle
from tests.support.app import App, require_exact
from tests.support.scripts import command_line, descendants
from tests.support.streams import stream, write

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def app(broker, topic, tmp_path):
    return App(broker, topic, tmp_path)


def test_the_api_equals_the_reference_also_after_a_kill(app, broker, topic, eventually):
    messages = list(stream(200_000, seed=11, span_s=240, late=0.005))
    with app.running() as process:
        write(broker.kafka, topic, iter(messages[:150_000]), at_once=800)
        records = oracle.read_topic(broker.bootstrap_servers, topic)
        require_exact(app, records, topic, eventually)
        assert app.status("/healthz") == 200
        process.send_signal(signal.SIGKILL)
    # The web server ends with its parent.
    eventually(lambda: app.status("/healthz") == 0, 20)
    write(broker.kafka, topic, iter(messages[150_000:]), at_once=800)
    with app.running() as process:
        records = oracle.read_topic(broker.bootstrap_servers, topic)
        require_exact(app, records, topic, eventually)
        # The page reports within seconds that Spark has ended.
        [spark] = [pid for pid in descendants(process.pid) if "SparkSubmit" in command_line(pid)]
        os.kill(spark, signal.SIGKILL)
        died_s = time.monotonic()
        eventually(lambda: app.status("/healthz") == 503, 20)
        eventually(lambda: app.get("/api/metrics")["state"] == "failed", 10)
        assert time.monotonic() - died_s < 15
        assert "Spark ended" in app.get("/api/metrics")["state_reason"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
        assert "error: Spark ended" in process.stdout.read()


def test_a_second_app_with_the_same_state_ends_with_an_error(app, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with lock(tmp_path / "checkpoints", "iot_streaming_app"), app.running() as process:
        assert process.wait(60) == 1
        said = process.stdout.read()
    assert said.startswith("error: iot_streaming_app is already running with its state in ")
    assert said.count("\n") == 1


def test_without_a_broker_the_error_names_its_address(app):
    port = find_free_port()
    app.command[app.command.index("--bootstrap-servers") + 1] = f"localhost:{port}"
    with app.running() as process:
        assert process.wait(60) == 1
        said = process.stdout.read()
    assert f"no Kafka broker answers at localhost:{port}" in said
    assert "Traceback" not in said
