"""Kafka client properties files."""

from __future__ import annotations

from pathlib import Path

import pytest

from iot.properties_file import read_properties
from iot.settings import UserError

PROPERTIES = r"""
# a comment
! another
security.protocol=SASL_SSL
sasl.mechanism: SCRAM-SHA-512
ssl.truststore.type   PEM
  ssl.endpoint.identification.algorithm =
sasl.jaas.config = org.apache.kafka.common.security.scram.ScramLoginModule required \
    username="reader" \
    # no comment \
    password="a=b:c\\d";
client.id=caf\u00e9\:1
escaped\ key\:x=1
ends.in.a.backslash=C:\\
last=one\
"""


def test_properties_are_read_as_java_reads_them(tmp_path: Path):
    path = tmp_path / "client.properties"
    path.write_text(PROPERTIES)
    assert read_properties(path) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "ssl.truststore.type": "PEM",
        "ssl.endpoint.identification.algorithm": "",
        "sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required "
            'username="reader" # no comment password="a=b:c\\d";'
        ),
        "client.id": "café:1",
        "escaped key:x": "1",
        "ends.in.a.backslash": "C:\\",
        "last": "one",
    }


def test_an_error_names_the_line(tmp_path: Path):
    path = tmp_path / "client.properties"
    path.write_text("security.protocol=SSL\n\nnonsense\n")
    with pytest.raises(UserError, match=r"client.properties, line 3: expected key=value$"):
        read_properties(path)
