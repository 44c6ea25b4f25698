"""What a task says of the checkpoint folder. On a cluster it is tested in ``tests/system/test_cluster.py``."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from iot.spark.shared_folder import looking_for


def test_a_task_names_its_machine_if_it_does_not_see_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert list(looking_for(str(tmp_path / "file"), 0)(None)) == [""]
    assert list(looking_for(str(tmp_path / "none"), 0)(None)) == [os.uname().nodename]


def test_a_file_that_a_network_folder_shows_late_is_seen(tmp_path: Path) -> None:
    threading.Timer(0.2, (tmp_path / "file").touch).start()
    begun_s = time.monotonic()
    assert list(looking_for(str(tmp_path / "file"), 30)(None)) == [""]
    assert time.monotonic() - begun_s < 20
