"""A short chaos: broker, application and producer killed once each, and the broker stopped for a while."""

from __future__ import annotations

import random

import pytest

from tests.system import chaos


@pytest.mark.integration
@pytest.mark.timeout(1_200)
def test_nothing_is_lost_or_doubled(tmp_path, capsys):
    found = chaos.run(rounds=3, seed=random.randrange(2**16), pause_s=12, folder=tmp_path)
    assert (found.lost, found.doubled, found.others) == ([], [], [])
    assert found.messages > 3_000
    said = capsys.readouterr().out
    assert all(f"{name} killed" in said for name in chaos.NAMES)
    assert "3 rounds, 3 kills" in said


def test_each_is_killed_equally_often():
    for seed in range(50):
        chosen = [name for names in chaos.victims(random.Random(seed), 21) for name in names]
        assert all(chosen.count(name) >= 7 for name in chaos.NAMES)
        assert len(chosen) < 42
