"""The description of the gateway's API, as OpenAPI 3.1: the answer of /api/openapi.json."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

COUNT: Schema = {"type": "integer", "minimum": 0}
SCHEMAS: dict[str, Schema] = {
    "Reading": {
        "type": "object",
        "description": "a reading in this project's schema; other forms are recognised, see docs/devices.md",
        "properties": {
            "sensor_id": {"type": "string", "minLength": 1, "maxLength": 128},
            "sensor_type": {"type": "string", "minLength": 1, "maxLength": 128},
            "value": {"type": "number"},
            "timestamp": {"type": "string", "description": "ISO 8601; the moment of receipt if it is missing"},
            "location": {"type": ["string", "null"], "maxLength": 128},
            "unit": {"type": ["string", "null"], "maxLength": 128},
            "quality": {"type": ["string", "null"], "maxLength": 128},
            "run_id": {"type": ["string", "null"], "maxLength": 128},
            "sequence": {"type": ["integer", "null"]},
        },
        "required": ["sensor_id", "sensor_type", "value"],
    },
    "Telemetry": {
        "type": "object",
        "description": "measurements by name, or `ts` and `values`",
        "properties": {"temperature": {"type": "number"}, "humidity": {"type": "number"}},
    },
    "Counts": {
        "type": "object",
        "properties": {
            "written": COUNT | {"description": "readings that were written, and that Kafka has acknowledged"},
            "repeated": COUNT | {"description": "readings that had been written before"},
            "refused": COUNT | {"description": "records that are no readings, or not wholly"},
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "record": {"type": "integer", "minimum": 1, "description": "counted from 1"},
                        "error": {"type": "string"},
                    },
                    "required": ["record", "error"],
                },
            },
        },
        "required": ["written", "repeated", "refused", "errors"],
    },
    "Health": {
        "type": "object",
        "properties": {"healthy": {"type": "boolean"}, "reason": {"type": ["string", "null"]}},
        "required": ["healthy", "reason"],
    },
    "Error": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
}


def _json(description: str, schema: str, *, is_temporary: bool = False) -> Schema:
    made: Schema = {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
    if is_temporary:
        made["headers"] = {"Retry-After": {"required": True, "schema": COUNT}}
    return made


ANYWHERE = {
    "401": _json("a token is required", "Error"),
    "403": _json("the Host header names another server, or the request comes from a page of another site", "Error"),
}


def _send(summary: str, record: str, parameters: list[Schema]) -> Schema:
    """An operation that takes readings."""
    one = {"$ref": f"#/components/schemas/{record}"}
    content = {
        "application/json": {"schema": {"oneOf": [one, {"type": "array", "items": one}]}},
        "application/x-ndjson": {"schema": {"type": "string", "description": "an object in each line"}},
    }
    return {
        "summary": summary,
        "description": "Answers once Kafka has acknowledged. What got no answer may be sent again.",
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": _json("all readings are in Kafka", "Counts"),
            "207": _json("some records were refused, and the others are in Kafka", "Counts"),
            "422": _json("all records were refused", "Counts"),
            "400": _json("the body is not compressed as its header says", "Error"),
            "413": _json("the body is larger than 1 MiB", "Error"),
            "415": _json("the compression of the body is not known", "Error"),
            "429": _json("too much waits for Kafka", "Error", is_temporary=True),
            "503": _json("Kafka does not answer", "Error", is_temporary=True),
            **ANYWHERE,
        },
    }


TOKEN: Schema = {
    "name": "token",
    "in": "path",
    "required": True,
    "description": "the token of the device; its name, if the gateway has no file of tokens",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9_-]+$"},
}
PATHS: dict[str, Schema] = {
    "/api/v1/readings": {"post": _send("Send readings: an object, an array, or JSON Lines", "Reading", [])},
    "/api/v1/{token}/telemetry": {
        "post": _send("Send measurements of one device, as to ThingsBoard", "Telemetry", [TOKEN]) | {"security": []}
    },
    "/api/openapi.json": {
        "get": {
            "summary": "This document",
            "security": [],
            "responses": {
                "200": {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}},
                "403": ANYWHERE["403"],
            },
        }
    },
    "/healthz": {
        "get": {
            "summary": "Whether readings are accepted",
            "security": [],
            "responses": {
                "200": _json("they are", "Health"),
                "503": _json("they are not, and the reason", "Health"),
                "403": ANYWHERE["403"],
            },
        }
    },
    "/metrics": {
        "get": {
            "summary": "The figures for Prometheus",
            "responses": {
                "200": {
                    "description": "Prometheus text format, or OpenMetrics where it is asked for",
                    "content": {
                        "text/plain": {"schema": {"type": "string"}},
                        "application/openmetrics-text": {"schema": {"type": "string"}},
                    },
                },
                **ANYWHERE,
            },
        }
    },
}


def document(needs_token: bool) -> Schema:
    """Return the OpenAPI document of a gateway that needs a token, or does not."""
    components: Schema = {"schemas": SCHEMAS}
    made: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Gateway for readings of devices",
            "version": "1",
            "description": "Readings come in, are checked, and go to Kafka.",
        },
        "paths": PATHS,
        "components": components,
    }
    if needs_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
    return made
