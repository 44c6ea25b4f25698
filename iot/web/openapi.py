"""The API described, as OpenAPI 3.1: what /api/openapi.json answers."""

from __future__ import annotations

from typing import Any

MAX_ALERTS = 1_000
DEFAULT_ALERTS = 100
MAX_MINUTES = 7 * 24 * 60
DEFAULT_MINUTES = 15

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
NUMBER: Schema = {"type": ["number", "null"], "description": "null: not known, or it overflowed"}
COUNT: Schema = {"type": "integer", "minimum": 0}
COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}
MOMENT: Schema = {
    "type": "string",
    "format": "date-time",
    "description": "ISO 8601, UTC, six digits",
    "examples": ["2026-11-24T02:15:07.123456+00:00"],
}
MOMENT_OR_NULL: Schema = MOMENT | {"type": ["string", "null"]}


def _object(properties: dict[str, Schema], optional: dict[str, Schema] | None = None, **more: Any) -> Schema:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties | (optional or {}),
        **more,
    }


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


SCHEMAS: dict[str, Schema] = {
    "Error": _object({"error": TEXT}),
    "Alert": _object(
        {
            "alert_id": TEXT | {"description": "topic, partition and offset of the reading that raised it"},
            "type": TEXT | {"examples": ["HIGH_TEMPERATURE"]},
            "sensor_id": TEXT,
            "sensor_type": TEXT,
            "location": TEXT,
            "value": NUMBER,
            "unit": TEXT,
            "threshold": {"type": "number", "description": "the bound that it broke"},
            "timestamp": MOMENT,
        }
    ),
    "Alerts": _object({"alerts": _list(_ref("Alert"), maxItems=MAX_ALERTS), "total_alerts": COUNT}),
    "Window": _object(
        {
            "start": MOMENT,
            "end": MOMENT,
            "sensor_type": TEXT,
            "unit": TEXT,
            "count": COUNT,
            "avg": NUMBER,
            "min": NUMBER,
            "max": NUMBER,
        }
    ),
    "Windows": _object({"windows": _list(_ref("Window"))}),
    "SensorStats": _object(
        {
            "sensor_type": TEXT,
            "unit": TEXT,
            "count": COUNT,
            "avg_value": NUMBER,
            "min_value": NUMBER,
            "max_value": NUMBER,
            "avg_temp": NUMBER,
            "avg_humidity": NUMBER,
        }
    ),
    "Lag": _object({"total": COUNT, "partitions": {"type": "object", "additionalProperties": COUNT}}),
    "Metrics": _object(
        {
            "total_messages": COUNT,
            "rejected_messages": COUNT,
            "late_messages": COUNT,
            "total_alerts": COUNT,
            "active_alerts": COUNT_OR_NULL,
            "active_sensors": COUNT_OR_NULL,
            "system_health": {"type": ["string", "null"], "enum": ["Good", "Warning", "Critical", None]},
            "health_reasons": _list(TEXT),
            "recent_alerts": _list(_ref("Alert"), maxItems=10, description="newest first"),
            "sensor_stats": _list(_ref("SensorStats")),
            "messages_per_second": NUMBER,
            "lag": {"anyOf": [_ref("Lag"), {"type": "null"}]},
            "last_update": MOMENT_OR_NULL,
        },
        {
            "state": {"type": "string", "enum": ["no_data", "live", "stale", "failed"]},
            "state_reason": TEXT_OR_NULL,
        },
    ),
    "Health": _object({"healthy": {"type": "boolean"}, "reason": TEXT_OR_NULL}),
}


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema, "allowEmptyValue": True}


def _whole_number(least: int, most: int, default: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


OF_TYPE = _query("sensor_type", "only of this sensor type", {"type": "string", "maxLength": 128})
A_MOMENT: Schema = {
    "type": "string",
    "description": "a timestamp as in a reading; without an offset it is the server's local time",
    "pattern": (
        r"^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
        r"(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?)?$"
    ),
    "examples": ["2026-11-24T02:15:07Z"],
}


def _json(description: str, schema: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": _ref(schema)}}}


def _text(description: str, media_type: str) -> Schema:
    return {"description": description, "content": {media_type: {"schema": TEXT}}}


BAD = {"400": _json("a parameter cannot be used; the text says which and why", "Error")}
UNCHANGED = {"304": {"description": "what If-None-Match names is still so"}}


def _get(summary: str, ok: Schema, *, parameters: list[Schema] | None = None, more: Schema | None = None) -> Schema:
    """The only operation of a path; every one may find the token missing or the database away."""
    responses = {
        "200": ok,
        **(more or {}),
        "401": _json("a token is needed", "Error"),
        "403": _json("the Host header names another server", "Error"),
        "503": _json("the results cannot be read now", "Error"),
    }
    return {"get": {"summary": summary, "parameters": parameters or [], "responses": responses}}


PATHS: dict[str, Schema] = {
    "/api/metrics": _get("All figures of the page", _json("figures", "Metrics"), more=UNCHANGED),
    "/api/alerts": _get(
        "Alerts, newest first by event time",
        _json("alerts", "Alerts"),
        parameters=[
            _query(
                "limit",
                "at most so many",
                {"type": "integer", "minimum": 1, "maximum": MAX_ALERTS, "default": DEFAULT_ALERTS},
            ),
            OF_TYPE,
            _query("sensor_id", "only of this sensor", {"type": "string", "maxLength": 128}),
            _query("since", "only of readings at this moment or later", A_MOMENT),
        ],
        more=BAD | UNCHANGED,
    ),
    "/api/windows": _get(
        "Windows of 30 s, one every 10 s, oldest first",
        {
            "description": "windows, over all locations unless one is asked for",
            "content": {
                "application/json": {"schema": _ref("Windows")},
                "text/csv": {"schema": TEXT},
            },
        },
        parameters=[
            _query(
                "minutes",
                "windows that end in the last so many minutes, or later; not together with since or until",
                _whole_number(1, MAX_MINUTES, DEFAULT_MINUTES),
            ),
            _query("since", "windows that end at this moment or later", A_MOMENT),
            _query("until", "windows that end at this moment or earlier", A_MOMENT),
            OF_TYPE,
            _query("location", "only readings from this location", {"type": "string", "maxLength": 128}),
            _query("format", "json unless told", {"type": "string", "enum": ["json", "csv"]}),
        ],
        more=BAD | UNCHANGED,
    ),
    "/api/stream": _get(
        "Server-sent events without end: `metrics` (as /api/metrics, without the long lists of the page) at each "
        "change, `alert` (an Alert) as it happens",
        _text("events", "text/event-stream"),
        more={"501": _json("the web server cannot push", "Error")},
    ),
    "/api/openapi.json": _get(
        "This document",
        {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}},
        more=UNCHANGED,
    ),
    "/healthz": {
        "get": {
            "summary": "Whether every query runs and was looked at within 15 s",
            "security": [],
            "responses": {
                "200": _json("all is well", "Health"),
                "503": _json("something is not, and why", "Health"),
                "403": _json("the Host header names another server", "Error"),
            },
        }
    },
    "/metrics": _get(
        "The figures for Prometheus",
        {
            "description": "Prometheus text format, or OpenMetrics where it is asked for",
            "content": {"text/plain": {"schema": TEXT}, "application/openmetrics-text": {"schema": TEXT}},
        },
    ),
}


def document(needs_token: bool) -> Schema:
    """The OpenAPI document of a server that needs a token or does not."""
    components: Schema = {"schemas": SCHEMAS}
    made: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "IoT sensors",
            "version": "1",
            "description": "Figures, windows and alerts of the sensors. Everything is read; nothing can be changed.",
        },
        "paths": PATHS,
        "components": components,
    }
    if needs_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
    return made
