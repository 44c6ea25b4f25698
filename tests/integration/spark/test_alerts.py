"""Alerts in Spark: the validator's verdict on every message, and the same alert to the last bit."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from itertools import chain, product
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from iot import alerts
from iot.alerts import DEFAULT_RULES, Rule, Rules
from iot.readings import CONVERSIONS, MAX_STRING, Reading, decode, decode_batch, encode
from iot.sensors.fleet import Fleet
from iot.spark import alerts as spark_alerts
from iot.spark import queries
from iot.spark.harmless import harmless_pattern
from tests.unit.test_readings import CASES, EXAMPLE, bytes_of, zone  # noqa: F401  # a fixture

pytestmark = pytest.mark.integration

KAFKA_MS = 1_795_486_447_123
"""A Kafka timestamp that lets in what is stamped 2026-11-24T02:15:07.123, and nothing later."""
END_OF_TIME_MS = 253_402_300_800_000

# Rules that every value breaks.
ANYTHING = {
    (case["accept"]["sensor_type"], case["accept"]["unit"]): Rule(
        case["accept"]["sensor_type"], case["accept"]["unit"], max=-1e308
    )
    for case in CASES
    if "accept" in case
}

Messages = Sequence[tuple[bytes | None, int]]
"""Messages and Kafka's timestamps of them, in ms."""


def expected(
    messages: Messages, rules: Rules, topic: str = "a-topic", partition: int = 1
) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """By alert id: key and alert, by the validator."""
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
    """``check(messages, rules)`` holds Spark's alerts against the validator's; returns how many there are."""
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
            # As text, because -0.0 is not 0.0.
            if repr(wanted.get(name)) != repr(found.get(name)):
                message, stamp_ms = messages[int(name.rpartition("-")[2])]
                pytest.fail(f"{message!r} at {stamp_ms}: wanted {wanted.get(name)}, found {found.get(name)}")
        return len(found)

    return run


@pytest.mark.parametrize(("ansi", "session_zone"), [("true", "UTC"), ("false", "Asia/Kolkata")])
def test_every_case_of_the_table(spark, check, ansi, session_zone):
    """All that is accepted raises an alert, and nothing else does, whatever the session is set to."""
    messages = [(bytes_of(case), case.get("kafka_timestamp_ms", END_OF_TIME_MS)) for case in CASES]
    settings = {"spark.sql.ansi.enabled": ansi, "spark.sql.session.timeZone": session_zone}
    before = {key: spark.conf.get(key) for key in settings}
    try:
        for key, value in settings.items():
            spark.conf.set(key, value)
        assert check(messages, ANYTHING) == sum("accept" in case for case in CASES)
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)


def reading(**written: str) -> bytes:
    """The example as JSON, with fields written as told, last."""
    fields = {name: json.dumps(value) for name, value in msgspec.structs.asdict(EXAMPLE).items()} | written
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}").encode()


def test_what_only_large_messages_can_hold(check):
    """The parser has limits of its own, on names and digits; and nothing may take time that grows with the square."""
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
    assert check([(message, END_OF_TIME_MS) for message in messages], ANYTHING) == len(accepted)


def test_timestamps_without_an_offset_are_local_time(check, zone, monkeypatch):  # noqa: F811  # a fixture
    monkeypatch.setattr(spark_alerts, "local_zone", lambda _: zone)
    texts = ["2026-11-24T02:15:07.5", "2026-07-01T14:00:00", "1970-01-01T00:00:00"]
    # In New York the clock is put forward, and back.
    texts += ["2026-03-08T01:59:59", "2026-03-08T02:30:00", "2026-03-08T03:00:00", "2026-11-01T01:30:00"]
    texts += ["0001-01-01T00:00:00", "0001-01-01T23:59:59", "0001-01-02T00:00:00", "0001-01-03T12:00:00"]
    texts += ["9999-12-31T12:00:00", "9999-12-31T18:29:59", "9999-12-31T18:30:00", "9999-12-31T23:59:59.999999"]
    assert check([(reading(timestamp=f'"{text}"'), END_OF_TIME_MS) for text in texts], ANYTHING) > 8


def test_local_time_is_the_machines_not_the_sessions(spark):
    moment = datetime(2026, 7, 1, tzinfo=timezone.utc)
    assert moment.astimezone(ZoneInfo(spark_alerts.local_zone(spark))).utcoffset() == moment.astimezone().utcoffset()


def test_rules_of_all_kinds(check):
    rules = [
        Rule("temperature", "celsius", -25.0, -10.0),
        Rule("humidity", "percent", 0.0, 100.0),
        Rule("pressure", "hPa", min=1000.5),
        Rule("light", "lux", max=1e5),
        Rule("motion", "boolean", 0.5, 0.5),
        Rule("co2", "unknown", -1e308, 1e308),
        Rule("co2", "ppm", 400.0, 1999.9),
        Rule("temperature", "K", 273.15, 300.0),
        # A unit that no reading has once it is normalised, and names with a meaning in patterns.
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
    assert check(messages, {(rule.sensor_type, rule.unit): rule for rule in rules}) > len(messages) // 4


def test_the_first_look_overlooks_no_field(check):
    """In a reading that is harmless, put a field anywhere that is not: given twice, or written with an escape."""
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
    # The last counts, so most that comes before what it is to replace does no harm.
    assert check([(message, END_OF_TIME_MS) for message in messages], DEFAULT_RULES) > 50


@pytest.mark.parametrize("space", ["", " "])
def test_readings_in_the_usual_form_are_not_parsed_for_nothing(spark, space):
    """Only what raises an alert gets past the first look, and values equal to a bound."""
    moments_us = 1_795_486_507_000_000 + np.arange(20_000, dtype=np.int64) * 40_000
    messages = [record["value"] for record in Fleet(50, 1, "k3f9").records(moments_us)]
    # The fields in another order.
    messages += [encode(decode(message)) for message in messages]
    messages = [re.sub(rb'(":|,)(?=["0-9-])', rb"\1" + space.encode(), message) for message in messages]
    frame = spark.createDataFrame([(message,) for message in messages], "value binary")
    looked_at = frame.where(~frame.value.cast("string").rlike(harmless_pattern(DEFAULT_RULES))).collect()
    on_a_bound = sum(decode(bytes(row.value)).value in (30.0, 70.0, 1030.0) for row in looked_at)
    raised = expected([(message, END_OF_TIME_MS) for message in messages], DEFAULT_RULES)
    assert len(looked_at) == len(raised) + on_a_bound
    assert 0 < len(looked_at) < len(messages) / 10


def test_the_optimiser_copies_nothing_dear(spark):
    source = "value binary, topic string, partition int, offset long, timestamp timestamp"
    plan = spark_alerts.alerts(spark.createDataFrame([], source), DEFAULT_RULES)._jdf.queryExecution().optimizedPlan()
    dear = ("RLIKE(cast(value", "regexp_replace(", "from_json(", "StructsToJson")
    assert [plan.toString().count(name) for name in dear] == [2, 1, 2, 1]


def test_in_real_time_mode(spark, broker, topic, tmp_path, eventually):
    """Each alert once, in the topic of alerts, keyed by its sensor; the query goes on whatever it is sent."""
    source = f"{topic}-source"
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    # The mode takes a task slot for each partition, for as long as it runs.
    admin.create_topics({source: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    raised = spark_alerts.alerts(queries.read_topic(spark, broker.kafka, source, {0: 0}), DEFAULT_RULES)
    query = queries.start_alerts(raised, broker.kafka, topic, tmp_path, {"realTime": "5 minutes"})
    consumer = KafkaConsumer(topic, bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    try:
        maker = Maker(seed=2)
        messages = [maker.message()[0] for _ in range(500)]
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


# Made-up messages -----------------------------------------------------------------------------------------------------

# Values about the bounds, in every unit, and of every kind.
VALUES = """
15 15.0 15.00 14.999999999999998 14.99999999999999999999 30 30.0 29.99999999999999999999 30.000000000000004 30.1 29.9
59 59.0 58.99999 86 86.0 86.00000000000001 86.00000000000000000001 87 70 70.0 69.99 70.00000000000001 71 29 5e-324
1000 999.9999999999999 999.99 1030 1030.01 1031 100000 99999.99 103000 103000.00000000001 103001 -40 212 -0.5 0 -0 -0.0
-0e5 1.5e1 3E+1 0.1e3 1e-400 1.7976931348623157e308 1.7976931348623159e308 9007199254740993 1009.4200000000001
2.4703282292062328e-324 123456789.123456789123456789 18446744073709551617
"""
ODD_WORDS = r"""
null true false "" "x" {} [] {"value":99} [1,"a",{"unit":"F"}] NaN Infinity -Infinity - 01 -01 1. .5 +1 1e 1e999 -1e999
1_0 0x1f "NaN" tru nulll 'x' "\ud83d" "\ude00\ud83d" "\ud83d\ude00" "\u0000" "\x" "\u12" "\\" "\"" "\\\"" "a\/b" 1.0
"{[,:]}" "value" ":" [1,] [,1] {"a"} {"a":} {1:2} {a:1} {"a":1,} {"a":1,"a":2} [1e999] [-] ["\ud800"] [NaN] ["\x"] 1.5
{"\ud800":1} -1 "1" 1: ":1" "1:" : "\ud83d\u0041" "\ud83d\ud83d" "\\ud83d"
"""
ODD = [
    *ODD_WORDS.split(),
    *(
        "/* c */ 1",
        "1 2",
        '"a" "b"',
        '"a\nb"',
        '"\x7f"',
        "\0",
        '"\0"',
        "\ufeff1",
        "1\u00a0",
        '"😀"',
        r'"\u 123"',
        '"\\\n"',
    ),
    *(f'"{text * length}"' for text in ("é", "😀", r"\ud83d\ude00", r"\n") for length in (MAX_STRING, MAX_STRING + 1)),
    *("1" * 30, "1" * 400, "-" + "9" * 5000, "0." + "0" * 400 + "1", "1" * 1100 + "e-1098", '"' + "[" * 150 + '"'),
    *("[" * depth + "]" * depth for depth in (98, 99, 100, 101)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (99, 100)),
]
AROUND = ["x", "]", "[", "}", "{", ",", '""', "{}", ",{}", "]}", "[]", "#", " ", "\ufeff", "\u00a0", "\0"]
AROUND += [',{"end":true}]', '],[{"end":true}', ',{"end":true}]x']
BYTES = [byte.encode() for byte in '"\\{}[]:,0-e. \n\0'] + [
    b"",
    b"1e999",
    b"null",
    rb"\ud83d",
    rb"\u0022",
    b"\xff",
    b"\xc3",
]
BYTES += [b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98\x80"]


class Maker:
    """Makes messages, from good ones to hopeless ones."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def message(self) -> tuple[bytes, int]:
        pick, chance = self._chance.choice, self._chance.random
        # How likely it is that something is wrong with a part of the message.
        self._mischief = pick([0.0, 0.0, 0.03, 0.2])
        names = list(msgspec.structs.asdict(EXAMPLE))
        if chance() < 0.5:
            self._chance.shuffle(names)
        names = [name for name in names if name not in ("unit", "location", "quality", "run_id") or chance() < 0.8]
        fields = [(self._string(name, 0.1), self._field(name)) for name in names if chance() > self._mischief / 10]
        while chance() < self._mischief + 0.1:
            name = pick([*names, "x", "", "time_us", "Value", "value ", "n" * 200, "é"])
            fields.insert(self._chance.randint(0, len(fields)), (self._string(name, 0.3), self._field(name)))
        comma, colon = pick([(",", ":"), (", ", ": "), (", ", ": "), (" ,\t", "\r: "), (",\n  ", ":")])
        text = "{" + comma.join(name + colon + value for name, value in fields) + "}"
        if chance() < self._mischief:
            text = pick(["", pick(AROUND)]) + text + pick(AROUND)
        message = bytearray(text, "utf-8", "surrogatepass")
        while chance() < self._mischief:
            at = self._chance.randint(0, len(message))
            message[at : at + pick([0, 0, 1, 1, 2, 5])] = pick([*BYTES, bytes([self._chance.randrange(256)])])
        return bytes(message), pick([KAFKA_MS, KAFKA_MS, KAFKA_MS - 1, END_OF_TIME_MS, 0, -1])

    def _field(self, name: str) -> str:
        pick, chance = self._chance.choice, self._chance.random
        if chance() < self._mischief / 2 or name not in msgspec.structs.asdict(EXAMPLE):
            return pick(ODD)
        if name == "value":
            many_digits = f"{pick(['', 1, 10])}{self._chance.randint(10, 99)}.{self._chance.randrange(10**40):040d}"
            number = many_digits[: self._chance.randint(6, len(many_digits))]
            return pick([pick(VALUES.split()), number, repr(self._chance.uniform(-1100, 1100))])
        if name == "timestamp":
            return self._string(self.timestamp(), 0.1)
        if name == "sensor_type":
            return self._string(pick(["temperature", "humidity", "pressure"] * 5 + [key[0] for key in ANYTHING]), 0.1)
        if name == "unit":
            return pick(["null", *(self._string(key[1], 0.1) for key in ANYTHING), *(f'"{u}"' for _, u in CONVERSIONS)])
        if name == "sequence":
            return pick(["null", "0", "-0", str(self._chance.randrange(10**30))])
        characters = 'ab7_é😀"\\/\n\0\x1f\u2028\x7f\ufeff{]:, '
        length = pick([1, 2, 5, 5, MAX_STRING - 1, MAX_STRING])
        return pick(['"x"', self._string("".join(self._chance.choices(characters, k=length)), 0.3)])

    def _string(self, text: str, escapes: float) -> str:
        """A string of JSON, in one of the ways to write it."""
        if self._chance.random() > escapes:
            return json.dumps(text, ensure_ascii=False)
        ascii_only = json.dumps(text)[1:-1]
        chosen = (f"\\u{ord(c):04X}" if c.isalpha() and self._chance.random() < 0.5 else c for c in ascii_only)
        return json.dumps(text) if "\\" in ascii_only else f'"{"".join(chosen)}"'

    def timestamp(self) -> str:
        pick, chance = self._chance.choice, self._chance.random
        fraction = pick(["", ".0", ".1", ".123", ".123000", ".123001", ".1230009", ".123456", ".9999999999999999999"])
        offset = pick(["Z", "", "+00:00", "+00:00", "-00:00", "+00:01", "-00:01", "+18:01", "+23:59", "-23:59"])
        if chance() < 0.5:
            return f"2026-11-24T02:15:07{fraction}{offset}"
        year = pick(
            ["0001", "0001", "0002", "1582", "1883", "1969", "1970", "2000", "2023", "2024", "2026", "2100", "9999"]
        )
        day = pick(["01-01", "01-02", "02-28", "03-08", "03-29", "06-30", "10-25", "11-01", "12-31", "12-31"])
        clock = pick(["00:00:00", "00:59:59", "01:30:00", "02:00:00", "02:30:00", "12:34:56", "18:30:00", "23:59:59"])
        text = f"{year}-{day}T{clock}{fraction}{offset}"
        if chance() < self._mischief:
            day = pick(["02-29", "02-30", "04-31", "00-10", "13-01", "01-00", "01-32"])
            clock = pick(["24:00:00", "23:60:00", "23:59:60", "1:00:00", "12:00"])
            text = pick([f"{year}-{day}T12:00:00Z", f"{year}-01-01T{clock}Z", "0000-12-31T23:59:59-00:01", text[:-1]])
        while chance() < self._mischief / 2:
            at = self._chance.randint(0, len(text))
            text = text[:at] + pick("0 xTZ+-:.,٢−\n") + text[at + pick([0, 1]) :]
        return text


@pytest.mark.parametrize("rules", [ANYTHING, DEFAULT_RULES], ids=["any value breaks the rules", "the default rules"])
def test_thousands_of_made_up_messages(check, rules):
    maker = Maker(seed=1)
    assert check([maker.message() for _ in range(6_000)], rules) > 750
