"""The processor's flags."""

from __future__ import annotations

import pytest

import structured_streaming_processor as processor


@pytest.mark.parametrize(
    "flags", [["--rows", "0"], ["--trigger", "now and then"], ["--starting-offsets", "middle"], ["--no-such-flag"]]
)
def test_wrong_flags_are_named(flags, refuses):
    assert flags[0] in refuses(processor.parse_args, flags)
