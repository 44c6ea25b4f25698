"""The description of the API, as OpenAPI 3.1: the answer of /api/openapi.json."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from iot.alarms.model import ACTIVE, State
from iot.alerts import SEVERITIES
from iot.web import schemas
from iot.web.schemas import MAX_ALARMS, MAX_ALERTS, MAX_CURSOR

DEFAULT_ALERTS = 100
DEFAULT_ALARMS = 100
MAX_MINUTES = 7 * 24 * 60
DEFAULT_MINUTES = 15

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
REF = "#/components/schemas/{name}"
SCHEMAS: dict[str, Schema] = msgspec.json.schema_components(schemas.SCHEMAS, ref_template=REF)[1]
SCHEMAS["Alert"]["properties"]["timestamp"] |= schemas.MOMENT
for moment in ("started", "fired", "updated", "resolved"):
    SCHEMAS["Alarm"]["properties"][moment] |= schemas.MOMENT
SCHEMAS["Acknowledgement"]["properties"]["at"] |= schemas.MOMENT
for answered in ("Alarm", "Matcher"):
    # Only who makes one may leave something out; an answer has all.
    SCHEMAS[answered]["required"] = list(SCHEMAS[answered]["properties"])


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema, "allowEmptyValue": True}


def _whole_number(least: int, most: int, default: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


OF_TYPE = _query("sensor_type", "only this sensor type", {"type": "string", "maxLength": 128})
OF_SENSOR = _query("sensor_id", "only this sensor", {"type": "string", "maxLength": 128})
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
    return {"description": description, "content": {"application/json": {"schema": {"$ref": REF.format(name=schema)}}}}


def _text(description: str, media_type: str) -> Schema:
    return {"description": description, "content": {media_type: {"schema": TEXT}}}


BAD = {"400": _json("a parameter is wrong; the text says which and why", "Error")}
OVER = {"409": _json("the alarm is over", "Error")}
SILENCES: Schema = {
    "description": "silences",
    "content": {"application/json": {"schema": {"type": "array", "items": {"$ref": REF.format(name="SilenceShown")}}}},
}
STATES: Schema = {
    "type": "array",
    "items": {"type": "string", "enum": list(get_args(State))},
    "default": list(ACTIVE),
}
UNCHANGED = {"304": {"description": "the answer that If-None-Match names has not changed"}}


ANYWHERE = {
    "401": _json("a token is required", "Error"),
    "403": _json("the Host header names another server", "Error"),
    "503": _json("the results cannot be read now", "Error"),
}


def _read(summary: str, ok: Schema, *, parameters: list[Schema] | None = None, more: Schema | None = None) -> Schema:
    """An operation that reads. Each may answer that the token is missing or the database cannot be read."""
    return {"summary": summary, "parameters": parameters or [], "responses": {"200": ok} | (more or {}) | ANYWHERE}


def _get(summary: str, ok: Schema, *, parameters: list[Schema] | None = None, more: Schema | None = None) -> Schema:
    """A path that can only be read."""
    return {"get": _read(summary, ok, parameters=parameters, more=more)}


def _write(
    summary: str,
    ok: Schema,
    *,
    name: str | None = None,
    takes: str | None = None,
    needs_body: bool = True,
    more: Schema | None = None,
) -> Schema:
    """An operation that changes something.

    Args:
        name: of the parameter in the path, if there is one.
        takes: the schema of the body, if there is one.
        needs_body: whether that body is required.
    """
    responses = {
        "200": ok,
        "400": _json("the body is wrong; the text says why", "Error"),
        "404": _json("there is none with this id", "Error"),
        **(more or {}),
        "401": _json("a token is required", "Error"),
        "403": _json("the Host header names another server, or the request comes from another page", "Error"),
        "413": _json("the body is larger than 64 KiB", "Error"),
        "415": _json("the header Content-Type: application/json is missing", "Error"),
        "503": _json("the results cannot be changed now", "Error"),
    }
    made: Schema = {
        "summary": summary,
        "description": "Needs the header `Content-Type: application/json`, also without a body.",
        "parameters": [],
        "responses": responses,
    }
    if name:
        made["parameters"].append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
    if takes:
        body = {"application/json": {"schema": {"$ref": REF.format(name=takes)}}}
        made["requestBody"] = {"required": needs_body, "content": body}
    return made


PATHS: dict[str, Schema] = {
    "/api/metrics": _get("All figures of the page", _json("figures", "Metrics"), more=UNCHANGED),
    "/api/alerts": _get(
        "Alerts, newest first by event time",
        _json("alerts", "Alerts"),
        parameters=[
            _query("limit", "maximum number of alerts", _whole_number(1, MAX_ALERTS, DEFAULT_ALERTS)),
            OF_TYPE,
            OF_SENSOR,
            _query("since", "only readings at this moment or later", A_MOMENT),
        ],
        more=BAD | UNCHANGED,
    ),
    "/api/alarms": _get(
        "Alarms, newest first by `fired`, then by `started`",
        _json("alarms", "Alarms"),
        parameters=[
            _query("state", "only alarms in these states, with commas between them", STATES)
            | {"style": "form", "explode": False},
            _query("severity", "only this severity", {"type": "string", "enum": list(SEVERITIES)}),
            OF_TYPE,
            OF_SENSOR,
            _query("acknowledged", "only alarms that are, or are not", {"type": "boolean"}),
            _query("limit", "maximum number of alarms", _whole_number(1, MAX_ALARMS, DEFAULT_ALARMS)),
            _query("after", "`next` of the page before", {"type": "string", "maxLength": MAX_CURSOR}),
        ],
        more=BAD | UNCHANGED,
    ),
    "/api/alarms/{alarm_id}/ack": {
        "post": _write(
            "Acknowledge an alarm: somebody takes care of it",
            _json("the alarm", "Alarm"),
            name="alarm_id",
            takes="AckGiven",
            needs_body=False,
            more=OVER,
        ),
        "delete": _write("Take an acknowledgement back", _json("the alarm", "Alarm"), name="alarm_id", more=OVER),
    },
    "/api/silences": {
        "get": _read("Silences, the last to end first, also those that are over", SILENCES, more=UNCHANGED),
        "post": _write(
            "Begin a silence, or change the one with this id",
            _json("its id, another one where the change would rewrite the past", "SilenceId"),
            takes="SilenceGiven",
        ),
    },
    "/api/silences/{silence_id}": {
        "delete": _write("End a silence now", _json("the silence", "SilenceShown"), name="silence_id"),
    },
    "/api/windows": _get(
        "Windows of 30 s, one every 10 s, oldest first",
        {
            "description": "windows, over all locations or of the one asked for",
            "content": {
                "application/json": {"schema": {"$ref": REF.format(name="Windows")}},
                "text/csv": {"schema": TEXT},
            },
        },
        parameters=[
            _query(
                "minutes",
                "windows that end in the last minutes, or later; cannot be combined with since or until",
                _whole_number(1, MAX_MINUTES, DEFAULT_MINUTES),
            ),
            _query("since", "windows that end at this moment or later", A_MOMENT),
            _query("until", "windows that end at this moment or earlier", A_MOMENT),
            OF_TYPE,
            _query("location", "only readings from this location", {"type": "string", "maxLength": 128}),
            _query("format", "how to encode them", {"type": "string", "enum": ["json", "csv"], "default": "json"}),
        ],
        more=BAD | UNCHANGED,
    ),
    "/api/stream": _get(
        "Server-sent events: `metrics` (as /api/metrics, without its long lists) at each change, "
        "`alert` (an Alert) and `alarm` (an Alarm that has changed) as it happens",
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
            "summary": "Whether every query runs and was polled within 15 s",
            "security": [],
            "responses": {
                "200": _json("healthy", "Health"),
                "503": _json("not healthy, and the reason", "Health"),
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
    """The OpenAPI document of a server that needs a token, or does not."""
    components: Schema = {"schemas": SCHEMAS}
    made: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "IoT sensors",
            "version": "1",
            "description": "Figures, windows, alerts and alarms of the sensors. A request that changes something needs "
            "`Content-Type: application/json`, and from a browser it must come from the dashboard's own page.",
        },
        "paths": PATHS,
        "components": components,
    }
    if needs_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
    return made
