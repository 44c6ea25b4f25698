"""The tools of Prometheus, Alertmanager and systemd accept the files in ``deploy/``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.deploy import DEPLOY, RULE_FILES, rules
from tests.support.prometheus import require_program

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def run(*command: object) -> str:
    """Run a tool, which must succeed; return all that it said."""
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_promtool_accepts_the_configuration_and_the_rules():
    promtool = require_program("promtool", "prometheus")
    said = run(promtool, "check", "config", DEPLOY / "prometheus.yml")
    assert f"{len(RULE_FILES)} rule files found" in said
    said = run(promtool, "check", "rules", *RULE_FILES)
    assert sum(int(line.split()[1]) for line in said.splitlines() if "rules found" in line) == len(rules())


def test_promtools_unit_tests_of_the_rules_pass():
    promtool = require_program("promtool", "prometheus")
    assert "SUCCESS" in run(promtool, "test", "rules", DEPLOY / "rules" / "alerts_test.yml")


def test_a_rule_that_is_wrong_fails_its_unit_test(tmp_path):
    promtool = require_program("promtool", "prometheus")
    shutil.copytree(DEPLOY / "rules", tmp_path, dirs_exist_ok=True)
    text, right = (tmp_path / "alerts.yml").read_text(), 'up{job="iot"} == 0'
    assert right in text
    (tmp_path / "alerts.yml").write_text(text.replace(right, 'up{job="iot"} == 2'))
    command = [promtool, "test", "rules", str(tmp_path / "alerts_test.yml")]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode != 0


def test_amtool_accepts_the_configuration():
    said = run(require_program("amtool", "prometheus-alertmanager"), "check-config", DEPLOY / "alertmanager.yml")
    assert "SUCCESS" in said


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=IotKafkaDown", "severity=critical", "instance=a"], "operators"),
        (["alertname=IotBatchesSlow", "severity=warning"], "operators"),
        (["alertname=HIGH_TEMPERATURE", "severity=critical", "sensor_type=temperature"], "sensors"),
    ],
)
def test_alertmanager_sends_system_alerts_and_sensor_alarms_to_their_receivers(labels, receiver):
    amtool = require_program("amtool", "prometheus-alertmanager")
    said = run(amtool, "config", "routes", "test", f"--config.file={DEPLOY / 'alertmanager.yml'}", *labels)
    assert said.splitlines()[0] == receiver


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A file system with our units, and with a Python where they expect it."""
    folder: Path = tmp_path_factory.mktemp("root")
    shutil.copytree(DEPLOY / "systemd", folder / "etc/systemd/system")
    shutil.copytree("/usr/lib/systemd/system", folder / "usr/lib/systemd/system", symlinks=True)
    for program in ("opt/iot-streaming/.venv/bin/python", "usr/bin/prometheus", "usr/bin/prometheus-alertmanager"):
        (folder / program).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", folder / program)
    return folder


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_systemd_accepts_the_units(root, unit):
    # An unknown key is only a warning, so nothing may be said at all.
    assert run("systemd-analyze", "verify", f"--root={root}", unit.name) == ""


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_rates_the_units_as_hardened():
    # From 0, fully confined, to 100, not confined at all.
    run("systemd-analyze", "security", "--offline=true", "--threshold=25", *UNITS)
