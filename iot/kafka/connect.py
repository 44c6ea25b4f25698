"""Check that a Kafka broker answers, and find out why not."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Mapping

from iot.addresses import Address, join
from iot.kafka import advertised, dial
from iot.kafka.client_config import START_S, confluent_config, kafka_python_config, quiet_kafka_python
from iot.settings import Kafka, UserError

# How often to try servers that do not accept connections.
RETRY_S = 0.2
# How long to look for the reason why a broker that listens does not answer.
REFUSAL_S = 1.5


class NothingListens(UserError):  # noqa: N818  # not always an error
    """No broker answers and nothing else listens at the address, so a broker can be started there."""


def require_broker(kafka: Kafka, timeout_s: float = START_S) -> None:
    """Return once a broker answers, at the address that it was dialled at and at the one that it advertises.

    One broker of several may be out of reach: ``topics.ensure_topics`` warns of it.

    Raises:
        NothingListens: nothing listens at the address. The text says how to start the embedded broker.
        UserError: no broker answers within ``timeout_s``. The text says why, if that can be found out.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    quiet_kafka_python()
    timeout_ms = int(timeout_s * 1000)
    config = kafka_python_config(kafka)
    servers = _await_servers(kafka, timeout_s)
    config |= {
        "bootstrap_servers": [str(server) for server in servers],
        "bootstrap_timeout_ms": timeout_ms,
        "request_timeout_ms": timeout_ms,
    }
    try:
        if tls := config.get("ssl_context"):
            _require_handshake(servers, timeout_s, tls)
        admin = KafkaAdminClient(**config)
    except (KafkaError, OSError, ValueError) as error:
        raise _why_no_broker(kafka, servers) from error
    try:
        cluster = advertised.cluster_of(admin)
    finally:
        admin.close()
    _require_one_cluster(kafka, servers, cluster)
    lines = advertised.failures(kafka, servers, cluster)
    if lines and len(lines) == len(cluster.brokers):
        raise UserError(advertised.one_line(lines))


def something_listens(kafka: Kafka) -> bool:
    """Whether anything accepts connections at one of the addresses, a broker or not."""
    return not all(dial.dial(dial.servers_to_dial(kafka.bootstrap_servers), dial.CONNECT_S).values())


def _await_servers(kafka: Kafka, timeout_s: float) -> list[Address]:
    """Return the servers that accept a connection, once one does.

    Raises:
        NothingListens: none does within ``timeout_s``, because nothing listens or because no name resolves.
        UserError: none does for another reason.
    """
    addresses = dial.servers_to_dial(kafka.bootstrap_servers)
    deadline_s = time.monotonic() + timeout_s
    while True:
        failures = dial.dial(addresses, min(dial.CONNECT_S, timeout_s))
        if found := [address for address in addresses if not failures[address]]:
            return found
        if time.monotonic() > deadline_s:
            break
        time.sleep(RETRY_S)
    is_empty = set(failures.values()) == {dial.REFUSES}
    where = kafka.bootstrap_servers if is_empty else dial.text(failures)
    fix = _start_one(kafka, failures) or f"check that Kafka runs there, or {_use_embedded(kafka)}"
    raise (NothingListens if is_empty else UserError)(f"no Kafka broker answers at {where}; {fix}")


def _start_one(kafka: Kafka, failures: Mapping[Address, str]) -> str:
    """Return how to start the embedded broker at one of the addresses; empty if that would not help.

    It speaks without TLS and login at loopback addresses of this machine, and needs a port that nobody else has.
    """
    taken = {address.port for address, why in failures.items() if address.is_this_machine and why != dial.REFUSES}
    ports = [address.port for address in failures if address.is_this_machine and address.port not in taken]
    if not ports or _is_secure(kafka):
        return ""
    flag = "" if ports[0] == 9092 else f" --port {ports[0]}"
    return f"start the embedded one in another terminal: python -m iot.broker{flag}"


def _use_embedded(kafka: Kafka) -> str:
    """Return how to use the embedded broker instead of one at the addresses that were given."""
    without = " and without --kafka-config" if _is_secure(kafka) else ""
    return (
        "use the embedded one: python -m iot.broker --port PORT in another terminal, and here "
        f"--bootstrap-servers localhost:PORT{without}"
    )


def _is_secure(kafka: Kafka) -> bool:
    return kafka.properties.get("security.protocol", "PLAINTEXT").upper() != "PLAINTEXT"


def _require_handshake(servers: list[Address], timeout_s: float, tls: ssl.SSLContext) -> None:
    """Make the TLS handshake with one of the servers, because kafka-python has no timeout in it.

    Raises:
        OSError: no server makes the handshake.
    """
    failures = []
    for server in servers:
        try:
            with socket.create_connection((server.host, server.port), timeout_s / len(servers)) as connection:
                tls.wrap_socket(connection, server_hostname=server.host).close()
            return
        except ConnectionRefusedError:
            # It accepted connections a moment ago, so it may do so again before the timeout.
            return
        except OSError as error:
            failures.append(error)
    raise failures[-1]


def _require_one_cluster(kafka: Kafka, servers: list[Address], cluster: advertised.Cluster) -> None:
    """Return if all servers that answer belong to the same cluster.

    Raises:
        UserError: they do not, so that it would be chance which one is used.
    """
    if len(servers) == 1:
        return
    asked = dial.in_parallel(lambda server: advertised.ask(kafka, server), servers, advertised.METADATA_S)
    others = {server: found.cluster_id for server, found in asked.items() if found}
    if len(set(others.values())) > 1:
        listed = ", ".join(f"{server} ({cluster_id})" for server, cluster_id in others.items())
        raise UserError(f"these servers belong to different Kafka clusters: {listed}; name those of one cluster")


def _why_no_broker(kafka: Kafka, servers: list[Address]) -> UserError:
    """Find out why servers that accept connections do not answer."""
    spoken = dial.in_parallel(dial.protocol_of, servers, dial.CONNECT_S)
    wants_tls = advertised.uses_tls(kafka)
    if "tls" in spoken.values() and not wants_tls:
        return UserError(
            f"what listens at {join(servers)} speaks TLS, and this client was told to use none: "
            "set security.protocol to SSL or SASL_SSL in --kafka-config"
        )
    if "plain" in spoken.values() and wants_tls:
        return UserError(
            f"Kafka at {join(servers)} speaks without TLS, and this client was told to use it: "
            "check security.protocol in --kafka-config, or name the port of a listener with TLS"
        )
    if refusal := _refusal(kafka):
        return UserError(f"Kafka at {kafka.bootstrap_servers} refuses this client: {refusal}; check --kafka-config")
    if "plain" in spoken.values():
        return UserError(
            f"Kafka at {kafka.bootstrap_servers} tells this client nothing about its brokers: "
            "check security.protocol and sasl.* in --kafka-config"
        )
    is_other = set(spoken.values()) == {"other"}
    not_kafka = " and does not answer as Kafka does" if is_other else ""
    fix = "name the address of Kafka with --bootstrap-servers"
    if not is_other:
        fix = f"try again if it is still starting, or {fix}"
    if _is_secure(kafka):
        fix += ", check security.protocol in --kafka-config"
    return UserError(
        f"no Kafka broker answers at {kafka.bootstrap_servers}, though something listens there{not_kafka}; "
        f"{fix}, or {_use_embedded(kafka)}"
    )


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
