"""Preparations of each script: a stop ends them at once, also where Kafka or the database says nothing."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import iot_consumer
import iot_producer
import iot_streaming_app
import structured_streaming_processor
from iot import settings
from iot.broker.broker import find_free_port
from iot.processes import Stopped
from iot.results.store import Store

# How long a script may take to stop.
STOP_S = 2.0


class FakeConsumer:
    """A client that has connected, but gets no more answers."""

    silent: Callable[[], object] = staticmethod(lambda: None)

    def unsubscribe(self) -> None: ...

    def subscribe(self, *_: object, **__: object) -> None: ...

    def partitions_for_topic(self, _: str) -> None:
        self.silent()

    def close(self, **_: object) -> None: ...


def flags(script: ModuleType, folder: Path) -> argparse.Namespace:
    given = ["--checkpoint-dir", str(folder)] if script in (iot_streaming_app, structured_streaming_processor) else []
    if script is iot_streaming_app:
        given += ["--database-url", f"sqlite:///{folder}/results.db", "--port", str(find_free_port())]
    made: argparse.Namespace = script.parse_args(given)
    return made


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Ends the wait of the threads that nobody waits for any more."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize(
    ("script", "silent"),
    [
        (iot_producer, "require_broker"),
        (iot_producer, "ensure_topics"),
        (iot_producer, "make_sender"),
        (iot_consumer, "require_broker"),
        (iot_consumer, "ensure_topics"),
        (iot_consumer, "make_consumer"),
        (iot_consumer, "partitions_for_topic"),
        (structured_streaming_processor, "require_broker"),
        (structured_streaming_processor, "ensure_topics"),
        (structured_streaming_processor, "topic_id"),
        (structured_streaming_processor, "start_offsets"),
        (iot_streaming_app, "identity"),
        (iot_streaming_app, "own"),
        (iot_streaming_app, "require_broker"),
        (iot_streaming_app, "ensure_topics"),
        (iot_streaming_app, "topic_id"),
        (iot_streaming_app, "checkpoint_dir"),
        (iot_streaming_app, "start_offsets"),
    ],
)
def test_a_stop_ends_each_preparation(script, silent, tmp_path, monkeypatch, release):
    monkeypatch.setattr(settings, "LOG_DIR", tmp_path)
    stop, waits = threading.Event(), threading.Event()
    changed: list[str] = []

    def say_nothing(*_: object, **__: object) -> Any:
        waits.set()
        release.wait(30)
        return {}

    answers: dict[str, Callable[..., Any]] = {
        "require_broker": lambda *_, **__: None,
        "ensure_topics": lambda *_: [],
        "topic_id": lambda *_: "id",
        "start_offsets": lambda *_: {0: 0},
        "make_consumer": lambda *_: FakeConsumer(),
        "make_sender": lambda *_: pytest.fail("it went on"),
    }
    for name, answer in (answers | {silent: say_nothing}).items():
        if hasattr(script, name):
            monkeypatch.setattr(script, name, answer)
    monkeypatch.setattr(FakeConsumer, "silent", say_nothing if silent == "partitions_for_topic" else lambda *_: None)
    if hasattr(Store, silent):
        monkeypatch.setattr(Store, silent, say_nothing)
    monkeypatch.setattr(Store, "reset", lambda *_: changed.append("reset"))
    if hasattr(script, "spark_session"):
        fake = SimpleNamespace(stop=lambda: None)
        monkeypatch.setattr(script.spark_session, "start", lambda *_: fake)
    stopped_s: list[float] = []

    def stop_it() -> None:
        waits.wait(30)
        stopped_s.append(time.monotonic())
        stop.set()

    threading.Thread(target=stop_it, daemon=True).start()
    with pytest.raises(Stopped, match=r"^stopped before anything was "):
        script.run(flags(script, tmp_path), stop)
    assert time.monotonic() - stopped_s[0] < STOP_S
    # What nobody waits for any more changes nothing when Kafka answers at last.
    release.set()
    for thread in threading.enumerate():
        if thread.name == "until-stopped":
            thread.join(30)
    assert not changed
