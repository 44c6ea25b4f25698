"""Any part of a cluster may be killed at any moment: Kafka nodes, executors, workers, PostgreSQL, the application."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.cluster_processes import ClusterProcesses
from tests.system import chaos


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_kill_of_any_part_loses_and_doubles_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = chaos.run(rounds=2, seed=random.randrange(2**16), pause_s=0, folder=tmp_path, kind=ClusterProcesses)
    assert (found.lost, found.doubled, found.others) == ([], [], [])
    assert "2 rounds, 2 kills" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_ten_kills_and_more_lose_and_double_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = chaos.run(rounds=12, seed=random.randrange(2**16), pause_s=20, folder=tmp_path, kind=ClusterProcesses)
    assert (found.lost, found.doubled, found.others) == ([], [], [])
    assert found.messages > 50_000
    assert "12 rounds, " in capsys.readouterr().out
