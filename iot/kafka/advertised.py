"""Check where Kafka's brokers say that they are reached, and find out which address fails in an outage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from iot.addresses import LOOPBACK, Address, join
from iot.kafka import dial
from iot.kafka.client_config import kafka_python_config, quiet_kafka_python
from iot.settings import Kafka, UserError

# How long a server may take to say which brokers there are.
METADATA_S = 3.0
FIX = "set advertised.listeners of that broker to an address that is reached from here"


@dataclass(frozen=True)
class Cluster:
    """What one server says about its cluster: the cluster's id, and the advertised address of each broker by id."""

    cluster_id: str
    brokers: Mapping[int, Address]


def cluster_of(admin: Any) -> Cluster:
    """Return what Kafka said to an admin client about its cluster when it connected."""
    known = admin._manager.cluster
    brokers = {broker.node_id: Address(broker.host.strip("[]"), broker.port) for broker in known.brokers()}
    return Cluster(str(known.cluster_id), brokers)


def ask(kafka: Kafka, server: Address, timeout_s: float = METADATA_S) -> Cluster | None:
    """Ask one server about its cluster, without a connection to any advertised address; None if it does not answer."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    quiet_kafka_python()
    # kafka-python has no timeout in the TLS handshake, so it is tried first.
    if uses_tls(kafka) and dial.protocol_of(server) != "tls":
        return None
    timeout_ms = int(timeout_s * 1000)
    with suppress(KafkaError, UserError, OSError, ValueError):
        config = kafka_python_config(Kafka(str(server), kafka.properties))
        admin = KafkaAdminClient(**config | {"bootstrap_timeout_ms": timeout_ms, "request_timeout_ms": timeout_ms})
        try:
            return cluster_of(admin)
        finally:
            admin.close()
    return None


def uses_tls(kafka: Kafka) -> bool:
    """Whether the client properties ask for TLS."""
    return kafka.properties.get("security.protocol", "").upper().endswith("SSL")


def failures(kafka: Kafka, servers: list[Address], cluster: Cluster) -> dict[int, str]:
    """Return one line for each broker that cannot be reached at the address that it advertises.

    Args:
        servers: those that were dialled and accept connections.
        cluster: what one of them says.
    """
    places = sorted(set(cluster.brokers.values()))
    # All answers are needed here, so the first one does not end the wait.
    found = dial.dial(places, others_s=math.inf)
    accepting = [place for place in places if not found[place]]
    for place, why in dial.in_parallel(lambda each: _why_wrong(kafka, servers, cluster, each), accepting, 4.0).items():
        found[place] = why
    lines = {}
    named = [server for server in dial.servers_to_dial(kafka.bootstrap_servers) if server not in servers]
    for number, place in cluster.brokers.items():
        if found[place] == dial.REFUSES and any(dial.same_place(place, server) for server in named):
            # The address is right, so the broker is down.
            lines[number] = f"broker {number} at {place} {found[place]}"
        elif found[place]:
            who = "it" if len(cluster.brokers) == 1 else f"broker {number}"
            why = _in_context(servers, place, found[place])
            lines[number] = (
                f"Kafka at {join(servers)} says {who} is reached at {place} (advertised.listeners), which {why}"
            )
    for number, place in cluster.brokers.items():
        others = [other for other, same in cluster.brokers.items() if same == place and other != number]
        if others and number not in lines:
            lines[number] = (
                f"Kafka at {join(servers)} says that brokers {number} and {others[0]} are both reached at {place} "
                "(advertised.listeners)"
            )
    return lines


def one_line(lines: Mapping[int, str]) -> str:
    """Join what is wrong with several brokers, and say how to fix it."""
    return "; ".join([*lines.values(), fix(lines.values())])


def fix(lines: Iterable[str]) -> str:
    """Return how to fix what ``failures`` says: a wrong address, or else a broker that is down."""
    return FIX if any("(advertised.listeners)" in line for line in lines) else "start what is down again"


def _why_wrong(kafka: Kafka, servers: list[Address], cluster: Cluster, place: Address) -> str:
    """Return what is wrong with an advertised address that accepts connections; empty if it is right or unknown."""
    if any(dial.same_place(place, server) for server in servers):
        return ""
    wants_tls = uses_tls(kafka)
    spoken = dial.protocol_of(place)
    if spoken == "other":
        return dial.CLOSES
    if spoken == "tls" and not wants_tls:
        return "speaks TLS, but this client was told to use none (security.protocol)"
    if spoken == "plain" and wants_tls:
        return "speaks without TLS, but this client was told to use it (security.protocol)"
    if spoken and (there := ask(kafka, place)) and there.cluster_id != cluster.cluster_id:
        return f"belongs to another cluster ({there.cluster_id}, not {cluster.cluster_id})"
    return ""


def _in_context(servers: list[Address], place: Address, why: str) -> str:
    """Say more about a failure where the address itself explains it."""
    if place.host in ("0.0.0.0", "::"):
        return f"is no address to connect to ({why})"
    if _is_loopback(place) and not any(_is_loopback(server) for server in servers):
        return f"is this machine itself, and {why}"
    return why


def _is_loopback(address: Address) -> bool:
    hosts = {address.host, *dial.resolve(address.host)}
    return any(host.startswith("127.") or host in LOOPBACK for host in hosts)


def outage(kafka: Kafka) -> str:
    """Return the address at which Kafka cannot be reached and why; empty if none is found.

    The text follows the addresses that were dialled, so it does not repeat a single one.
    """
    servers = dial.servers_to_dial(kafka.bootstrap_servers)
    found = dial.dial(servers)
    reached = [server for server in servers if not found[server]]
    if not reached:
        return dial.text(found) if len(found) > 1 else f"it {found[servers[0]]}"
    for cluster in dial.in_parallel(lambda each: ask(kafka, each), reached, METADATA_S).values():
        if cluster and (lines := failures(kafka, reached, cluster)):
            return one_line(lines)
    return ""
