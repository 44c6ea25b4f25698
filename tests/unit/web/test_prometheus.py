"""/metrics, on a fake database."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from iot import VERSION
from iot.histograms import Histogram
from iot.rejections import KINDS
from iot.results.model import AlarmCount, State, Timings
from iot.settings import UserError
from iot.web.prometheus import HISTOGRAMS


@pytest.fixture
def measured(store):
    """The database of a processing that has measured everything."""
    status = store.state.status
    status.timings = Timings(*(Histogram.of((0.1, 1.0)) for _ in HISTOGRAMS))
    status.database_bytes = 4_096
    status.checkpoint_bytes = {"windows": 10, "alerts": 20}
    status.notifications = [("mail", "delivered", 7), ("mail", "failed", 2)]
    store.state.alarms = [AlarmCount("firing", "critical", "temperature", 3)]
    return store


def test_prometheus_gets_the_figures_in_both_text_formats(client, store):
    store.state.status.queries[1].active = False
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    lines = answer.text.splitlines()
    for line in (
        "iot_messages_total 200.0", 'iot_rejected_messages_total{reason="unknown"} 1.0', "iot_late_messages_total 3.0",
        "iot_alerts_total 2.0", 'iot_lag_messages{partition="0"} 5.0', 'iot_query_up{query="windows"} 1.0',
        'iot_query_up{query="alerts"} 0.0', "iot_last_update_age_seconds 2.0", "iot_healthy 0.0",
    ):  # fmt: skip
        assert line in lines
    openmetrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.content_type.startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_prometheus_gets_the_counts_of_alarms_and_notifications(client, store):
    store.state.alarms = [
        AlarmCount("firing", "critical", "temperature", 3),
        AlarmCount("firing", "critical", 'a "type"\n', 2),
        AlarmCount("pending", "info", "humidity", 1),
    ]
    store.state.silent_sensors = 4
    store.state.status.notifications = [("mail", "delivered", 7), ("mail", "failed", 2)]
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'iot_alarms{sensor_type="temperature",severity="critical",state="firing"} 3.0',
        'iot_alarms{sensor_type="a \\"type\\"\\n",severity="critical",state="firing"} 2.0',
        'iot_alarms{sensor_type="humidity",severity="info",state="pending"} 1.0',
        "iot_silent_sensors 4.0",
        'iot_notifications_total{receiver="mail",result="delivered"} 7.0',
        'iot_notifications_total{receiver="mail",result="failed"} 2.0',
    ):
        assert line in lines
    active = client.get("/api/metrics").json["active_alarms"]
    assert active == [
        {"state": "firing", "severity": "critical", "count": 5},
        {"state": "pending", "severity": "info", "count": 1},
    ]


def test_prometheus_leaves_out_what_is_not_known(client, store):
    store.state = State(version=2)
    text = client.get("/metrics").text
    assert "iot_messages_total 0.0" in text
    for unknown in ("iot_active_sensors", "iot_messages_per_second ", "iot_lag_messages{", "iot_last_update"):
        assert not any(line.startswith(unknown) for line in text.splitlines())


def test_prometheus_gets_rejected_messages_by_reason(client, store):
    store.state.rejected, store.state.rejections = 7, {"value": 4, "not_json": 3}
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    counts = {sample.labels["reason"]: sample.value for sample in families["iot_rejected_messages"].samples}
    # Every kind is there from the beginning, so that its first increase is seen.
    assert counts == {**dict.fromkeys(KINDS, 0), "value": 4, "not_json": 3}


def test_prometheus_gets_durations_sizes_and_versions(client, measured):
    timings = measured.state.status.timings
    for value in (0.05, 0.5, 7.0):
        timings.batch.add(value)
    timings.alerts.add(0.1)
    text = client.get("/metrics").text
    lines = text.splitlines()
    for line in (
        'iot_batch_duration_seconds_bucket{le="0.1"} 1.0', 'iot_batch_duration_seconds_bucket{le="1.0"} 2.0',
        'iot_batch_duration_seconds_bucket{le="+Inf"} 3.0', "iot_batch_duration_seconds_count 3.0",
        "iot_batch_duration_seconds_sum 7.55", 'iot_alert_latency_seconds_bucket{le="0.1"} 1.0',
        "iot_window_latency_seconds_count 0.0", "iot_batch_write_duration_seconds_count 0.0",
        "iot_database_size_bytes 4096.0", 'iot_checkpoint_size_bytes{query="alerts"} 20.0',
        "iot_heartbeat_timestamp_seconds 1.800000005e+09", "iot_processing_start_time_seconds 1.799999945e+09",
    ):  # fmt: skip
        assert line in lines
    assert re.search(rf'^iot_build_info{{.*python_version="3\..*version="{re.escape(VERSION)}".*}} 1\.0$', text, re.M)
    assert "process_resident_memory_bytes" in text


@pytest.mark.parametrize(
    ("name", "component"),
    [("kafka", "kafka"), ("database", "database"), ("alerts_away", "alerts"), ("alarms_away", "alarms")],
)
def test_prometheus_gets_which_component_is_down(client, store, name, component):
    setattr(store.state.status, name, "it does not answer")
    lines = client.get("/metrics").text.splitlines()
    for one in ("kafka", "database", "alerts", "alarms"):
        assert f'iot_component_up{{component="{one}"}} {float(one != component)}' in lines


def test_a_processing_that_does_not_report_is_not_up(client, store, clock):
    clock.now_s += 60
    text = client.get("/metrics").text
    assert 'iot_query_up{query="windows"} 0.0' in text
    # What it depends on is not known.
    assert "iot_component_up{" not in text


def test_a_database_that_stops_answering_is_down(client, store, clock):
    assert 'iot_component_up{component="database"} 1.0' in client.get("/metrics").text
    store.failure = UserError("the disk is gone")
    clock.now_s += 60
    text = client.get("/metrics").text
    assert 'iot_component_up{component="database"} 0.0' in text
    assert 'component="kafka"' not in text


def test_names_help_and_units_follow_prometheus_conventions(client, measured):
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        assert re.fullmatch(r"(iot|process)_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")
        # Prometheus has base units only, and a counter of things names no unit.
        assert not re.search(r"_(ms|us|millis|minutes|hours|kb|mb|percent)(_|$)", family.name)
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name == f"{family.name}_total"
            assert not {"sensor_id", "location", "alarm_id"} & sample.labels.keys()
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
