"""Connecting to a broker that is missing, or that does not answer."""

from __future__ import annotations

import socket
import time

import pytest

from iot.broker.broker import find_free_port
from iot.kafka.connect import NothingListens, require_broker
from iot.settings import Kafka, UserError
from tests.support.listeners import other_listener


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


SECURE = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.jaas.config": 'X required username="u" password="p";',
}
START_IT = "start the embedded one in another terminal: python -m iot.broker"
USE_IT = (
    "use the embedded one: python -m iot.broker --port PORT in another terminal, and here --bootstrap-servers "
    "localhost:PORT"
)


@pytest.mark.parametrize("kind", ["http", "hangs up", "silent", "full"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_no_broker_is_started_where_something_else_has_the_port(kind, host):
    with other_listener(kind) as port, pytest.raises(UserError) as raised:
        require_broker(Kafka(f"{host}:{port}"), 0.3)
    said = str(raised.value)
    assert said.startswith(f"no Kafka broker answers at {host}:{port}")
    assert said.endswith(USE_IT)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("servers", "properties", "fix"),
    [
        ("localhost:{port}", {}, f"{START_IT} --port {{port}}"),
        ("127.0.0.1:{port}", {"client.id": "me"}, f"{START_IT} --port {{port}}"),
        ("127.0.0.2:1,localhost:{port}", {}, f"{START_IT} --port {{port}}"),
        # As an address of another machine, it is not where the embedded broker listens.
        ("127.0.0.2:{port}", {}, f"check that Kafka runs there, or {USE_IT}"),
        ("no-such-host.invalid:{port}", {}, f"check that Kafka runs there, or {USE_IT}"),
        ("localhost:{port}", SECURE, f"check that Kafka runs there, or {USE_IT} and without --kafka-config"),
    ],
)
def test_where_nothing_listens_the_advice_depends_on_the_address(servers, properties, fix):
    port = find_free_port()
    with pytest.raises(UserError) as raised:
        require_broker(Kafka(servers.format(port=port), properties), 0.3)
    assert str(raised.value).endswith(f"; {fix.format(port=port)}")
