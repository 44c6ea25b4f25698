"""The figures of /api/metrics and the state of the page."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from iot.alerts import Alert
from iot.batches import MAX_LOCATIONS, MAX_TYPES, OTHER, Total
from iot.results.model import LatestValue, QueryStatus, State, Status
from iot.web import figures
from iot.web.figures import health
from iot.web.schemas import Metrics
from tests.support.results import NOW_S, delivered

PROMISED = {
    "total_messages", "rejected_messages", "late_messages", "total_alerts", "active_alerts", "active_sensors",
    "system_health", "health_reasons", "recent_alerts", "sensor_stats", "messages_per_second", "lag", "last_update",
}  # fmt: skip
FOR_THE_PAGE = {
    "state", "state_reason", "spark_ui", "producer_command", "sensor_types", "locations", "limits_reached", "latest",
    "rate_history", "alert_history", "retention_s", "active_alarms", "silent_sensors",
}  # fmt: skip


def status(**fields: Any) -> Status:
    """The status of a processing without problems."""
    queries = [QueryStatus("windows", True, None, NOW_S), QueryStatus("alerts", True, None, NOW_S, "real-time")]
    known: dict[str, Any] = {"at_s": NOW_S, "started_s": NOW_S - 100, "queries": queries}
    return Status(**(known | fields))


def state(**fields: Any) -> State:
    """Results of a processing without problems."""
    known: dict[str, Any] = {
        "messages": 1_000,
        "processed_s": float(NOW_S),
        "status": status(),
        "totals": {"temperature": Total(4, 90.0, 20.0, 25.0, 0, "celsius")},
    }
    return State(**(known | fields))


def metrics(state: State, now_s: float) -> Any:
    """The figures as a client decodes them."""
    return msgspec.json.decode(msgspec.json.encode(figures.metrics(state, now_s)))


def test_the_answer_has_the_promised_keys_and_survives_json():
    assert set(metrics(state(), NOW_S)) == PROMISED | FOR_THE_PAGE
    answer = figures.metrics(state(), NOW_S)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Metrics) == answer


def test_with_nothing_processed_counts_are_zero_and_the_rest_is_null_or_empty():
    answer = metrics(State(status=status()), NOW_S)
    counts = {
        "total_messages", "rejected_messages", "late_messages", "total_alerts", "active_alerts", "active_sensors"
    }  # fmt: skip
    assert {name: answer[name] for name in counts} == dict.fromkeys(counts, 0)
    assert {name: answer[name] for name in PROMISED - counts} == {
        "system_health": None,
        "health_reasons": [],
        "recent_alerts": [],
        "sensor_stats": [],
        "messages_per_second": None,
        "lag": None,
        "last_update": None,
    }
    assert answer["state"] == "no_data"


def test_counts_and_times_are_exact():
    one = Alert("iot-sensors-0-1", "HIGH_TEMPERATURE", "s", "temperature", "hall", 31.5, "celsius", 30.0, "then")
    value = LatestValue("s", "temperature", "hall", 31.5, "celsius", 1_795_561_388_713_942, True)
    answer = metrics(
        state(
            messages=2**53 + 1,
            rejected=3,
            late=2,
            total_alerts=7,
            active_sensors=5,
            rate_10s=12.5,
            processed_s=1_795_561_388.25,
            recent_alerts=[one],
            latest=[value],
            rate_history=[(NOW_S, 2.5)],
            alert_history=[(NOW_S, "LOW_HUMIDITY", 4)],
            retention_s=3_600.0,
        ),
        NOW_S,
    )
    assert [answer[name] for name in ("total_messages", "rejected_messages", "late_messages")] == [2**53 + 1, 3, 2]
    assert [answer[name] for name in ("total_alerts", "active_sensors", "messages_per_second")] == [7, 5, 12.5]
    assert answer["last_update"] == "2026-11-24T23:03:08.250000+00:00"
    assert answer["recent_alerts"] == [msgspec.structs.asdict(one)]
    assert answer["latest"] == [
        {
            "sensor_id": "s",
            "sensor_type": "temperature",
            "location": "hall",
            "value": 31.5,
            "unit": "celsius",
            "timestamp": "2026-11-24T23:03:08.713942+00:00",
            "alert": True,
        }
    ]
    assert answer["rate_history"] == [["2026-11-24T23:03:00.000000+00:00", 2.5]]
    assert answer["alert_history"] == [
        {"minute": "2026-11-24T23:03:00.000000+00:00", "type": "LOW_HUMIDITY", "count": 4}
    ]
    assert answer["retention_s"] == 3_600.0


def test_statistics_are_by_sensor_type_and_what_overflowed_is_null():
    totals = {
        "temperature": Total(3, 70.0, 20.0, 30.0, 0, "kelvin"),
        "depth": Total(2, math.nan, -1.7e308, 1.7e308, 0, "m"),
        "humidity": Total(7, 1.0, 0.0, 1.0, 0, "percent"),
    }
    rows = metrics(state(totals=totals), NOW_S)["sensor_stats"]
    assert rows == [
        {
            "sensor_type": "depth",
            "unit": "m",
            "count": 2,
            "avg_value": None,
            "min_value": -1.7e308,
            "max_value": 1.7e308,
            "avg_temp": None,
            "avg_humidity": None,
        },
        {
            "sensor_type": "humidity",
            "unit": "percent",
            "count": 7,
            "avg_value": 1 / 7,
            "min_value": 0.0,
            "max_value": 1.0,
            "avg_temp": None,
            "avg_humidity": 1 / 7,
        },
        {
            "sensor_type": "temperature",
            "unit": "celsius",
            "count": 3,
            "avg_value": 70 / 3,
            "min_value": 20.0,
            "max_value": 30.0,
            "avg_temp": 70 / 3,
            "avg_humidity": None,
        },
    ]


def test_lag_is_what_kafka_has_beyond_what_is_processed():
    known = status(end_offsets={0: 50, 1: 7, 2: 0, 10: 9}, read_offsets={0: 1, 1: 7, 10: 4})
    # Partition 2 is empty. Nothing was processed from 1 and 10 since the start.
    lag = metrics(state(offsets={0: 40}, status=known), NOW_S)["lag"]
    assert lag == {"total": 15, "partitions": {"0": 10, "1": 0, "2": 0, "10": 5}}
    assert list(lag["partitions"]) == ["0", "1", "2", "10"]
    # The end of the topic was read before the last batch was stored.
    assert metrics(state(offsets={0: 60}, status=status(end_offsets={0: 50})), NOW_S)["lag"]["total"] == 0


@pytest.mark.parametrize(
    "known",
    [
        None,
        status(),
        status(end_offsets={0: 50, 1: 3}),
        status(end_offsets={0: 50}, kafka="Kafka does not answer"),
        status(end_offsets={0: 50}, at_s=NOW_S - 16),
    ],
    ids=["no status", "no end offsets", "a partition unknown", "Kafka unreachable", "silence"],
)
def test_lag_that_is_not_known_is_null(known):
    assert metrics(state(offsets={0: 40}, status=known), NOW_S)["lag"] is None


def test_backlog_before_the_first_batch_is_known():
    known = status(end_offsets={0: 3_000_000}, read_offsets={0: 0})
    assert metrics(State(status=known), NOW_S)["lag"]["total"] == 3_000_000


WELL = status()
DEAD = [QueryStatus("windows", False, "no space left", NOW_S), QueryStatus("alerts", True, None, NOW_S)]
STUCK = [QueryStatus("windows", True, None, NOW_S - 16)]


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (None, "the processing has not started"),
        (status(at_s=NOW_S - 15.5), "no sign of life from the processing for 16 s"),
        (status(queries=DEAD), "query windows is not running: no space left"),
        (status(queries=STUCK), "query windows has not answered for 16 s"),
        (status(kafka="Kafka at localhost:9092 does not answer"), "Kafka at localhost:9092 does not answer"),
        (status(database="/x.db is locked"), "results cannot be written: /x.db is locked"),
        (status(alerts_away="no leader"), "alerts cannot be kept: no leader"),
    ],
)
@pytest.mark.parametrize("messages", [0, 1_000])
def test_a_failure_is_critical_and_live_figures_become_null(known, reason, messages):
    answer = metrics(state(messages=messages, status=known, active_sensors=5, active_alerts=1, rate_10s=3.0), NOW_S)
    assert (answer["state"], answer["state_reason"]) == ("failed", reason)
    assert (answer["system_health"], answer["health_reasons"]) == ("Critical", [reason])
    unknown = ("active_sensors", "active_alerts", "messages_per_second")
    assert [answer[name] for name in unknown] == [None] * 3
    assert answer["total_messages"] == messages


def test_every_reason_of_a_failure_is_listed():
    known = status(queries=DEAD, kafka="Kafka is away", database="full")
    assert metrics(state(status=known, rejected=1_000), NOW_S)["health_reasons"] == [
        "Kafka is away",
        "query windows is not running: no space left",
        "results cannot be written: full",
        "50.0% of the messages were rejected",
    ]


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({}, []),
        ({"messages": 990, "rejected": 10}, []),
        ({"rejected": 11}, ["1.1% of the messages were rejected"]),
        ({"messages": 0, "rejected": 1}, ["100.0% of the messages were rejected"]),
        ({"active_alerts": 1}, ["1 sensor is out of bounds"]),
        ({"active_alerts": 12}, ["12 sensors are out of bounds"]),
        ({"status": status(lag_10s=True)}, ["processing is more than 10 s behind"]),
        ({"status": status(alarms_away="no permission")}, ["changes of alarms wait to be sent: no permission"]),
        ({"late": 500}, []),
    ],
)
def test_health_is_a_warning_with_reasons_or_good(fields, reasons):
    answer = metrics(state(**fields), NOW_S)
    assert (answer["system_health"], answer["health_reasons"]) == ("Warning" if reasons else "Good", reasons)
    assert answer["state"] == "live"


def test_without_new_readings_for_fifteen_seconds_the_page_is_stale():
    later = NOW_S + 15.0
    alive = status(at_s=NOW_S + 60.0, queries=[QueryStatus("windows", True, None, NOW_S + 60.0)], end_offsets={0: 9})
    assert metrics(state(status=alive), later)["state"] == "live"
    answer = metrics(state(status=alive, offsets={0: 9}), later + 8)
    assert (answer["state"], answer["state_reason"]) == ("stale", "no new reading for 23 s")
    assert (answer["system_health"], answer["messages_per_second"]) == ("Good", 0.0)
    answer = metrics(state(status=alive, offsets={0: 2}), later + 8)
    assert answer["state_reason"] == "no reading was processed for 23 s, and 7 wait in Kafka"


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (WELL, None),
        (status(kafka="Kafka is away", database="full", alerts_away="away", lag_10s=True), None),
        (None, "the processing has not started"),
        (status(queries=[]), "no query runs yet"),
        (status(queries=DEAD), "query windows is not running: no space left"),
        (status(queries=[QueryStatus("alerts", False)]), "query alerts is not running: the reason is not known"),
        (status(queries=STUCK), "query windows has not answered for 16 s"),
        (status(at_s=NOW_S - 20), "no sign of life from the processing for 20 s"),
        (
            status(queries=[*STUCK, QueryStatus("alerts", False, "x")]),
            "query windows has not answered for 16 s; query alerts is not running: x",
        ),
    ],
)
def test_the_system_is_healthy_while_every_query_runs_and_was_polled(known, reason):
    assert health(State(status=known), NOW_S) == (reason is None, reason)


def test_names_are_sorted_and_limits_are_reported():
    answer = metrics(state(sensor_types=["temperature", "light"], locations=["roof", "hall"], sensors=3), NOW_S)
    assert (answer["sensor_types"], answer["locations"]) == (["light", "temperature"], ["hall", "roof"])
    assert answer["limits_reached"] == []
    totals = {OTHER: Total(1, 1.0, 1.0, 1.0, 0, "m")}
    names = [f"t{number:04}" for number in range(MAX_TYPES)]
    places = [f"l{number:04}" for number in range(MAX_LOCATIONS)]
    answer = metrics(state(totals=totals, sensor_types=names, locations=places, sensors=100_000), NOW_S)
    assert (answer["sensor_types"], answer["locations"]) == ([*names, OTHER], [*places, OTHER])
    assert answer["limits_reached"] == ["sensor types: 200", "locations: 1,000", "sensors: 100,000"]
    # A sensor type may be called "other".
    assert metrics(state(totals=totals, sensor_types=[OTHER]), NOW_S)["sensor_types"] == [OTHER]


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({}, "python iot_producer.py"),
        ({"topic": "iot-sensors", "bootstrap_servers": "localhost:9092"}, "python iot_producer.py"),
        (
            {"topic": "my topic", "bootstrap_servers": "kafka:9093"},
            "python iot_producer.py --bootstrap-servers kafka:9093 --topic 'my topic'",
        ),
    ],
)
def test_the_producer_command_names_broker_and_topic(fields, command):
    assert metrics(State(status=status(**fields)), NOW_S)["producer_command"] == command


def test_alerts_have_the_fields_of_the_topic():
    alert = delivered(1).alert
    [found] = metrics(state(recent_alerts=[alert]), NOW_S)["recent_alerts"]
    assert list(found) == list(Alert.__struct_fields__)
