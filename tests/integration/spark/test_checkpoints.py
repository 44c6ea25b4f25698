"""Checkpoints on file systems of Spark's are seen as they are."""

from __future__ import annotations

import pytest

from iot.spark import checkpoints
from iot.spark.remote_path import RemotePath


@pytest.mark.usefixtures("spark")
def test_the_size_of_a_checkpoint_is_the_same_locally_and_through_spark(tmp_path):
    folder = tmp_path / "windows" / "state"
    folder.mkdir(parents=True)
    (folder / "1.delta").write_bytes(b"x" * 700)
    (folder.parent / "metadata").write_bytes(b"x" * 50)
    for root in (tmp_path, RemotePath(f"file://{tmp_path}")):
        assert checkpoints.size_bytes(root / "windows") == 750
        with pytest.raises(FileNotFoundError):
            checkpoints.size_bytes(root / "another")
