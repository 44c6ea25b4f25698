"""A machine on which the name localhost is missing or means ::1 only, or which has no IPv6: broker and clients work."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from iot.broker.broker import find_free_port
from tests.support.scripts import ROOT

# Runs as root of its own namespaces: argument 1 is its /etc/hosts, argument 2 a folder, argument 3 the port.
SCRIPT = """
set -e
mount --bind "$1" /etc/hosts
servers=localhost:$3
"$0" -m iot.broker --port $3 --data-dir "$2/broker" > "$2/said" 2>&1 &
broker=$!
trap 'kill -INT $broker; wait $broker' EXIT
for i in $(seq 600); do grep -q 'is ready' "$2/said" && break; kill -0 $broker; sleep 0.1; done
for client in kafka-python confluent-kafka; do
    "$0" iot_producer.py --bootstrap-servers $servers --count 3 --rate 1000 --client $client | grep acknowledged
done
"$0" -m iot.broker topics --bootstrap-servers $servers
"""
NAMESPACES = ["unshare", "--user", "--map-root-user", "--mount"]


def can_unshare() -> bool:
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(
    not can_unshare(), reason="this machine allows no namespaces; tests/unit/kafka/test_dial.py remains"
)
@pytest.mark.parametrize("hosts", ["::1 localhost\n", "# nothing\n"], ids=["::1 only", "missing"])
def test_the_broker_is_reached_whatever_localhost_means(hosts, tmp_path):
    (tmp_path / "hosts").write_text(hosts)
    command = [*NAMESPACES, "bash", "-c", SCRIPT, sys.executable]
    command += [str(tmp_path / "hosts"), str(tmp_path), str(find_free_port())]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, (ran.stdout, ran.stderr, (tmp_path / "said").read_text())
    assert ran.stdout.count("acknowledged: 3\n") == 2
    assert len(re.findall(r"^ *(?:iot-sensors)? +[0-2] ", ran.stdout, re.MULTILINE)) >= 3
    assert ran.stderr == ""
