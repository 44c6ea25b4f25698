"""The connection as each client takes it, and no broker."""

from __future__ import annotations

import socket
import time

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from iot.broker.broker import find_free_port
from iot.kafka.connect import NothingListens, confluent_config, kafka_python_config, require_broker
from iot.settings import Kafka, UserError
from tests.support.secure import make_certificates

SASL_USER = {
    "sasl.mechanism": "SCRAM-SHA-256",
    "sasl.jaas.config": 'org.apache.kafka.common.security.scram.ScramLoginModule required username="me" '
    'password="a \\"quoted\\" one";',
}
SASL = SASL_USER | {"security.protocol": "SASL_PLAINTEXT", "client.id": "tester"}


def test_properties_reach_both_clients():
    kafka = Kafka("a:1,b:2", SASL)
    assert kafka_python_config(kafka) == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "me",
        "sasl_plain_password": 'a "quoted" one',
        "client_id": "tester",
    }
    assert confluent_config(kafka) == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "me",
        "sasl.password": 'a "quoted" one',
        "client.id": "tester",
    }


@pytest.mark.parametrize(
    ("jaas", "password"),
    [
        ('required username="me" password="a b";', "a b"),
        ("required username='me' password='a \"b\"';", 'a "b"'),
        ("required username=me password=ab;", "ab"),
        ('required password = "a\\\\b" username = "me" ;', "a\\b"),
        ('required username="me" password="username=\'you\'";', "username='you'"),
        ('required username="me" password="";', ""),
    ],
)
def test_credentials_are_read_as_java_reads_them(jaas, password):
    given = {"sasl.mechanism": "PLAIN", "sasl.jaas.config": f"org.apache.kafka.PlainLoginModule {jaas}"}
    config = confluent_config(Kafka("a:1", given))
    assert (config["sasl.username"], config["sasl.password"]) == ("me", password)


def test_pem_stores_reach_librdkafka():
    given = {"security.protocol": "SSL", "ssl.truststore.type": "PEM", "ssl.truststore.location": "ca.pem"}
    given |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": "me.pem", "ssl.key.password": "secret"}
    config = confluent_config(Kafka("a:1", given | {"ssl.endpoint.identification.algorithm": ""}))
    assert config == {
        "bootstrap.servers": "a:1",
        "security.protocol": "ssl",
        "ssl.ca.location": "ca.pem",
        "ssl.certificate.location": "me.pem",
        "ssl.key.location": "me.pem",
        "ssl.key.password": "secret",
        "ssl.endpoint.identification.algorithm": "none",
    }


@pytest.mark.parametrize("config", [kafka_python_config, confluent_config])
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"security.protocol": "SSL", "ssl.truststore.location": "ca.jks"}, "only PEM serves all clients"),
        ({"sasl.mechanism": "PLAIN", "sasl.jaas.config": 'required username="me";'}, "sasl.jaas.config needs username"),
        ({"security.protocol": "SASL_SSL"}, "sasl.mechanism is missing"),
    ],
)
def test_properties_that_cannot_be_used_are_one_line(config, given, says):
    with pytest.raises(UserError, match=says) as raised:
        config(Kafka("a:1", given))
    assert "\n" not in str(raised.value)


def test_a_trust_store_that_is_not_there():
    given = {"security.protocol": "SSL", "ssl.truststore.type": "PEM", "ssl.truststore.location": "/nowhere/ca.pem"}
    with pytest.raises(UserError, match="cannot use the TLS stores"):
        kafka_python_config(Kafka("a:1", given))


@pytest.mark.parametrize("in_the_text", [False, True])
def test_a_key_with_a_password_of_its_own(tmp_path, in_the_text):
    make_certificates(tmp_path)
    key = load_pem_private_key((tmp_path / "client.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"opens it")).decode()
    chain = (tmp_path / "client.pem").read_text()
    (tmp_path / "both.pem").write_text(locked + chain)
    given = {"security.protocol": "SSL", "ssl.keystore.type": "PEM"}
    if in_the_text:
        given |= {"ssl.keystore.key": locked, "ssl.keystore.certificate.chain": chain}
    else:
        given |= {"ssl.keystore.location": str(tmp_path / "both.pem")}
    for config in (kafka_python_config, client_of_librdkafka):
        config(Kafka("localhost:1", given | {"ssl.key.password": "opens it"}))
        with pytest.raises((UserError, KafkaException)) as raised:
            config(Kafka("localhost:1", given | {"ssl.key.password": "does not"}))
        assert "does not" not in str(raised.value)


def client_of_librdkafka(kafka: Kafka) -> AdminClient:
    return AdminClient(confluent_config(kafka) | {"log_level": 0})


def test_secrets_are_not_shown():
    assert "quoted" not in repr(Kafka("a:1", SASL))


@pytest.mark.parametrize(
    "given", [{"security.protocol": "SASL_SLL"} | SASL_USER, {"security.protocol": "SASL_SSL"} | SASL_USER]
)
def test_something_that_is_no_such_broker(given):
    with socket.create_server(("127.0.0.1", 0)) as other:
        kafka = Kafka(f"localhost:{other.getsockname()[1]}", given)
        with pytest.raises(UserError) as raised:
            require_broker(kafka, 0.5)
    assert not isinstance(raised.value, NothingListens)
    assert "--kafka-config" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "quoted" not in str(raised.value)


def test_no_broker_is_told_in_time():
    port = find_free_port()
    begun_s = time.monotonic()
    with pytest.raises(NothingListens, match=rf"localhost:{port}.*python -m iot.broker --port {port}$"):
        require_broker(Kafka(f"localhost:{port}"), 2.0)
    assert time.monotonic() - begun_s < 5
