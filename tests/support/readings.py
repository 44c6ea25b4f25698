"""Readings as bytes, for tests that send or process them."""

from __future__ import annotations

from typing import Any

from iot.readings import Message, encode

TIMESTAMP = "2026-11-24T02:15:07.123456+00:00"


def temperature(value: float, sensor_id: str = "sensor_0") -> bytes:
    return encode(Message(sensor_id, "temperature", value, TIMESTAMP))


def valid_fields(**fields: Any) -> dict[str, Any]:
    """The fields of a valid reading, some of them replaced."""
    return {"sensor_id": "s", "sensor_type": "temperature", "value": 21.5, "timestamp": TIMESTAMP} | fields
