"""How to reach Kafka: whether a broker answers, and the connection as each of the two clients takes it."""

from __future__ import annotations

import logging
import os
import re
import ssl
import tempfile
from pathlib import Path
from typing import Any

from iot.settings import Kafka, UserError, reason

# No client waits longer for a broker when it starts.
START_S = 6.0


def require_broker(kafka: Kafka, timeout_s: float = START_S) -> None:
    """Return once a broker answers.

    Raises:
        UserError: none did within ``timeout_s``; the text names the address and how to start the embedded broker.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    quiet_kafka_python()
    timeout_ms = int(timeout_s * 1000)
    try:
        config = kafka_python_config(kafka) | {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
        KafkaAdminClient(**config).close()
    except (KafkaError, OSError, ValueError) as error:
        if "uth" in type(error).__name__ or isinstance(error, ssl.SSLError):
            raise UserError(f"Kafka at {kafka.bootstrap_servers} refuses this client: {reason(error)}") from error
        raise UserError(
            f"no Kafka broker answers at {kafka.bootstrap_servers}; "
            f"start the embedded one in another terminal: python -m iot.broker{_port_flag(kafka)}"
        ) from error


def _port_flag(kafka: Kafka) -> str:
    port = kafka.bootstrap_servers.split(",")[0].rpartition(":")[2]
    return "" if port == "9092" else f" --port {port}"


def quiet_kafka_python() -> None:
    """Keep kafka-python's log off the terminal: scripts say themselves, and once, that a broker is away."""
    if not os.environ.get("IOT_DEBUG"):
        logging.getLogger("kafka").setLevel(logging.CRITICAL)


def kafka_python_config(kafka: Kafka) -> dict[str, Any]:
    """The connection as keyword arguments of kafka-python's clients.

    Raises:
        UserError: a property asks for something that kafka-python cannot do.
    """
    given = kafka.properties
    config: dict[str, Any] = {"bootstrap_servers": kafka.bootstrap_servers.split(",")}
    if protocol := given.get("security.protocol"):
        config["security_protocol"] = protocol.upper()
    if mechanism := given.get("sasl.mechanism"):
        user, password = _credentials(given)
        config |= {"sasl_mechanism": mechanism, "sasl_plain_username": user, "sasl_plain_password": password}
    if client_id := given.get("client.id"):
        config["client_id"] = client_id
    if config.get("security_protocol", "").endswith("SSL"):
        config["ssl_context"] = _ssl_context(given)
    return config


def confluent_config(kafka: Kafka) -> dict[str, Any]:
    """The connection as librdkafka's configuration.

    Raises:
        UserError: a property asks for something that librdkafka cannot do.
    """
    given = kafka.properties
    config: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap_servers}
    if protocol := given.get("security.protocol"):
        config["security.protocol"] = protocol.lower()
    if mechanism := given.get("sasl.mechanism"):
        user, password = _credentials(given)
        config |= {"sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password}
    if client_id := given.get("client.id"):
        config["client.id"] = client_id
    _only_pem(given)
    renamed = {
        "ssl.truststore.location": "ssl.ca.location",
        "ssl.truststore.certificates": "ssl.ca.pem",
        "ssl.keystore.key": "ssl.key.pem",
        "ssl.keystore.certificate.chain": "ssl.certificate.pem",
        "ssl.key.password": "ssl.key.password",
    }
    config |= {theirs: given[ours] for ours, theirs in renamed.items() if ours in given}
    if keystore := given.get("ssl.keystore.location"):
        config |= {"ssl.certificate.location": keystore, "ssl.key.location": keystore}
    if given.get("ssl.endpoint.identification.algorithm") == "":
        config["ssl.endpoint.identification.algorithm"] = "none"
    return config


def _credentials(given: dict[str, str]) -> tuple[str, str]:
    """User and password from ``sasl.jaas.config``, which is where Kafka's own tools keep them."""
    jaas = given.get("sasl.jaas.config", "")
    found = dict(re.findall(r'(username|password)\s*=\s*"((?:[^"\\]|\\.)*)"', jaas))
    if len(found) < 2:
        raise UserError('sasl.jaas.config needs username="…" and password="…" (PLAIN and SCRAM are supported)')
    unescaped = {name: re.sub(r"\\(.)", r"\1", text) for name, text in found.items()}
    return unescaped["username"], unescaped["password"]


def _only_pem(given: dict[str, str]) -> None:
    for store in ("truststore", "keystore"):
        kind = given.get(f"ssl.{store}.type", "JKS")
        if f"ssl.{store}.location" in given and kind.upper() != "PEM":
            raise UserError(f"ssl.{store}.type is {kind}; only PEM serves all clients: set ssl.{store}.type=PEM")


def _ssl_context(given: dict[str, str]) -> ssl.SSLContext:
    _only_pem(given)
    try:
        context = ssl.create_default_context(
            cafile=given.get("ssl.truststore.location"), cadata=given.get("ssl.truststore.certificates")
        )
        context.check_hostname = given.get("ssl.endpoint.identification.algorithm", "https") != ""
        password = given.get("ssl.key.password")
        if keystore := given.get("ssl.keystore.location"):
            context.load_cert_chain(keystore, password=password)
        elif "ssl.keystore.key" in given:
            # Python's ssl reads a key from a file only.
            with tempfile.TemporaryDirectory() as folder:
                pem = Path(folder, "client.pem")
                pem.touch(mode=0o600)
                pem.write_text(given["ssl.keystore.key"] + "\n" + given.get("ssl.keystore.certificate.chain", ""))
                context.load_cert_chain(pem, password=password)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"cannot use the TLS stores of --kafka-config: {reason(error)}") from error
    return context
