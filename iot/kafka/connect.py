"""How to reach Kafka: whether a broker answers, and the connection as each of the two clients takes it."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from iot.settings import Kafka, UserError, reason

# No client waits longer for a broker when it starts.
START_S = 6.0
# Nor for the reason why one that is there does not answer.
REFUSAL_S = 1.5

# name="…", name='…' or name=word, as Java reads them.
_JAAS_OPTION = re.compile(r"""([\w.]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s"';]+))""")


class NothingListens(UserError):  # noqa: N818  # not always an error
    """No broker answers, and nothing else does: there is room for one."""


def require_broker(kafka: Kafka, timeout_s: float = START_S) -> None:
    """Return once a broker answers.

    Raises:
        UserError: none did within ``timeout_s``; the text names the address and how to start the embedded broker, or
            says why a broker refuses this client. ``NothingListens`` where nothing is there at all.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    quiet_kafka_python()
    timeout_ms = int(timeout_s * 1000)
    config = kafka_python_config(kafka) | {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms}
    try:
        if tls := config.get("ssl_context"):
            # A broker that does not listen yet may do so in time.
            with suppress(ConnectionRefusedError):
                _connect(kafka, timeout_s, tls)
        KafkaAdminClient(**config).close()
    except (KafkaError, OSError, ValueError) as error:
        raise _no_broker(kafka) from error


def _no_broker(kafka: Kafka) -> UserError:
    away = f"no Kafka broker answers at {kafka.bootstrap_servers}"
    cure = f"start the embedded one in another terminal: python -m iot.broker{_port_flag(kafka)}"
    try:
        _connect(kafka, REFUSAL_S)
    except OSError:
        return NothingListens(f"{away}; {cure}")
    if refusal := _refusal(kafka):
        return UserError(f"Kafka at {kafka.bootstrap_servers} refuses this client: {refusal}; check --kafka-config")
    return UserError(f"{away}, though something listens there (with other security than --kafka-config says?); {cure}")


def _connect(kafka: Kafka, timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
    """Connect to one of the servers, and shake hands for TLS, for which kafka-python would wait without end.

    Raises:
        OSError: none lets us.
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
    """Why a broker does not let this client in, in librdkafka's words: kafka-python tries again, and does not say.

    Empty where it is not refused.

    Raises:
        UserError: a property cannot be used.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    told: list[KafkaError] = []
    try:
        client = AdminClient(confluent_config(kafka) | {"error_cb": told.append, "log_level": 0})
    except KafkaException as error:
        raise UserError(f"--kafka-config cannot be used: {error.args[0].str()}") from error
    deadline_s = time.monotonic() + REFUSAL_S
    while time.monotonic() < deadline_s:
        client.poll(0.05)
        for trouble in told:
            if trouble.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL) or "handshake" in trouble.str():
                # Without the broker's address before it, and librdkafka's state after it.
                text = re.sub(r"^\w+://\S+: |\s*\(after \d+ms in state [^)]*\)", "", trouble.str())
                return " ".join(text.split())
    return ""


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
    if mechanism := _mechanism(given):
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
    if mechanism := _mechanism(given):
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


def _mechanism(given: dict[str, str]) -> str | None:
    mechanism = given.get("sasl.mechanism")
    if not mechanism and given.get("security.protocol", "").upper().startswith("SASL"):
        raise UserError("sasl.mechanism is missing in --kafka-config (PLAIN and SCRAM are supported)")
    return mechanism


def _credentials(given: dict[str, str]) -> tuple[str, str]:
    """User and password from ``sasl.jaas.config``, which is where Kafka's own tools keep them."""
    found = {}
    for name, *texts in _JAAS_OPTION.findall(given.get("sasl.jaas.config", "")):
        found[name] = re.sub(r"\\(.)", r"\1", "".join(texts))
    if not {"username", "password"} <= found.keys():
        raise UserError('sasl.jaas.config needs username="…" and password="…" (PLAIN and SCRAM are supported)')
    return found["username"], found["password"]


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
