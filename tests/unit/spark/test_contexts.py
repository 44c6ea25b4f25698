"""Contexts beside a checkpoint."""

from __future__ import annotations

import pytest

from iot.settings import UserError
from iot.spark import contexts
from iot.spark.contexts import KEPT, Context, ContextFiles


def test_a_new_checkpoint_begins_with_an_empty_context(tmp_path):
    assert ContextFiles(tmp_path / "new").read() == {0: Context()}


def test_contexts_are_read_as_they_were_written_and_only_the_last_ones_are_kept(tmp_path):
    files = ContextFiles(tmp_path)
    written = {batch_id: Context({2: [(7, batch_id)]}, ["temperature"], ["hall"]) for batch_id in range(1, 20)}
    for batch_id, context in written.items():
        files.write(batch_id, context)
    assert files.read() == {0: Context()} | {batch_id: written[batch_id] for batch_id in range(20 - KEPT, 20)}


def test_a_repeated_first_batch_finds_its_empty_context(tmp_path):
    ContextFiles(tmp_path).write(1, Context({0: [(7, 1)]}))
    assert ContextFiles(tmp_path).read() == {0: Context(), 1: Context({0: [(7, 1)]})}


def test_a_repeated_batch_changes_no_context(tmp_path):
    files = ContextFiles(tmp_path)
    for batch_id in range(1, 10):
        files.write(batch_id, Context({0: [(7, batch_id)]}))
    before = files.read()
    for batch_id in (8, 9):
        files.write(batch_id, before[batch_id])
    assert files.read() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_context_counts_as_missing(tmp_path, content):
    ContextFiles(tmp_path).write(4, Context({0: [(7, 1)]}))
    (tmp_path / contexts.FOLDER / "3").write_bytes(content)
    (tmp_path / contexts.FOLDER / "4.copy").write_bytes(b"{}")
    assert ContextFiles(tmp_path).read().keys() == {0, 4}


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / contexts.FOLDER).touch()
    with pytest.raises(UserError, match=r"cannot write .*choose another folder with --checkpoint-dir"):
        ContextFiles(tmp_path).write(1, Context())
