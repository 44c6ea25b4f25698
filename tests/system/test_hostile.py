"""Hostile messages, more names than there is room for, and clocks that are wrong: all else goes on, and is exact."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from playwright.sync_api import expect

from iot import rejected
from iot.batches import MAX_LOCATIONS, MAX_SENSORS, MAX_TYPES, OTHER
from iot.broker.broker import Broker
from iot.kafka.rejected_topic import RejectedMessage
from iot.readings import Message, decode, encode, format_timestamp
from iot.results.model import Batch, Status
from iot.results.store import Store
from iot.settings import REJECTED_TOPIC
from iot.spark import fold
from iot.spark.contexts import Context
from iot.spark.rejected import RejectedWriter
from iot.web.figures import metrics
from tests.support import hostile, oracle
from tests.support.results import IDENTITY
from tests.support.streams import Results, windows_of, write
from tests.system.test_app import SIDES, App
from tests.system.test_page import browser as browser  # a fixture
from tests.unit.spark.test_fold import BASE_MS, BASE_US, Sent, reading, run, windows

ROOT = Path(__file__).parents[2]
HOSTILE = 10_000
integration = pytest.mark.integration


# Hostile messages -----------------------------------------------------------------------------------------------------


def consume(broker: Broker, topic: str, count: int) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(ROOT / "iot_consumer.py"), "--bootstrap-servers", broker.bootstrap_servers]
    command += ["--topic", topic, "--group", topic, "--from-beginning", "--max-messages", str(count)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False)


def is_alert(of: dict[str, Any]) -> bool:
    low, high = SIDES.get(of["sensor_type"], (float("-inf"), float("inf")))
    return not low <= of["value"] <= high


@integration
@pytest.mark.timeout(600)
def test_among_ten_thousand_hostile_messages_every_good_reading_counts(broker, topic, browser, tmp_path, eventually):
    messages = list(hostile.messages(HOSTILE, 5_000, 3, seed=7, until_us=time.time_ns() // 1_000, span_s=60))
    known = {message.value: message.reading for message in messages}
    good = [message.reading for message in messages if message.reading]
    app = App(broker, topic, tmp_path)
    with app.running() as process:
        as_sent = ((message.key, message.value) for message in messages)
        write(broker.kafka, topic, as_sent, at_once=500, **{"message.max.bytes": 2**20})
        records = oracle.read_topic(broker.bootstrap_servers, topic)
        consumer = consume(broker, topic, len(messages))
        eventually(lambda: app.messages() == len(messages) or process.poll() is not None, 240)
        alerts = sum(map(is_alert, good))
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
        # More types than have rows of their own: the page says so, and nothing is lost.
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
    """Each bad message is in the topic of rejected ones, byte for byte, with a reason; and nothing else."""
    bad = {(r.partition, r.offset): (r.key, r.value) for r in records if known[r.value] is None}
    found = {}
    for record in oracle.read_topic(broker.bootstrap_servers, REJECTED_TOPIC):
        headers = dict(record.headers)
        if headers["source.topic"].decode() == topic:
            assert headers["reason"]
            found[int(headers["source.partition"]), int(headers["source.offset"])] = (record.key, record.value)
    assert found == bad


# Corrected, and sent again --------------------------------------------------------------------------------------------


def good_fields(**fields: Any) -> dict[str, Any]:
    stamp = format_timestamp(BASE_US)
    return {"sensor_id": "s", "sensor_type": "temperature", "value": 21.5, "timestamp": stamp} | fields


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (json.dumps(good_fields(value="21,5")).encode(), good_fields(value="21,5")),
        ('{"location": "Küche\\n", "value": 1, "value": "2"}'.encode(), {"location": "Küche\n", "value": "2"}),
        (b'{"value": NaN}', {"rejected": {"text": '{"value": NaN}'}}),
        (b'{"value": 1e999}', {"rejected": {"text": '{"value": 1e999}'}}),
        (b'{"a": "\\ud800"}', {"rejected": {"text": '{"a": "\\ud800"}'}}),
        (b"[1]", {"rejected": {"text": "[1]"}}),
        (b"[" * 100_000, {"rejected": {"text": "[" * 100_000}}),
        (b"", {"rejected": {"text": ""}}),
        (None, {"rejected": {"text": None}}),
        (b"\xff\x00", {"rejected": {"base64": base64.b64encode(b"\xff\x00").decode()}}),
    ],
)
def test_a_rejected_message_as_a_line_to_correct(value, line):
    made = rejected.json_line(RejectedMessage(value, "the reason", "readings", 2, 7, BASE_MS))
    assert made.count(b"\n") == 1
    known = {
        "reason": "the reason",
        "topic": "readings",
        "partition": 2,
        "offset": 7,
        "at": format_timestamp(BASE_MS * 1_000),
    }
    assert json.loads(made) == line | {"rejected": known | line.get("rejected", {})}


def command(module: tuple[str, ...], broker: Broker, topic: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *module, "--bootstrap-servers", broker.bootstrap_servers, "--topic", topic, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)


@integration
def test_rejected_messages_are_corrected_and_sent_again(broker, topic, tmp_path):
    values = [
        json.dumps(good_fields(value="21.5")).encode(),
        json.dumps(good_fields(value="22.5", location="Küche")).encode(),
        b"\xff",
        json.dumps(good_fields(sensor_id="")).encode(),
    ]
    batch = pa.RecordBatch.from_pydict(
        {
            "key": pa.array([b"k"] * len(values), pa.binary()),
            "value": pa.array(values, pa.binary()),
            "partition": pa.array([0] * len(values), pa.int32()),
            "offset": pa.array(range(len(values)), pa.int64()),
        }
    )
    reasons = ["value: expected `float`, got `str`"] * 2 + ["invalid UTF-8 (byte 0)", "sensor_id: too short"]
    for writes_to in (topic, topic, f"{topic}-other"):
        # The second time it is a repeat.
        RejectedWriter(broker.kafka, REJECTED_TOPIC, writes_to)(batch, list(enumerate(reasons)))
    file = tmp_path / "rejected.jsonl"
    fetch = ("-m", "iot.rejected")
    counted = command(fetch, broker, topic)
    assert counted.stdout.splitlines() == [
        f"4 messages of {topic} were rejected",
        "        2  value: expected `float`, got `str`",
        "        1  invalid UTF-8",
        "        1  sensor_id: too short",
    ]
    fetched = command(fetch, broker, topic, "--to", str(file), "--reason", "value: ")
    assert f"--replay {file} --timestamps recorded" in fetched.stdout, fetched.stderr
    # Nothing corrected is overwritten, and nothing was rejected tomorrow.
    again = command(fetch, broker, topic, "--to", str(file))
    assert (again.returncode, again.stderr.count("\n"), "already exists" in again.stderr) == (1, 1, True)
    assert "0 messages" in command(fetch, broker, topic, "--since", "2999-01-01T00:00:00Z").stdout

    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    corrected = [json.dumps(line | {"value": float(line["value"])}) for line in lines]
    file.write_text("\n".join(corrected), encoding="utf-8")
    replayed = command(
        ("iot_producer.py",), broker, topic, "--replay", str(file), "--timestamps", "recorded", "--rate", "100"
    )
    assert replayed.returncode == 0, replayed.stderr
    sent = [decode(record.value) for record in oracle.read_topic(broker.bootstrap_servers, topic)]
    assert {(of.value, of.location, of.time_us) for of in sent} == {
        (21.5, "unknown", BASE_US), (22.5, "Küche", BASE_US)
    }  # fmt: skip


def test_a_moment_that_is_none_is_a_bad_flag(refuses):
    assert "--since" in refuses(rejected.parse_args, ["--since", "yesterday"])


# More names than there is room for ------------------------------------------------------------------------------------


def test_types_locations_and_sensors_without_end_stay_within_the_limits(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'results.db'}")
    store.reset(IDENTITY, "state")
    context, sizes = Context(), []
    # Nothing in the second batch was there before.
    for batch_id, numbers in enumerate((range(100_000), range(100_000, 120_000))):
        sent = [
            Sent(0, BASE_MS + batch_id, reading(BASE_US, 20.0, f"s{n}", sensor_type=f"type {n}", location=f"place {n}"))
            for n in numbers
        ]
        rows, report, context = run(sent, context)
        assert len(rows) <= MAX_TYPES + MAX_LOCATIONS + 1
        assert len(report.latest) == len(numbers)
        store.write_batch(Batch("windows", batch_id, as_windows(rows), report), {}, BASE_MS / 1_000)
        sizes.append((tmp_path / "results.db").stat().st_size)
    state = store.read(BASE_MS / 1_000)
    assert (state.messages, state.sensors, len(state.totals)) == (120_000, MAX_SENSORS, MAX_TYPES + 1)
    assert state.totals[OTHER].count == 120_000 - MAX_TYPES
    assert (len(state.sensor_types), len(state.locations)) == (MAX_TYPES, MAX_LOCATIONS)
    assert max(sizes) < 20 * 2**20
    state.status = Status(BASE_MS / 1_000, BASE_MS / 1_000, [])
    answer = msgspec.to_builtins(metrics(state, BASE_MS / 1_000))
    assert answer["limits_reached"] == ["sensor types: 200", "locations: 1,000", "sensors: 100,000"]
    # What the page is sent.
    assert len(json.dumps(answer)) < 300_000
    store.close()


def as_windows(rows: list[dict[str, Any]]) -> pa.Table:
    """The windows of judged rows, as Spark hands them on."""
    slot_us = fold.SLOT_US
    end_us = BASE_US // slot_us * slot_us + slot_us
    made = [
        {name: row[name] for name in ("sensor_type", "location", "unit", "count", "total", "min", "max")}
        | {"end": end_us + more * slot_us}
        for row in rows
        for more in range(fold.SLOTS_PER_WINDOW)
    ]
    table = pa.Table.from_pylist(made)
    return table.set_column(table.column_names.index("end"), "end", table["end"].cast(pa.timestamp("us", "UTC")))


# Clocks that are wrong ------------------------------------------------------------------------------------------------

DAY_US = 86_400_000_000


def test_a_day_ahead_or_behind_changes_nobody_elses_figures():
    others = [
        Sent(n % 3, BASE_MS + n, reading(BASE_US + n * 1_000, n, f"s{n % 9}", location="hall")) for n in range(3_000)
    ]
    wrong = {
        n: reading(BASE_US + n * 1_000 + ahead_us, 99.0, "wrong", location="elsewhere")
        for n in range(50, 3_000, 100)
        for ahead_us in [DAY_US if n % 200 == 50 else -DAY_US]
    }
    mixed = []
    for n, one in enumerate(others):
        mixed.append(one)
        if n in wrong:
            mixed.append(Sent(one.partition, one.arrived_ms, wrong[n]))
    for sent, size in ((mixed, 50_000), (mixed, 17)):
        found: dict[Any, list[float]] = {}
        context, totals = Context(), [0, 0, 0]
        # In three batches, so that what one leaves behind is looked at too.
        for at in range(0, len(sent), 1_010):
            rows, report, context = run(sent[at : at + 1_010], context, size)
            totals = [a + b for a, b in zip(totals, (report.messages, report.rejected, report.late), strict=True)]
            for key, (count, low, high) in windows(rows).items():
                seen = found.setdefault(key, [0, low, high])
                found[key] = [seen[0] + count, min(seen[1], low), max(seen[2], high)]
        assert found == windows(run(others)[0])
        assert totals == [3_000 + 15, 15, 15]
        newest_s = max(int(decode(one.value).time_us) for one in others) // 1_000_000
        assert max(steps[-1][1] for steps in context.progress.values()) == newest_s


@integration
@pytest.mark.timeout(300)
def test_spark_gives_the_same_windows_beside_clocks_that_are_wrong(spark, broker, topic, tmp_path):
    now_us = time.time_ns() // 1_000
    results = Results()
    query = windows_of(spark, broker, topic, tmp_path, results, trigger={"processingTime": "0 seconds"})
    try:
        for part in range(3):
            sent = []
            for n in range(400):
                at_us = now_us - 60_000_000 + (part * 400 + n) * 50_000
                sent.append(Message(f"s{n % 7}", "temperature", float(n), format_timestamp(at_us), "hall"))
                if n % 20 == 0:
                    ahead_us = DAY_US if n % 40 else -DAY_US
                    sent.append(Message("wrong", "temperature", 99.0, format_timestamp(at_us + ahead_us), "hall"))
            write(broker.kafka, topic, ((of.sensor_id.encode(), encode(of)) for of in sent), at_once=50)
            query.processAllAvailable()
    finally:
        query.stop()
    records = oracle.read_topic(broker.bootstrap_servers, topic)
    others = [record for record in records if record.key != b"wrong"]
    wanted = oracle.expected(others)
    assert (results.messages, results.rejected, results.late) == (1_200 + 30, 30, 30)
    assert oracle.differences(results.windows, wanted.windows) == []
