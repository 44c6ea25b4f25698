"""Kafka client properties files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from iot.properties_file import handed_on, read_properties, to_text
from iot.settings import UserError

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize(
    "properties",
    [
        {
            "a": "",
            "b.c": " leading and trailing ",
            "d e:=#!": "#!=:\\",
            "ü\u00a0": "gr\u00fc\u00dfe \N{SNOWMAN}\U0001f600",
        },
        {
            "sasl.jaas.config": 'Login required username="a" password="b=c:\\\\d \\"e\\"";',
            "tabs\t": "\t\r\n\f\0\x85\u2028",
        },
        {"ssl.truststore.certificates": "-----BEGIN CERTIFICATE-----\nMII\n" + "A/+=" * 20_000},
    ],
)
def test_properties_are_handed_on_to_a_child_that_reads_them_once(properties, tmp_path):
    path = tmp_path / "client.properties"
    path.write_text(to_text(properties), encoding="utf-8")
    assert read_properties(path) == properties
    with handed_on(properties) as (flags, descriptors):
        code = "import sys; from pathlib import Path; from iot.properties_file import read_properties as read\n"
        code += "print(repr(read(Path(sys.argv[2]))))"
        command = [sys.executable, "-c", code, *flags]
        said = subprocess.check_output(command, pass_fds=descriptors, cwd=ROOT, text=True, encoding="utf-8")
    assert ast.literal_eval(said) == properties


def test_nothing_is_handed_on_without_properties():
    with handed_on({}) as handed:
        assert handed == ([], [])


def test_a_wrong_line_of_the_standard_input_is_named_as_such(monkeypatch):
    monkeypatch.setattr("iot.properties_file.read_text", lambda path: "key")
    with pytest.raises(UserError, match=r"^standard input, line 1: expected key=value$"):
        read_properties(Path("-"))
