"""Constants and types for all modules: addresses, topics, windows, folders, and errors that users can fix."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

BOOTSTRAP_SERVERS = "localhost:9092"
READINGS_TOPIC = "iot-sensors"
ALERTS_TOPIC = "iot-alerts"
REJECTED_TOPIC = "iot-sensors-rejected"
# The number of partitions of each topic that the scripts create.
PARTITIONS = 3

WINDOW_S = 30
SLIDE_S = 10
WATERMARK_S = 5
FUTURE_TOLERANCE_S = 60

CACHE_DIR = Path(os.environ.get("IOT_CACHE_DIR") or platformdirs.user_cache_dir("iot-streaming"))
LOG_DIR = Path(os.environ.get("IOT_LOG_DIR") or platformdirs.user_log_dir("iot-streaming"))
DATA_DIR = Path(os.environ.get("IOT_DATA_DIR") or platformdirs.user_data_dir("iot-streaming"))


class UserError(Exception):
    """An error that the user can fix. Its text is one line: what failed, on what, and how to fix it."""


@dataclass(frozen=True)
class Kafka:
    """How to reach Kafka: ``host:port`` addresses with commas between them, and Kafka's own client properties."""

    bootstrap_servers: str = BOOTSTRAP_SERVERS
    properties: dict[str, str] = field(default_factory=dict, repr=False)


def reason(error: BaseException) -> str:
    """Return an error's message on one line, or its class name if it has no message."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
