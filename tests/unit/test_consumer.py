"""How the consumer processes messages, and its flags."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import SimpleNamespace

import pytest

import iot_consumer
from iot.alerts import DEFAULT_RULES
from iot.readings import Message, encode
from iot.settings import UserError
from iot.statistics import Aggregate, Statistics
from iot_consumer import parse_args, process
from tests.support.readings import TIMESTAMP, temperature

KAFKA_MS = 1_795_486_507_123


def records(values: Iterable[bytes | None]) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(topic="t", partition=1, offset=offset, timestamp=KAFKA_MS, value=value)
        for offset, value in enumerate(values, start=7)
    ]


def test_alerts_and_malformed_messages_are_printed_and_counted():
    statistics = Statistics(0.0)
    late = encode(Message("sensor_1", "light", 380.0, "2020-01-01T00:00:00Z"))
    early = encode(Message("sensor_1", "light", 380.0, "2026-11-24T02:16:08Z"))
    values = [temperature(30.0), temperature(31.7), late, None, early, temperature(14.0)]
    assert process(records(values), DEFAULT_RULES, statistics, 1.0) == [
        f"ALERT HIGH_TEMPERATURE sensor_0 31.7 celsius > 30.0, unknown, {TIMESTAMP}",
        "MALFORMED t partition 1 offset 10: empty message",
        "MALFORMED t partition 1 offset 11: future timestamp",
        f"ALERT LOW_TEMPERATURE sensor_0 14.0 celsius < 15.0, unknown, {TIMESTAMP}",
    ]
    assert statistics.run.messages == 6
    assert statistics.run.values == {
        "temperature": Aggregate(3, 30.0 + 31.7 + 14.0, 14.0, 31.7),
        "light": Aggregate(1, 380, 380, 380),
    }
    assert statistics.malformed == {"empty message": 1, "future timestamp": 1}
    assert statistics.alerts == {"HIGH_TEMPERATURE": 1, "LOW_TEMPERATURE": 1}


def test_a_flood_of_malformed_messages_does_not_hide_alerts():
    statistics = Statistics(0.0)
    cut = [temperature(20.0)[:length] for length in range(1, 41)]
    lines = process(records([*cut, b"", temperature(99.0)]), DEFAULT_RULES, statistics, 1.0)
    shown = [line for line in lines if "not JSON" in line]
    assert len(shown) == 10
    assert [line.endswith("; more of this kind are only counted") for line in shown] == [False] * 9 + [True]
    assert lines[-2].startswith("MALFORMED t partition 1 offset 47: empty message")
    assert lines[-1].startswith("ALERT HIGH_TEMPERATURE")
    assert statistics.malformed.total() == 41
    # The limit holds across polls.
    assert process(records(cut), DEFAULT_RULES, statistics, 2.0) == []


@pytest.mark.parametrize("wrong", [["--max-messages", "0"], ["--max-messages", "x"], ["--group", " "], ["--unknown"]])
def test_bad_flags_exit_2(wrong, refuses):
    refuses(parse_args, wrong)


def test_a_bad_rules_file_is_an_error_of_one_line(tmp_path):
    (tmp_path / "rules.toml").write_text('[[rule]]\nsensor_type = "temperature"\nunit = "celsius"\nmax = "30"\n')
    with pytest.raises(UserError, match=r"rules.toml, line 4: max is '30'; expected a finite number$"):
        iot_consumer.run(parse_args(["--rules", str(tmp_path / "rules.toml")]), threading.Event())
