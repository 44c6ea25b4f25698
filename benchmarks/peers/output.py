"""What the scripts of all processors share: their flags, and the lines that they print. It needs only Python itself.

A line is a JSON object: ``{"ready": true}`` after the warm-up, ``{"seconds": …}`` after the topic has been processed,
and each window as ``{"end_s", "sensor_type", "count", "mean", "min", "max", "at_s"}``, ``at_s`` being when it was given
out, all times in seconds since the epoch.
"""

from __future__ import annotations

import argparse
import json
import time

WINDOW_S, SLIDE_S, WATERMARK_S = 30, 10, 5


def parse_args(doc: str | None) -> argparse.Namespace:
    """The flags of every script."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--warm-up", help="a topic that is processed first, without being timed")
    parser.add_argument("--windows", action="store_true", help="print the windows, too")
    parser.add_argument("--live", action="store_true", help="run until killed, and print the windows")
    parser.add_argument("--jar", help="Flink's Kafka connector")
    return parser.parse_args()


def say(**values: object) -> None:
    """Print a line."""
    print(json.dumps(values), flush=True)


def say_window(end_s: float, sensor_type: str, count: int, mean: float, least: float, most: float) -> None:
    """Print a window."""
    say(end_s=end_s, sensor_type=sensor_type, count=count, mean=mean, min=least, max=most, at_s=time.time())
