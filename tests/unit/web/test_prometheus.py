"""/metrics, on a fake database."""

from __future__ import annotations

from iot.results.model import State


def test_prometheus_gets_the_figures_in_both_text_formats(client, store):
    store.state.status.queries[1].active = False
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    lines = answer.text.splitlines()
    for line in (
        "iot_messages_total 200.0", "iot_rejected_messages_total 1.0", "iot_late_messages_total 3.0",
        "iot_alerts_total 2.0", 'iot_lag_messages{partition="0"} 5.0', 'iot_query_up{query="windows"} 1.0',
        'iot_query_up{query="alerts"} 0.0', "iot_last_update_age_seconds 2.0", "iot_healthy 0.0",
    ):  # fmt: skip
        assert line in lines
    openmetrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.content_type.startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_prometheus_leaves_out_what_is_not_known(client, store):
    store.state = State(version=2)
    text = client.get("/metrics").text
    assert "iot_messages_total 0.0" in text
    for unknown in ("iot_active_sensors", "iot_messages_per_second ", "iot_lag_messages{", "iot_last_update"):
        assert not any(line.startswith(unknown) for line in text.splitlines())
