"""Alerts in Spark against the validator: the same verdict on every message, and exactly the same alerts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import chain, product
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from iot import alerts
from iot.alerts import DEFAULT_RULES, Rule, Rules
from iot.readings import CONVERSIONS, Reading, decode, decode_batch, encode
from iot.sensors.fleet import Fleet
from iot.spark import alerts as spark_alerts
from iot.spark import queries
from iot.spark.harmless import harmless_pattern
from tests.support.cases import CASES, EXAMPLE, bytes_of
from tests.support.generated_messages import END_OF_TIME_MS, EVERY_VALUE_ALERTS, MessageGenerator

Messages = Sequence[tuple[bytes | None, int]]
"""Messages, each with Kafka's timestamp in ms."""


def expected(
    messages: Messages, rules: Rules, topic: str = "a-topic", partition: int = 1
) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """The key and the alert by alert id, as the validator and the rules in Python have them."""
    found = {}
    verdicts = decode_batch([message for message, _ in messages], [stamp_ms for _, stamp_ms in messages])
    for offset, reading in enumerate(verdicts):
        broken = alerts.broken_bound(reading, rules) if isinstance(reading, Reading) else None
        if broken and isinstance(reading, Reading):
            alert = alerts.make_alert(reading, *broken, alerts.alert_id(topic, partition, offset))
            found[alert.alert_id] = reading.sensor_id.encode(), json.loads(alerts.encode(alert))
    return found


@pytest.fixture
def check(spark) -> Callable[[Messages, Rules], int]:
    """``check(messages, rules)`` compares Spark's alerts with the expected ones, and returns how many there are."""
    from pyspark.sql import functions as f

    def run(messages: Messages, rules: Rules) -> int:
        rows = [(message, "a-topic", 1, offset, stamp_ms) for offset, (message, stamp_ms) in enumerate(messages)]
        frame = spark.createDataFrame(rows, "value binary, topic string, partition int, offset long, ms long")
        raised = spark_alerts.alerts(frame.withColumn("timestamp", f.timestamp_millis("ms")), rules).collect()
        found = {
            alert["alert_id"]: (bytes(key), alert) for key, alert in ((r.key, json.loads(r.value)) for r in raised)
        }
        assert len(found) == len(raised)
        wanted = expected(messages, rules)
        for name in wanted.keys() | found.keys():
            # Compared as text, because -0.0 == 0.0.
            if repr(wanted.get(name)) != repr(found.get(name)):
                message, stamp_ms = messages[int(name.rpartition("-")[2])]
                pytest.fail(f"{message!r} at {stamp_ms}: wanted {wanted.get(name)}, found {found.get(name)}")
        return len(found)

    return run


@pytest.mark.parametrize(("ansi", "session_zone"), [("true", "UTC"), ("false", "Asia/Kolkata")])
def test_exactly_the_accepted_cases_of_the_table_raise_alerts(spark, check, ansi, session_zone):
    """Settings of the session do not change the result."""
    messages = [(bytes_of(case), case.get("kafka_timestamp_ms", END_OF_TIME_MS)) for case in CASES]
    settings = {"spark.sql.ansi.enabled": ansi, "spark.sql.session.timeZone": session_zone}
    before = {key: spark.conf.get(key) for key in settings}
    try:
        for key, value in settings.items():
            spark.conf.set(key, value)
        assert check(messages, EVERY_VALUE_ALERTS) == sum("accept" in case for case in CASES)
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)


def reading(**written: str) -> bytes:
    """The example as JSON; the given fields, in JSON, replace its own or are added at the end."""
    fields = {name: json.dumps(value) for name, value in msgspec.structs.asdict(EXAMPLE).items()} | written
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}").encode()


def test_large_messages_get_the_same_verdict_in_linear_time(check):
    """The parser limits the length of names and numbers, and a regular expression may take quadratic time."""
    name, many = "n" * 60_000, 300_000
    accepted = [
        reading(**{name: "1"}),
        reading(**{name + r"\u00e9\"": '"x"'}),
        reading(x=json.dumps(name)),
        reading(x='"' + r"\"\\\u0041\ud83d\ude00" * 30_000 + '"'),
        reading(x="[" + "[]," * many + "1]"),
        reading(x="7" * many),
        reading(sequence="7" * many),
        reading(value="0." + "0" * many + "7"),
        reading(timestamp=f'"2026-11-24T02:15:07.{"7" * many}Z"'),
        reading() + b" " * many,
    ]
    rejected = [
        reading(**{name + r"\u00g9": '"x"'}),
        reading(**{name + "\n": '"x"'}),
        reading(**{name + r"\ud83d": '"x"'}),
        reading(location=json.dumps(name)),
        reading(value="7" * many),
        reading(x="[" * many + "]" * many),
        reading() + b" " * many + b"x",
    ]
    for part in (
        '"',
        r"\"",
        "\\",
        "'",
        "{",
        "[",
        '{"a":',
        "7",
        "7:",
        "7 ",
        "-",
        "1e",
        " ",
        ",",
        r"\ud83d",
        '"a":',
        "\0",
    ):
        rejected += [part.encode() * many, reading(x='"' + part * many), reading(x=part * many + ":1")]
    messages = accepted + rejected
    assert check([(message, END_OF_TIME_MS) for message in messages], EVERY_VALUE_ALERTS) == len(accepted)


def test_timestamps_without_an_offset_are_local_time(check, zone, monkeypatch):
    monkeypatch.setattr(spark_alerts, "local_zone", lambda _: zone)
    texts = ["2026-11-24T02:15:07.5", "2026-07-01T14:00:00", "1970-01-01T00:00:00"]
    # In New York, clocks go forward on 8 March and back on 1 November.
    texts += ["2026-03-08T01:59:59", "2026-03-08T02:30:00", "2026-03-08T03:00:00", "2026-11-01T01:30:00"]
    texts += ["0001-01-01T00:00:00", "0001-01-01T23:59:59", "0001-01-02T00:00:00", "0001-01-03T12:00:00"]
    texts += ["9999-12-30T12:00:00", "9999-12-30T23:59:59.999999", "9999-12-31T00:00:00", "9999-12-31T12:00:00"]
    texts += ["9999-12-31T18:29:59", "9999-12-31T18:30:00", "9999-12-31T23:59:59.999999"]
    assert check([(reading(timestamp=f'"{text}"'), END_OF_TIME_MS) for text in texts], EVERY_VALUE_ALERTS) > 8


def test_local_time_is_that_of_the_machine_not_of_the_session(spark):
    moment = datetime(2026, 7, 1, tzinfo=UTC)
    assert moment.astimezone(ZoneInfo(spark_alerts.local_zone(spark))).utcoffset() == moment.astimezone().utcoffset()


def test_every_kind_of_rule_gives_the_same_alerts(check):
    rules = [
        Rule("temperature", "celsius", -25.0, -10.0),
        Rule("humidity", "percent", 0.0, 100.0),
        Rule("pressure", "hPa", min=1000.5),
        Rule("light", "lux", max=1e5),
        Rule("motion", "boolean", 0.5, 0.5),
        Rule("co2", "unknown", -1e308, 1e308),
        Rule("co2", "ppm", 400.0, 1999.9),
        Rule("temperature", "K", 273.15, 300.0),
        # Normalised readings never have this unit. The names contain characters that are special in patterns.
        Rule("temperature", "F", 60.0, 80.0),
        Rule('a.b*("c")\\E|x', "m/s^2 [$1]", -3.7, 12.0),
    ]
    edges = [-25.0, -10.0, 0.0, 0.5, 12.0, 100.0, 400.0, 1000.5, 1999.9, 273.15, 300.0, 1e5, 1e9, 1e15, 60.0, 80.0]
    edges += [edge * 1.8 + 32 for edge in edges] + [edge * 100 for edge in edges] + [-3.7]
    values = [edge + delta for edge in edges for delta in (-1, -0.01, 0, 0.01, 1)]
    messages = [
        (reading(sensor_type=json.dumps(rule.sensor_type), value=str(value), unit=unit), END_OF_TIME_MS)
        for rule in rules
        for unit in {
            "null",
            json.dumps(rule.unit),
            *(f'"{unit}"' for of, unit in CONVERSIONS if of == rule.sensor_type),
        }
        for value in values
    ]
    assert check(messages, Rules(tuple(rules))) > len(messages) // 4


def test_no_field_is_hidden_from_the_pattern_of_harmless_messages(check):
    """Adds a field that raises an alert to a harmless reading, in any place: twice, or written with an escape."""
    fields = [
        '"sensor_id":"x"',
        '"location":"y"',
        '"value":20.5',
        '"unit":"celsius"',
        '"timestamp":"2026-01-01T00:00:00Z"',
    ]
    added = ['"value":99', '"value" :99', r'"v\u0061lue":99', '"unit":"F"', r'"un\u0069t":"\u00b0F"', '"unit" : "F"']
    added += ['"sensor_type":"humidity"', r'"sensor\u005ftype":"humidity"', '"sensor_type" :"humidity"']
    added += ['"value":2e1,"value":9e1', '"x":{"value":99}', '"x":"value","value":99', r'"x":"\\","value":99,"y":"\\"']
    added += [r'"x":"\"","value":99', r'"x":"a\"","value":99,"y":"b"', '"x":[","],"value":99', '"":"","value":99']
    texts = []
    for sensor_type, new in product(("temperature", "motion"), added):
        typed = [fields[0], f'"sensor_type":"{sensor_type}"', *fields[1:]]
        texts += [",".join([*typed[:at], new, *typed[at:]]) for at in range(len(typed) + 1)]
    messages = [f"{{{text}}}".encode() for text in texts]
    messages += [message.replace(b'":', b'": ').replace(b',"', b', "') for message in messages]
    # The last of two equal fields counts, so an added field before the original one raises no alert.
    assert check([(message, END_OF_TIME_MS) for message in messages], DEFAULT_RULES) > 50


@pytest.mark.parametrize("space", ["", " "])
def test_readings_in_the_usual_form_are_parsed_only_if_they_raise_an_alert(spark, space):
    """Values equal to a bound are parsed too."""
    moments_us = 1_795_486_507_000_000 + np.arange(20_000, dtype=np.int64) * 40_000
    messages = [record["value"] for record in Fleet(50, 1, "k3f9").records(moments_us)]
    # The same readings with their fields in another order.
    messages += [encode(decode(message)) for message in messages]
    messages = [re.sub(rb'(":|,)(?=["0-9-])', rb"\1" + space.encode(), message) for message in messages]
    frame = spark.createDataFrame([(message,) for message in messages], "value binary")
    parsed = frame.where(~frame.value.cast("string").rlike(harmless_pattern(DEFAULT_RULES))).collect()
    on_a_bound = sum(decode(bytes(row.value)).value in (30.0, 70.0, 1030.0) for row in parsed)
    raised = expected([(message, END_OF_TIME_MS) for message in messages], DEFAULT_RULES)
    assert len(parsed) == len(raised) + on_a_bound
    assert 0 < len(parsed) < len(messages) / 10


def test_the_optimiser_copies_no_expensive_expression(spark):
    source = "value binary, topic string, partition int, offset long, timestamp timestamp"
    plan = spark_alerts.alerts(spark.createDataFrame([], source), DEFAULT_RULES)._jdf.queryExecution().optimizedPlan()
    expensive = ("RLIKE(cast(value", "regexp_replace(", "from_json(", "StructsToJson")
    assert [plan.toString().count(name) for name in expensive] == [2, 1, 2, 1]


def test_real_time_mode_writes_each_alert_once_and_survives_any_message(spark, broker, topic, tmp_path, eventually):
    """The key of an alert is its sensor id."""
    source = f"{topic}-source"
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    # Real-time mode occupies a task slot for each partition as long as it runs.
    admin.create_topics({source: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    raised = spark_alerts.alerts(queries.read_topic(spark, broker.kafka, source, {0: 0}), DEFAULT_RULES)
    query = queries.start_alerts(raised, broker.kafka, topic, tmp_path, {"realTime": "5 minutes"})
    consumer = KafkaConsumer(topic, bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    try:
        generator = MessageGenerator(seed=2)
        messages = [generator.message()[0] for _ in range(500)]
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        sent = [producer.send(source, message, partition=0) for message in messages]
        stamped = [(message, future.get(30).timestamp) for message, future in zip(messages, sent, strict=True)]
        producer.close()
        wanted = expected(stamped, DEFAULT_RULES, source, partition=0)
        found: dict[str, tuple[bytes, dict[str, Any]]] = {}

        def all_are_there() -> bool:
            for record in chain.from_iterable(consumer.poll(timeout_ms=100).values()):
                alert = json.loads(record.value)
                found[alert["alert_id"]] = record.key, alert
            return not query.isActive or len(found) >= len(wanted)

        eventually(all_are_there, 60)
        assert query.isActive, query.exception()
        assert found == wanted
        assert len(found) > 20
    finally:
        query.stop()
        consumer.close()


@pytest.mark.parametrize(
    "rules", [EVERY_VALUE_ALERTS, DEFAULT_RULES], ids=["every value breaks the rules", "the default rules"]
)
def test_generated_messages_give_the_same_alerts(check, rules):
    generator = MessageGenerator(seed=1)
    assert check([generator.message() for _ in range(6_000)], rules) > 750
