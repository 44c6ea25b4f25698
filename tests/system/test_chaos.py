"""A short chaos test: broker, application and producer are killed once each, and the broker is suspended."""

from __future__ import annotations

import random

import pytest

from tests.support.processes import Processes
from tests.system import chaos


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_no_reading_is_lost_or_counted_twice(tmp_path, capsys):
    found = chaos.run(rounds=3, seed=random.randrange(2**16), pause_s=12, folder=tmp_path)
    assert (found.lost, found.doubled, found.others) == ([], [], [])
    assert found.messages > 3_000
    assert found.alarms >= found.told > 3
    said = capsys.readouterr().out
    assert all(f"{name} killed" in said for name in Processes.names)
    assert "3 rounds, 3 kills" in said
