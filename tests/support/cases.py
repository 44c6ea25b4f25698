"""The shared table of messages with their verdicts, and one valid message to vary."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from iot.readings import Message

CASES = json.loads((Path(__file__).parents[1] / "data" / "cases.json").read_text(encoding="utf-8"))

EXAMPLE = Message(
    "sensor_7", "pressure", 1009.42, "2026-11-24T02:15:07.123456+00:00", "building_b", "hPa", "good", "k3f9", 1041
)


def bytes_of(case: dict[str, Any]) -> bytes | None:
    """The message of a case. It is text, base64 if it is not UTF-8, or null."""
    if "base64" in case:
        return base64.b64decode(case["base64"])
    return None if case["message"] is None else case["message"].encode()
