"""The connection to Kafka as configuration of each of the two clients."""

from __future__ import annotations

import logging
import os
import re
import ssl
import tempfile
from pathlib import Path
from typing import Any

from iot.addresses import join
from iot.kafka.dial import live_servers, servers_to_dial
from iot.settings import Kafka, UserError, reason

# How long a client waits for a broker when it starts.
START_S = 6.0

# name="…", name='…' or name=word, as Java reads them.
_JAAS_OPTION = re.compile(r"""([\w.]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s"';]+))""")


def quiet_kafka_python() -> None:
    """Keep kafka-python's log off the terminal, because scripts report an unreachable broker themselves, once."""
    if not os.environ.get("IOT_DEBUG"):
        logging.getLogger("kafka").setLevel(logging.CRITICAL)


def kafka_python_config(kafka: Kafka) -> dict[str, Any]:
    """Return the connection as keyword arguments of kafka-python's clients.

    Raises:
        UserError: kafka-python does not support a property.
    """
    given = kafka.properties
    config: dict[str, Any] = {
        # kafka-python tries them one by one, and loses seconds with each that is dead.
        "bootstrap_servers": [str(server) for server in live_servers(kafka.bootstrap_servers)],
    }
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
    """Return the connection as librdkafka's configuration.

    Raises:
        UserError: librdkafka does not support a property.
    """
    given = kafka.properties
    config: dict[str, Any] = {"bootstrap.servers": join(servers_to_dial(kafka.bootstrap_servers))}
    if protocol := given.get("security.protocol"):
        config["security.protocol"] = protocol.lower()
    if mechanism := _mechanism(given):
        user, password = _credentials(given)
        config |= {"sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password}
    if client_id := given.get("client.id"):
        config["client.id"] = client_id
    _require_pem(given)
    names = {
        "ssl.truststore.location": "ssl.ca.location",
        "ssl.truststore.certificates": "ssl.ca.pem",
        "ssl.keystore.key": "ssl.key.pem",
        "ssl.keystore.certificate.chain": "ssl.certificate.pem",
        "ssl.key.password": "ssl.key.password",
    }
    config |= {librdkafka_name: given[name] for name, librdkafka_name in names.items() if name in given}
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
    """Return user and password from ``sasl.jaas.config``, where Kafka's own tools expect them."""
    found = {}
    for name, *texts in _JAAS_OPTION.findall(given.get("sasl.jaas.config", "")):
        found[name] = re.sub(r"\\(.)", r"\1", "".join(texts))
    if not {"username", "password"} <= found.keys():
        raise UserError('sasl.jaas.config needs username="…" and password="…" (PLAIN and SCRAM are supported)')
    return found["username"], found["password"]


def _require_pem(given: dict[str, str]) -> None:
    for store in ("truststore", "keystore"):
        kind = given.get(f"ssl.{store}.type", "JKS")
        if f"ssl.{store}.location" in given and kind.upper() != "PEM":
            raise UserError(f"ssl.{store}.type is {kind}, but the clients here read PEM only: set ssl.{store}.type=PEM")


def _ssl_context(given: dict[str, str]) -> ssl.SSLContext:
    _require_pem(given)
    try:
        context = ssl.create_default_context(
            cafile=given.get("ssl.truststore.location"), cadata=given.get("ssl.truststore.certificates")
        )
        context.check_hostname = given.get("ssl.endpoint.identification.algorithm", "https") != ""
        password = given.get("ssl.key.password")
        if keystore := given.get("ssl.keystore.location"):
            context.load_cert_chain(keystore, password=password)
        elif "ssl.keystore.key" in given:
            # Python's ssl module reads keys only from files.
            with tempfile.TemporaryDirectory() as folder:
                pem = Path(folder, "client.pem")
                pem.touch(mode=0o600)
                pem.write_text(given["ssl.keystore.key"] + "\n" + given.get("ssl.keystore.certificate.chain", ""))
                context.load_cert_chain(pem, password=password)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"cannot use the TLS stores in --kafka-config: {reason(error)}") from error
    return context
