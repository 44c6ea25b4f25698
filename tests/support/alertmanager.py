"""A real Alertmanager for the tests, in a temporary folder and on a free port of loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from iot.broker.node import find_free_port
from tests.support.scripts import started

# Debian calls the server by the first name, Alertmanager's own archives by the second.
SERVERS = ("prometheus-alertmanager", "alertmanager")
CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


class Alertmanager:
    """A running server, asked by its own tool."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def alerts(self, *matchers: str) -> list[dict[str, Any]]:
        """Return the active alerts that ``amtool alert query`` shows."""
        command = ["amtool", "--alertmanager.url", self.url, "alert", "query", *matchers, "--output", "json"]
        environment = {**os.environ, "HOME": str(self.folder)}
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=environment)
        found: list[dict[str, Any]] = json.loads(asked.stdout)
        return found


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    """A server without any alert; skips where Alertmanager is not installed, but fails in CI."""
    server = next(filter(None, map(shutil.which, SERVERS)), None)
    if server is None or not shutil.which("amtool"):
        missing = "Alertmanager is not installed; on Debian and Ubuntu: apt-get install prometheus-alertmanager"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with running_server(server, tmp_path) as running:
        yield running


@contextmanager
def running_server(server: str, folder: Path) -> Iterator[Alertmanager]:
    """Run a server until the end of the block."""
    config, log = folder / "alertmanager.yml", folder / "alertmanager.log"
    config.write_text(CONFIG)
    port = find_free_port()
    command = [
        server,
        f"--config.file={config}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        # Without an address, it does not look for others of its kind.
        "--cluster.listen-address=",
    ]
    with log.open("wb") as output, started(command, stdout=output, stderr=output) as process:
        _wait_until_ready(f"http://127.0.0.1:{port}", process, log)
        yield Alertmanager(f"http://127.0.0.1:{port}", folder)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_s = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends_s, log.read_text()
            time.sleep(0.05)
