"""The windows by Quix Streams, in one process.

Messages have the sensor as their key, so windows by sensor type need ``group_by``, which writes each reading to a topic
of Kafka once more. State is kept as it is by default: RocksDB, with changelog topics.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from datetime import datetime
from typing import Any

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Mean, Min

from benchmarks.peers.output import SLIDE_S, WATERMARK_S, WINDOW_S, parse_args, say, say_window

# The end of a topic is noticed when nothing has come for so long. It is not counted.
SILENT_S = 10.0


def process(servers: str, topic: str, live: bool, loud: bool) -> float:
    """Process a topic; returns the seconds until the last reading or window."""
    last_s = begun_s = time.perf_counter()

    def moment(value: Any, _headers: Any, _timestamp: float, _timestamp_type: Any) -> int:
        return int(datetime.fromisoformat(value["timestamp"]).timestamp() * 1000)

    def note(_: Any) -> None:
        nonlocal last_s
        last_s = time.perf_counter()

    def give_out(row: dict[str, Any], key: str, *_: Any) -> None:
        note(row)
        if loud:
            say_window(row["end"] / 1000, key, row["count"], row["mean"], row["min"], row["max"])

    with tempfile.TemporaryDirectory(prefix="iot-benchmark-") as folder:
        app = Application(
            servers,
            consumer_group=uuid.uuid4().hex,
            auto_offset_reset="earliest",
            state_dir=folder,
            loglevel="ERROR",
            # A malformed message is skipped.
            on_consumer_error=lambda *_: True,
        )
        readings = app.dataframe(app.topic(topic, timestamp_extractor=moment))
        readings = readings[["sensor_type", "value"]].group_by("sensor_type")
        readings = readings.update(note)
        hops = readings.hopping_window(WINDOW_S * 1000, SLIDE_S * 1000, grace_ms=WATERMARK_S * 1000)
        windows = hops.agg(count=Count(), mean=Mean("value"), min=Min("value"), max=Max("value")).final()
        windows.update(give_out, metadata=True)
        app.run(timeout=0.0 if live else SILENT_S, collect=False)
    return last_s - begun_s


def main() -> None:
    args = parse_args(__doc__)
    if args.warm_up:
        process(args.bootstrap_servers, args.warm_up, live=False, loud=False)
    say(ready=True)
    say(seconds=process(args.bootstrap_servers, args.topic, args.live, args.windows or args.live))


if __name__ == "__main__":
    main()
