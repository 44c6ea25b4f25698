"""What the chaos test kills, and how it compares alerts."""

from __future__ import annotations

import random

from tests.support.cluster_processes import ClusterProcesses
from tests.support.processes import Processes
from tests.system import chaos


def test_each_process_is_killed_equally_often():
    for kind in (Processes, ClusterProcesses):
        for seed in range(50):
            rounds = 7 * len(kind.victims)
            chosen = [name for names in chaos.victims(kind.victims, random.Random(seed), rounds) for name in names]
            assert all(chosen.count(name) >= 7 for name in kind.victims)
            assert len(chosen) < 2 * rounds


def differences(found: list[str], due_us: dict[str, int]) -> list[str]:
    return [what for what, seen, due in chaos.newest_alerts("oven", found, due_us) if seen != due]


def test_the_newest_alerts_of_a_sensor_are_compared():
    due_us = {f"t-0-{number}": number for number in range(chaos.MAX_ALERTS + 8)}
    newest = list(due_us)[8:]
    assert differences(newest, due_us) == []
    assert differences(newest[:20], dict(list(due_us.items())[8:28])) == []
    assert differences(newest[1:], due_us) == ["times of alerts of oven in the API"]
    assert differences(list(due_us)[:-8], due_us) == ["times of alerts of oven in the API"]
    assert differences([*newest, newest[0]], due_us) == ["alerts of oven that the API has twice"]
    assert differences([*newest, "t-1-0"], due_us) == ["alerts of oven in the API that are unknown"]
