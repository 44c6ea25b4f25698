"""The application stops in time while its PostgreSQL is suspended, and continues exactly once it is back."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support import oracle
from tests.support.app import App, require_exact
from tests.support.postgres import drop_everything, suspended
from tests.support.postgres import postgres as postgres  # a fixture
from tests.support.streams import stream, write

pytestmark = pytest.mark.timeout(300)
# Spark alone takes a few seconds to stop.
STOP_S = 20.0


@pytest.mark.long
def test_a_suspended_database_delays_no_stop(broker, topic, tmp_path, postgres, eventually):
    drop_everything(postgres)
    messages = list(stream(3_000, seed=21, span_s=60))
    app = App(broker, topic, tmp_path)
    app.command[app.command.index("--database-url") + 1] = postgres
    with app.running() as process:
        write(broker.kafka, topic, iter(messages[:1_500]), at_once=800)
        eventually(lambda: app.messages() == 1_500, 120)
        with suspended(postgres):
            # The next batch waits for the database.
            write(broker.kafka, topic, iter(messages[1_500:]), at_once=800)
            begun_s = time.monotonic()
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=120)
            took_s = time.monotonic() - begun_s
    assert process.returncode == 0, said
    assert took_s < STOP_S, said
    assert "Traceback" not in said
    assert "taken over" not in said
    with app.running() as process:
        records = oracle.read_topic(broker.bootstrap_servers, topic)
        require_exact(app, records, topic, eventually)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    drop_everything(postgres)
