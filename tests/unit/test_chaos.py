"""The choice of what the chaos test kills."""

from __future__ import annotations

import random

from tests.system import chaos


def test_each_process_is_killed_equally_often():
    for seed in range(50):
        chosen = [name for names in chaos.victims(random.Random(seed), 21) for name in names]
        assert all(chosen.count(name) >= 7 for name in chaos.NAMES)
        assert len(chosen) < 42
