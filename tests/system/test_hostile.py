"""Ten thousand hostile messages: consumer, application and page count every valid reading, and reject the others."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from playwright.sync_api import expect

from iot.batches import MAX_TYPES
from iot.broker.broker import Broker
from iot.readings import Message, encode, format_timestamp
from iot.settings import REJECTED_TOPIC
from tests.support import hostile, oracle
from tests.support.app import App
from tests.support.page import browser as browser  # a fixture
from tests.support.scripts import ROOT
from tests.support.streams import write


def consume(broker: Broker, topic: str, count: int) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(ROOT / "iot_consumer.py"), "--bootstrap-servers", broker.bootstrap_servers]
    command += ["--topic", topic, "--group", topic, "--from-beginning", "--max-messages", str(count)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False)


@pytest.mark.timeout(600)
def test_every_valid_reading_among_ten_thousand_hostile_messages_counts(broker, topic, browser, tmp_path, eventually):
    now_us = time.time_ns() // 1_000
    generated = hostile.messages(hostile=10_000, plain=5_000, big=3, seed=7, until_us=now_us, span_s=60)
    messages = list(generated)
    known = {message.value: message.reading for message in messages}
    good = [message.reading for message in messages if message.reading]
    app = App(broker, topic, tmp_path)
    with app.running() as process:
        as_sent = ((message.key, message.value) for message in messages)
        write(broker.kafka, topic, as_sent, at_once=500, **{"message.max.bytes": 2**20})
        records = oracle.read_topic(broker.bootstrap_servers, topic)
        consumer = consume(broker, topic, len(messages))
        eventually(lambda: app.messages() == len(messages) or process.poll() is not None, 240)
        alerts = sum(map(oracle.breaks_a_rule, good))
        eventually(lambda: app.get("/api/metrics")["total_alerts"] == alerts, 60)

        wanted = oracle.expected(records, known.get)
        told = app.get("/api/metrics")
        assert (told["total_messages"], told["rejected_messages"], told["late_messages"]) == (
            *(len(good), len(messages) - len(good)),
            sum(of["time_us"] < 0 for of in good),
        )
        assert oracle.differences(app.windows(), oracle.over_all_locations(wanted.windows)) == []
        assert {row["sensor_type"]: row["count"] for row in told["sensor_stats"]} == {
            name: sum(of["sensor_type"] == name for of in good) for name in {of["sensor_type"] for of in good}
        }
        require_rejected(broker, topic, records, known)

        assert consumer.returncode == 0, consumer.stderr
        said = consumer.stdout.decode()
        assert f"processed {len(messages):,} messages" in said
        assert f"malformed: {len(messages) - len(good):,}\n" in said
        assert f"alerts: {alerts:,}\n" in said
        assert all(character.isprintable() or character == "\n" for character in said)

        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{app.port}/")
        expect(page.get_by_test_id("value-messages")).to_have_text(f"{len(good):,}")
        expect(page.get_by_test_id("stats-rows")).to_contain_text(hostile.EVIL_NAMES[0])
        assert page.evaluate("window.executed") is None
        # With more types than the limit, the page names the limit and every reading still counts.
        now_us = time.time_ns() // 1_000
        more = [Message("s", f"type {n}", 1.0, format_timestamp(now_us)) for n in range(MAX_TYPES + 50)]
        write(broker.kafka, topic, ((b"s", encode(of)) for of in more))
        expect(page.get_by_test_id("value-messages")).to_have_text(f"{len(good) + len(more):,}")
        expect(page.get_by_test_id("limits")).to_contain_text("sensor types: 200")
        counts = {row["sensor_type"]: row["count"] for row in app.get("/api/metrics")["sensor_stats"]}
        assert (len(counts), sum(counts.values())) == (MAX_TYPES + 1, len(good) + len(more))
        assert app.status("/healthz") == 200
        assert problems == []
        page.close()


def require_rejected(broker: Broker, topic: str, records: list[oracle.Record], known: dict[Any, Any]) -> None:
    """The topic of rejected messages has exactly the bad ones, byte for byte, each with a reason."""
    bad = {(r.partition, r.offset): (r.key, r.value) for r in records if known[r.value] is None}
    found = {}
    for record in oracle.read_topic(broker.bootstrap_servers, REJECTED_TOPIC):
        headers = dict(record.headers)
        if headers["source.topic"].decode() == topic:
            assert headers["reason"]
            found[int(headers["source.partition"]), int(headers["source.offset"])] = (record.key, record.value)
    assert found == bad
