"""A Kafka broker with TLS and SASL: its certificates, and the properties file of a client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from iot.broker.broker import Broker, find_free_port

MECHANISM = "SCRAM-SHA-512"
LOGIN_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule"
USER = "iot-scripts"
# How long before and after now the certificates are valid.
VALID = timedelta(days=1)


def make_certificates(folder: Path) -> None:
    """Write the authority's ``ca.pem``, and ``.key`` and ``.pem`` of ``server`` and ``client``, which it signs."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _sign("test authority", authority_key, None, authority_key)
    (folder / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(name, key, authority, authority_key)
        (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))


def _sign(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """A certificate for loopback addresses; without an issuer, the certificate of an authority."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    issuer_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_identifier, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    if issuer is None:
        # Python 3.13 and newer refuse an authority whose certificate does not say what its key is for.
        usages = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
        usages += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
        allowed = {usage: usage in ("key_cert_sign", "crl_sign") for usage in usages}
        builder = builder.add_extension(x509.KeyUsage(**allowed), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def client_properties(folder: Path, password: str) -> str:
    """The text of a ``client.properties`` for Kafka's own tools; it contains the client's key."""
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    return _properties(
        {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": MECHANISM,
            "sasl.jaas.config": f'{LOGIN_MODULE} required username="{USER}" password="{quoted}";',
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(folder / "ca.pem"),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.key": (folder / "client.key").read_text(),
            "ssl.keystore.certificate.chain": (folder / "client.pem").read_text(),
        }
    )


def _properties(properties: dict[str, str]) -> str:
    escaped = {
        key: value.replace("\\", "\\\\").rstrip("\n").replace("\n", "\\n\\\n  ") for key, value in properties.items()
    }
    return "".join(f"{key}={value}\n" for key, value in escaped.items())


@contextmanager
def secure_broker(data_dir: Path, certificates: Path, password: str) -> Iterator[str]:
    """Run a broker with a SASL_SSL listener for one user; yield the address of this listener."""
    keystore = certificates / "server.keystore"
    keystore.write_bytes(b"".join((certificates / f"server.{part}").read_bytes() for part in ("key", "pem")))
    plain, secure, controller = find_free_port(), find_free_port(), f"127.0.0.1:{find_free_port()}"
    properties = {
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{secure},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://localhost:{plain},SASL_SSL://localhost:{secure}",
        "controller.quorum.bootstrap.servers": controller,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "sasl.enabled.mechanisms": MECHANISM,
        f"listener.name.sasl_ssl.{MECHANISM.lower()}.sasl.jaas.config": f"{LOGIN_MODULE} required;",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates / "ca.pem"),
        "listener.name.sasl_ssl.ssl.client.auth": "required",
    }
    with Broker(plain, data_dir, properties=properties) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        user = UserScramCredentialUpsertion(USER, ScramMechanism.SCRAM_SHA_512, password)
        assert admin.alter_user_scram_credentials([user]) == {USER: None}
        admin.close()
        yield f"localhost:{secure}"
