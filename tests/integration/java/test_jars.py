"""The command that fetches all jars."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from iot.broker.broker import find_free_port

ROOT = Path(__file__).parents[3]


def test_offline_one_line_says_what_to_do(tmp_path):
    mirror = f"http://127.0.0.1:{find_free_port()}"
    ran = subprocess.run(
        [sys.executable, "-m", "iot.java"],
        cwd=ROOT,
        env=os.environ | {"IOT_CACHE_DIR": str(tmp_path), "IOT_MAVEN_MIRROR": mirror, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    error = ran.stderr.splitlines()[-1]
    assert error.startswith(
        f"error: cannot fetch Kafka's jars (45 of 45 are missing) from {mirror}: at.yawk.lz4:lz4-java:1.11.2: "
    )
    for said in (
        "Connection refused",
        "HTTPS_PROXY",
        "SSL_CERT_FILE",
        "IOT_MAVEN_MIRROR",
        f"copy the folder {tmp_path}",
    ):
        assert said in error
    assert "Traceback" not in ran.stderr
