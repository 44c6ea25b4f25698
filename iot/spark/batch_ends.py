"""Up to where a batch reads each partition of the topic, by Spark's own log.

The offsets of the messages do not tell it: a transactional producer ends with a marker, which has an offset, but which
no reader gets. Without it, one message would seem to wait for ever.
"""

from __future__ import annotations

import msgspec

from iot.batches import Offsets
from iot.spark.remote_path import AnyPath

_decode = msgspec.json.Decoder(dict[str, Offsets], strict=False).decode


def batch_ends(checkpoint: AnyPath, batch_id: int) -> Offsets:
    """Return the next offset after a batch of each partition; empty if Spark's log of it cannot be read.

    Spark writes ``offsets/5`` before batch 5 begins: a version, its settings as JSON, and a line for each source. The
    query has one source, with one topic: ``{"iot-sensors": {"0": 1041, "1": 987, "2": 1003}}``.
    """
    try:
        _, _, source = (checkpoint / "offsets" / str(batch_id)).read_bytes().splitlines()
        (ends,) = _decode(source).values()
    except (OSError, ValueError):
        return {}
    return ends
