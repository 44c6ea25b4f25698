"""The application as a user runs it: its API equals the reference, also after a kill, and errors take one line."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from iot.broker.broker import find_free_port
from tests.support import oracle
from tests.support.app import App, require_exact
from tests.support.scripts import command_line, descendants, read_until
from tests.support.streams import stream, write

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def app(broker, topic, tmp_path):
    return App(broker, topic, tmp_path)


def test_the_api_equals_the_reference_also_after_a_kill(app, broker, topic, eventually):
    messages = list(stream(100_000, seed=11, span_s=240, late=0.005))
    with app.running() as process:
        write(broker.kafka, topic, iter(messages[:75_000]), at_once=800)
        records = oracle.read_topic(broker.bootstrap_servers, topic)
        require_exact(app, records, topic, eventually)
        assert app.status("/healthz") == 200
        process.send_signal(signal.SIGKILL)
    # The web server ends with its parent.
    eventually(lambda: app.status("/healthz") == 0, 20)
    write(broker.kafka, topic, iter(messages[75_000:]), at_once=800)
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


@pytest.mark.long
def test_an_older_copy_of_the_database_is_not_continued(app, broker, topic, tmp_path, eventually):
    database = tmp_path / "results.db"
    with app.running() as process:
        write(broker.kafka, topic, stream(500, seed=12, span_s=10))
        eventually(lambda: app.messages() == len(oracle.read_topic(broker.bootstrap_servers, topic)), 120)
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(tmp_path / "copy")) as copy:
            source.backup(copy)
        write(broker.kafka, topic, stream(500, seed=13, span_s=10))
        eventually(lambda: app.messages() == len(oracle.read_topic(broker.bootstrap_servers, topic)), 120)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    for path in tmp_path.glob("results.db*"):
        path.unlink()
    (tmp_path / "copy").rename(database)
    with app.running() as process:
        write(broker.kafka, topic, stream(500, seed=14, span_s=10))
        said = read_until(process, f".*{database} lacks the batches ")
        eventually(lambda: "an older copy was restored" in (app.get("/api/metrics")["state_reason"] or ""), 20)
        assert app.status("/healthz") == 503
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
    assert "to reset: rm -r" in said


def test_without_a_broker_the_error_names_its_address(app):
    port = find_free_port()
    app.command[app.command.index("--bootstrap-servers") + 1] = f"localhost:{port}"
    with app.running() as process:
        assert process.wait(60) == 1
        said = process.stdout.read()
    assert f"no Kafka broker answers at localhost:{port}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 Forbidden\r\n\r\n", b""])
def test_a_port_in_use_is_reported_before_anything_is_started(app, tmp_path, answer):
    app.command += ["--demo", "--bootstrap-servers", f"localhost:{find_free_port()}"]
    with socket.create_server(("", app.port)) as other:

        def serve() -> None:
            while True:
                connection, _ = other.accept()
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with app.running() as process:
            assert process.wait(20) == 1
            said = process.stdout.read()
    why = "the port is already in use; choose another with --port"
    assert said == f"error: cannot serve at 127.0.0.1 port {app.port}: {why}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "fix"),
    [("log", "set IOT_LOG_DIR"), ("--checkpoint-dir", "--checkpoint-dir"), ("--database-url", "--database-url")],
)
def test_a_place_that_cannot_be_written_is_reported_before_anything_is_started(app, tmp_path, flag, fix):
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "x")
    if flag == "log":
        app.folder = tmp_path / "file"
    else:
        app.command += [flag, place if flag == "--checkpoint-dir" else f"sqlite:///{place}"]
    with app.running() as process:
        assert process.wait(20) == 1
        said = process.stdout.read()
    assert said.startswith("error: cannot write ")
    assert fix in said
    assert said.count("\n") == 1
    assert not list(tmp_path.rglob("*.out"))


def test_an_address_of_something_else_than_kafka_is_reported_before_spark_starts(app, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app.command += ["--demo", "--bootstrap-servers", f"localhost:{silent.getsockname()[1]}"]
        with app.running() as process:
            assert process.wait(30) == 1
            said = process.stdout.read()
    assert re.fullmatch(r"error: no Kafka broker answers at .*, though something listens there; .*\n", said)
    assert not list(tmp_path.rglob("*.out"))
