"""The example and the table in docs/alarms.md are right."""

from __future__ import annotations

import re
from pathlib import Path

from iot.alarms.grouping import Routing
from iot.alarms.notify_file import KEYS, MAX_ALERTS, TOP_LEVEL, load_notify

PAGE = (Path(__file__).parents[3] / "docs" / "alarms.md").read_text(encoding="utf-8")


def test_the_example_is_read_and_shows_every_default(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "notify.toml"
    path.write_text(example)
    notify = load_notify(path, {"HOOK_TOKEN": "t", "MAIL_PASSWORD": "p"})
    assert [receiver.kind for receiver in notify.receivers] == ["webhook", "alertmanager", "apprise"]
    assert all(key in example for key in TOP_LEVEL)
    given, usual = notify.receivers[0].routing, Routing()
    assert (given.group_by, given.group_wait_s) == (usual.group_by, usual.group_wait_s)
    assert (given.group_interval_s, given.repeat_interval_s) == (usual.group_interval_s, usual.repeat_interval_s)


def test_the_table_has_every_key():
    rows = [line for line in PAGE.split("\n") if line.startswith("| `")]
    documented = {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert documented == {key for keys in KEYS.values() for key in keys}
    assert any("`max_alerts`" in row and row.endswith(f"| {MAX_ALERTS} |") for row in rows)
