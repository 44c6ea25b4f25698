"""Kinds of reasons for which messages are rejected: few and fixed, so that they can be counted and be labels."""

from __future__ import annotations

from iot.readings import Message

OTHER = "other"
# The kind of each reason that is about the whole message, by the beginning of the reason's text.
OF_MESSAGES = {
    "empty message": "empty",
    "not JSON": "not_json",
    "expected `object`": "not_an_object",
    "invalid UTF-8": "invalid_utf8",
    "nested deeper": "nested_too_deeply",
    "object missing required field": "missing_field",
    "future timestamp": "future_timestamp",
}
# A reason that is about a field begins with its name, which is the kind.
FIELDS = Message.__struct_fields__
KINDS = (*OF_MESSAGES.values(), *FIELDS, OTHER)


def kind_of(reason: str) -> str:
    """Return which of ``KINDS`` the reason of a rejected message is."""
    field, colon, _ = reason.partition(":")
    if colon and field in FIELDS:
        return field
    return next((kind for start, kind in OF_MESSAGES.items() if reason.startswith(start)), OTHER)
