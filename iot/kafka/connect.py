"""Check that a Kafka broker answers, and find out why not."""

from __future__ import annotations

import re
import socket
import ssl
import time
from contextlib import suppress

from iot.kafka.client_config import START_S, confluent_config, kafka_python_config, quiet_kafka_python
from iot.settings import Kafka, UserError

# How long to look for the reason why a broker that listens does not answer.
REFUSAL_S = 1.5


class NothingListens(UserError):  # noqa: N818  # not always an error
    """No broker answers and nothing else listens at the address, so a broker can be started there."""


def require_broker(kafka: Kafka, timeout_s: float = START_S) -> None:
    """Return once a broker answers.

    Raises:
        NothingListens: nothing listens at the address. The text says how to start the embedded broker.
        UserError: no broker answers within ``timeout_s``. The text says why, if the broker refuses this client.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    quiet_kafka_python()
    timeout_ms = int(timeout_s * 1000)
    config = kafka_python_config(kafka) | {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
    try:
        if tls := config.get("ssl_context"):
            # A broker that does not listen yet may do so before the timeout.
            with suppress(ConnectionRefusedError):
                _connect(kafka, timeout_s, tls)
        KafkaAdminClient(**config).close()
    except (KafkaError, OSError, ValueError) as error:
        raise _why_no_broker(kafka) from error


def something_listens(kafka: Kafka) -> bool:
    """Whether anything accepts connections at the address, a broker or not."""
    try:
        _connect(kafka, REFUSAL_S)
    except OSError:
        return False
    return True


def _why_no_broker(kafka: Kafka) -> UserError:
    no_answer = f"no Kafka broker answers at {kafka.bootstrap_servers}"
    start_one = f"start the embedded one in another terminal: python -m iot.broker{_port_flag(kafka)}"
    if not something_listens(kafka):
        return NothingListens(f"{no_answer}; {start_one}")
    if refusal := _refusal(kafka):
        return UserError(f"Kafka at {kafka.bootstrap_servers} refuses this client: {refusal}; check --kafka-config")
    return UserError(
        f"{no_answer}, though something listens there; check the security settings in --kafka-config, or {start_one}"
    )


def _connect(kafka: Kafka, timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
    """Connect to one of the servers, and make the TLS handshake, in which kafka-python has no timeout.

    Raises:
        OSError: no server accepts the connection.
    """
    addresses = kafka.bootstrap_servers.split(",")
    failures = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        try:
            with socket.create_connection((host, int(port)), timeout_s / len(addresses)) as connection:
                if tls:
                    tls.wrap_socket(connection, server_hostname=host).close()
                return
        except OSError as error:
            failures.append(error)
    raise failures[-1]


def _refusal(kafka: Kafka) -> str:
    """Return why a broker refuses this client, or an empty text if it does not.

    The text is librdkafka's, because kafka-python retries without giving the reason.

    Raises:
        UserError: librdkafka rejects a property.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    reported: list[KafkaError] = []
    try:
        client = AdminClient(confluent_config(kafka) | {"error_cb": reported.append, "log_level": 0})
    except KafkaException as error:
        raise UserError(f"--kafka-config has a property that cannot be used: {error.args[0].str()}") from error
    deadline_s = time.monotonic() + REFUSAL_S
    while time.monotonic() < deadline_s:
        client.poll(0.05)
        for problem in reported:
            if problem.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL) or "handshake" in problem.str():
                # librdkafka puts the broker's address before the text, and its own state after it.
                text = re.sub(r"^\w+://\S+: |\s*\(after \d+ms in state [^)]*\)", "", problem.str())
                return " ".join(text.split())
    return ""


def _port_flag(kafka: Kafka) -> str:
    port = kafka.bootstrap_servers.split(",")[0].rpartition(":")[2]
    return "" if port == "9092" else f" --port {port}"
