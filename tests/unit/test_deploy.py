"""The files in ``deploy/`` fit the scripts, the documentation and each other, and listen on loopback only."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.deploy import DEPLOY, ROOT, rules

ALERTS = [rule for rule in rules() if "alert" in rule]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
DOCUMENTATION = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
# Where systemd creates the folders that a unit names, in /var.
FOLDERS = {"StateDirectory": "lib", "CacheDirectory": "cache", "LogsDirectory": "log"}
# Scripts that run until they are stopped; the others have an end.
LONG_RUNNING = {
    *("iot_producer.py", "iot_consumer.py", "structured_streaming_processor.py", "iot_streaming_app.py"),
    *("iot.broker", "iot.gateway", "iot.web"),
}


def settings(unit: Path) -> dict[str, list[str]]:
    """The values of each key of a unit, in their order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def started(unit: Path) -> tuple[str, list[str]]:
    """The script or module that a unit starts, and its flags."""
    python, *words = shlex.split(settings(unit)["ExecStart"][0])
    assert python == "/opt/iot-streaming/.venv/bin/python"
    if words[0] == "-m":
        return words[1], words[2:]
    return words[0], words[1:]


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_each_alert_says_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["for"]
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook"}
    assert notes["summary"].endswith(".")
    assert notes["description"].endswith(".")
    assert notes["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert f"\n### {rule['alert']}\n" in DOCUMENTATION


def test_the_runbook_is_about_these_alerts_only() -> None:
    assert set(re.findall(r"^### (Iot\w+)$", DOCUMENTATION, re.MULTILINE)) == {rule["alert"] for rule in ALERTS}


def test_alertmanager_knows_the_alerts_that_it_inhibits() -> None:
    config = yaml.safe_load((DEPLOY / "alertmanager.yml").read_text(encoding="utf-8"))
    names = {rule["alert"] for rule in ALERTS}
    for rule in config["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            found = set(re.findall(r"Iot\w+", matcher))
            assert found <= names


def test_each_long_running_script_has_a_unit() -> None:
    assert {started(unit)[0] for unit in UNITS} == LONG_RUNNING


@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_the_scripts_take_the_flags_that_units_give_them(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in settings(unit)["Environment"]:
        name, _, value = given.partition("=")
        monkeypatch.setenv(name, value)
    name, flags = started(unit)
    module = name.removesuffix(".py") if name.endswith(".py") else f"{name}.__main__"
    if name in ("iot.gateway", "iot.web"):
        module = f"{name}.process"
    # Exits where a flag is wrong.
    args = importlib.import_module(module).parse_args(flags)
    assert getattr(args, "host", "127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_units_write_only_to_their_own_folders(unit: Path) -> None:
    given = settings(unit)
    assert given["ProtectSystem"] == ["strict"]
    folders = [f"/var/{name}/{given[key][0]}" for key, name in FOLDERS.items()]
    written = [value.partition("=")[2] for value in given["Environment"] if value.startswith("IOT_")]
    written += re.findall(r"--checkpoint-dir (\S+)", given["ExecStart"][0])
    for place in written:
        assert place.removeprefix("sqlite:///").startswith(tuple(folders))
    # Children must not be stopped before their parent has stopped them.
    assert given["KillMode"] == ["mixed"]


def test_everything_listens_and_asks_on_loopback() -> None:
    files = [file for file in DEPLOY.rglob("*") if file.suffix in (".yml", ".conf", ".service")]
    files.remove(DEPLOY / "rules" / "alerts_test.yml")
    addresses = [
        address
        for file in files
        for address in re.findall(r"[\w.*-]+:(?:5000|5001|9090|9093|3000|25)\b", file.read_text(encoding="utf-8"))
    ]
    assert addresses
    assert {address.partition(":")[0] for address in addresses} <= {"127.0.0.1", "localhost"}
    for name in ("prometheus", "prometheus-alertmanager"):
        text = (DEPLOY / "systemd" / f"{name}.service.d" / "loopback.conf").read_text(encoding="utf-8")
        assert "--web.listen-address=127.0.0.1:" in text


def test_every_file_is_named_in_the_documentation() -> None:
    folders = {file.relative_to(DEPLOY).parts[0] for file in DEPLOY.rglob("*") if file.is_file()}
    for name in folders:
        assert f"deploy/{name}" in DOCUMENTATION
    for unit in UNITS:
        assert unit.stem in DOCUMENTATION
