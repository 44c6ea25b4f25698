"""Connecting to a broker that is missing, or that does not answer."""

from __future__ import annotations

import socket
import time

import pytest

from iot.broker.broker import find_free_port
from iot.kafka.connect import NothingListens, require_broker
from iot.settings import Kafka, UserError


@pytest.mark.parametrize("protocol", ["SASL_SLL", "SASL_SSL"])
def test_a_listener_that_does_not_answer_points_to_the_security_settings(protocol):
    given = {
        "security.protocol": protocol,
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.jaas.config": 'ScramLoginModule required username="me" password="a \\"quoted\\" one";',
    }
    with socket.create_server(("127.0.0.1", 0)) as other:
        kafka = Kafka(f"localhost:{other.getsockname()[1]}", given)
        with pytest.raises(UserError) as raised:
            require_broker(kafka, 0.5)
    assert not isinstance(raised.value, NothingListens)
    assert "--kafka-config" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "quoted" not in str(raised.value)


def test_a_missing_broker_is_reported_in_time_with_the_command_that_starts_one():
    port = find_free_port()
    begun_s = time.monotonic()
    with pytest.raises(NothingListens, match=rf"localhost:{port}.*python -m iot.broker --port {port}$"):
        require_broker(Kafka(f"localhost:{port}"), 2.0)
    assert time.monotonic() - begun_s < 5
