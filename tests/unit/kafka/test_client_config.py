"""The connection as configuration of each client."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from iot.kafka.client_config import confluent_config, kafka_python_config
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
def test_credentials_are_parsed_as_java_parses_them(jaas, password):
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
        (
            {"security.protocol": "SSL", "ssl.truststore.location": "ca.jks"},
            "only: set ssl.truststore.type=PEM",
        ),
        ({"sasl.mechanism": "PLAIN", "sasl.jaas.config": 'required username="me";'}, "sasl.jaas.config needs username"),
        ({"security.protocol": "SASL_SSL"}, "sasl.mechanism is missing"),
    ],
)
def test_unsupported_properties_are_a_one_line_error(config, given, says):
    with pytest.raises(UserError, match=says) as raised:
        config(Kafka("a:1", given))
    assert "\n" not in str(raised.value)


def test_a_missing_trust_store_is_an_error():
    given = {"security.protocol": "SSL", "ssl.truststore.type": "PEM", "ssl.truststore.location": "/nowhere/ca.pem"}
    with pytest.raises(UserError, match="cannot use the TLS stores"):
        kafka_python_config(Kafka("a:1", given))


@pytest.mark.parametrize("is_inline", [False, True])
def test_an_encrypted_key_is_read_with_its_password(tmp_path, is_inline):
    make_certificates(tmp_path)
    key = load_pem_private_key((tmp_path / "client.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"opens it")).decode()
    chain = (tmp_path / "client.pem").read_text()
    (tmp_path / "both.pem").write_text(locked + chain)
    given = {"security.protocol": "SSL", "ssl.keystore.type": "PEM"}
    if is_inline:
        given |= {"ssl.keystore.key": locked, "ssl.keystore.certificate.chain": chain}
    else:
        given |= {"ssl.keystore.location": str(tmp_path / "both.pem")}
    for config in (kafka_python_config, librdkafka_client):
        config(Kafka("localhost:1", given | {"ssl.key.password": "opens it"}))
        with pytest.raises((UserError, KafkaException)) as raised:
            config(Kafka("localhost:1", given | {"ssl.key.password": "does not"}))
        assert "does not" not in str(raised.value)


def librdkafka_client(kafka: Kafka) -> AdminClient:
    return AdminClient(confluent_config(kafka) | {"log_level": 0})


def test_secrets_are_not_shown():
    assert "quoted" not in repr(Kafka("a:1", SASL))
