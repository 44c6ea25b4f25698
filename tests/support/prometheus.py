"""A real Prometheus with the configuration and the rules of ``deploy/``, in a temporary folder and on a free port."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from iot.broker.broker import find_free_port
from tests.support.deploy import DEPLOY, RULE_FILES, expressions
from tests.support.scripts import started

START_S = 30.0


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as response:
            return json.load(response)["data"]

    def values(self, expression: str) -> list[float]:
        """The values that an expression has now, without those that are not a number."""
        found = [float(sample["value"][1]) for sample in self.ask("/api/v1/query", query=expression)["result"]]
        return [value for value in found if not math.isnan(value)]

    def without_value(self) -> dict[str, str]:
        """The expressions of rules and of the Grafana dashboard that have no value now, by where they are."""
        return {place: expression for place, expression in expressions() if not self.values(expression)}

    def unhealthy_rules(self) -> list[str]:
        """The errors of rules that could not be evaluated."""
        groups = self.ask("/api/v1/rules")["groups"]
        return [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")]


def require_program(name: str, package: str) -> str:
    """The path of a program; skips the test where it is not installed, but fails in CI."""
    found = shutil.which(name)
    if not found:
        missing = f"{name} is not installed; on Debian and Ubuntu: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@contextmanager
def running_prometheus(folder: Path, dashboard_port: int) -> Iterator[Prometheus]:
    """Scrape a dashboard four times a second, with the rules of ``deploy/``, until the end of the block."""
    server, port = require_program("prometheus", "prometheus"), find_free_port()
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    text = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8")
    for old, new in (("127.0.0.1:5000", f"127.0.0.1:{dashboard_port}"), ("127.0.0.1:9090", f"127.0.0.1:{port}")):
        assert old in text
        text = text.replace(old, new)
    # Nothing listens at Alertmanager's address.
    text = text.replace("127.0.0.1:9093", f"127.0.0.1:{find_free_port()}").replace(": 15s", ": 250ms")
    config.write_text(text)
    (folder / "rules").mkdir()
    for file in RULE_FILES:
        shutil.copy(file, folder / "rules")
    command = [server, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with log.open("wb") as output, started(command, stdout=output, stderr=output) as process:
        _wait_until_ready(f"http://127.0.0.1:{port}/-/ready", process, log)
        yield Prometheus(f"http://127.0.0.1:{port}")


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_s = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends_s, log.read_text()
            time.sleep(0.05)
