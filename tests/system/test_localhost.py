"""A machine on which the name localhost is missing or means ::1 only, or which has no IPv6: broker and clients work."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from iot.broker.broker import find_free_port
from tests.support.scripts import ROOT

# Runs as root of its own namespaces. Arguments: a folder with two files for /etc/hosts, and the port.
SCRIPT = """
set -e
mount --bind "$1/missing" /etc/hosts
servers=localhost:$2
"$0" -m iot.broker --port $2 --data-dir "$1/broker" > "$1/said" 2>&1 &
broker=$!
trap 'kill -INT $broker; wait $broker' EXIT
for i in $(seq 600); do grep -qs 'is ready' "$1/said" && break; kill -0 $broker; sleep 0.1; done
send() { "$0" iot_producer.py --bootstrap-servers $servers --count 3 --rate 1000 --client $1 | grep acknowledged; }
send kafka-python
send confluent-kafka
mount --bind "$1/ipv6" /etc/hosts
send kafka-python
send confluent-kafka
"$0" -m iot.broker topics --bootstrap-servers $servers
"""
NAMESPACES = ["unshare", "--user", "--map-root-user", "--mount"]


def can_unshare() -> bool:
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="this machine allows no namespaces")
def test_the_broker_is_reached_whatever_localhost_means(tmp_path):
    (tmp_path / "missing").write_text("# nothing\n")
    (tmp_path / "ipv6").write_text("::1 localhost\n")
    command = [*NAMESPACES, "bash", "-c", SCRIPT, sys.executable]
    command += [str(tmp_path), str(find_free_port())]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, (ran.stdout, ran.stderr, (tmp_path / "said").read_text())
    assert ran.stdout.count("acknowledged: 3\n") == 4
    assert len(re.findall(r"^ *(?:iot-sensors)? +[0-2] ", ran.stdout, re.MULTILINE)) >= 3
    assert ran.stderr == ""
