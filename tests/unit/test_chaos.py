"""The choice of what the chaos test kills."""

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
