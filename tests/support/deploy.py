"""What is in ``deploy/``: its rules, and the expressions of rules and of the Grafana dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.support.scripts import ROOT

DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "iot.json"
RULE_FILES = (DEPLOY / "rules" / "recording.yml", DEPLOY / "rules" / "alerts.yml")

_METRIC = re.compile(r"\b(?:iot_\w+|process_\w+|up|\w+:\w+:\w+)\b")
# Text in quotes or braces, a word, or a comparison.
_TOKEN = re.compile(r"""("[^"]*"|\{[^{}]*\})|(==|!=|>=|<=|>|<)""")


def rules() -> list[dict[str, Any]]:
    """All rules of all groups, recording rules first."""
    return [
        rule
        for file in RULE_FILES
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in an expression."""
    return set(_METRIC.findall(re.sub(r'"[^"]*"', "", expression)))


def without_suffix(name: str, exposed: Iterable[str]) -> str:
    """The family of a metric: ``x_seconds`` of ``x_seconds_bucket``, as far as it is among the exposed."""
    for ending in ("_bucket", "_count", "_sum", "_total"):
        if (family := name.removesuffix(ending)) in exposed:
            return family
    return name


def expressions() -> Iterator[tuple[str, str]]:
    """(where it is, expression) of everything that Prometheus is asked, so that each returns a value if all is well.

    A comparison returns nothing where it is false. Its ``bool`` form returns 0, if both of its sides have a value.
    """
    for rule in rules():
        name = rule.get("record") or rule["alert"]
        yield name, _TOKEN.sub(lambda token: token[0] if token[1] else f"{token[0]} bool ", rule["expr"])
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            asked = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
            yield f"{panel['title']} {target['refId']}", asked
