"""Up to where a batch reads, by Spark's log."""

from __future__ import annotations

import pytest

from iot.spark.batch_ends import batch_ends

SETTINGS = '{"batchWatermarkMs":0,"batchTimestampMs":1795761842152,"conf":{}}'


@pytest.mark.parametrize(
    ("content", "ends"),
    [
        (f'v1\n{SETTINGS}\n{{"iot-sensors":{{"0":1041,"2":1003}}}}', {0: 1041, 2: 1003}),
        # Several sources or topics, a source without offsets, and files that are damaged.
        (f'v1\n{SETTINGS}\n{{"a":{{"0":1}}}}\n{{"b":{{"0":1}}}}', {}),
        (f'v1\n{SETTINGS}\n{{"a":{{"0":1}},"b":{{"0":1}}}}', {}),
        (f"v1\n{SETTINGS}\n-", {}),
        (f"v1\n{SETTINGS}", {}),
        (f'v1\n{SETTINGS}\n{{"a":{{"0"', {}),
        ("", {}),
    ],
)
def test_the_log_tells_where_a_batch_ends(tmp_path, content, ends):
    (tmp_path / "offsets").mkdir()
    (tmp_path / "offsets" / "7").write_text(content)
    assert batch_ends(tmp_path, 7) == ends
    assert batch_ends(tmp_path, 8) == {}
