"""The endpoints of alarms, their acknowledgements, and silences."""

from __future__ import annotations

from typing import get_args

import msgspec
from flask import Blueprint, Response, abort, request

from iot.alarms.model import ACTIVE, Silence, State
from iot.alarms.silences import InvalidSilence, PostedSilence, state_of
from iot.alerts import SEVERITIES
from iot.results.model import AlarmFilter, InvalidCursor, NotActive
from iot.web import openapi
from iot.web.parameters import ParameterError, Parameters
from iot.web.responses import Body, json_answer, json_body
from iot.web.schemas import (
    MAX_ALARMS,
    MAX_CURSOR,
    AckGiven,
    Alarms,
    SilenceGiven,
    SilenceId,
    SilenceShown,
    SilenceStatus,
)
from iot.web.services import shared
from iot.web.writing import BodyError, body

# Maximum number of silences that are not over.
MAX_SILENCES = 1_000

site = Blueprint("alarms", __name__)


@site.get("/api/alarms")
def alarms() -> Response:
    given = Parameters(request.args)
    which = AlarmFilter(
        states=given.choices("state", get_args(State), ACTIVE),
        severity=given.one_of("severity", SEVERITIES),
        sensor_type=given.string("sensor_type"),
        sensor_id=given.string("sensor_id"),
        acknowledged=given.boolean("acknowledged"),
    )
    limit = given.whole("limit", openapi.DEFAULT_ALARMS, 1, MAX_ALARMS)
    after = given.string("after", MAX_CURSOR)
    services = shared()

    def make() -> Body:
        try:
            page = services.store.alarms.page(which, limit, after)
        except InvalidCursor as error:
            raise ParameterError(str(error)) from None
        return json_body(Alarms(page.alarms, page.total, page.next))

    version = services.snapshots.latest().version
    return services.cache.get(("alarms", which, limit, after), version, make).answer(request)


@site.post("/api/alarms/<alarm_id>/ack")
def acknowledge(alarm_id: str) -> Response:
    # Both fields may be left out, and then so may the body.
    given = body(request, AckGiven) if request.get_data() else AckGiven()
    return _change(alarm_id, given)


@site.delete("/api/alarms/<alarm_id>/ack")
def take_back(alarm_id: str) -> Response:
    return _change(alarm_id, None)


def _change(alarm_id: str, given: AckGiven | None) -> Response:
    services = shared()
    alarms = services.store.alarms
    try:
        if given is None:
            alarm = alarms.unacknowledge(alarm_id)
        else:
            alarm = alarms.acknowledge(alarm_id, given.by or "", given.comment or "", _now_us())
    except NotActive:
        abort(409, "the alarm is over: only an active one can be acknowledged")
    if alarm is None:
        abort(404, "there is no such alarm")
    services.refresh()
    return json_answer(alarm)


@site.get("/api/silences")
def silences() -> Response:
    now_us = _now_us()
    return json_body([_shown(silence, now_us) for silence in shared().store.silences.all()]).answer(request)


@site.post("/api/silences")
def silence() -> Response:
    services = shared()
    given = body(request, SilenceGiven)
    now_us = _now_us()
    # The id of one that is over begins another.
    others = (known for known in services.store.silences.all() if known.id != given.id)
    lasting = sum(state_of(known, now_us) != "expired" for known in others)
    if lasting >= MAX_SILENCES:
        raise BodyError(f"there are {lasting:,} silences already: end some of them first")
    try:
        written = services.store.silences.put(msgspec.convert(given, PostedSilence, from_attributes=True), now_us)
    except InvalidSilence as error:
        raise BodyError(str(error)) from None
    if written is None:
        abort(404, "there is no such silence: leave the id out to begin a new one")
    services.refresh()
    return json_answer(SilenceId(written.id))


@site.delete("/api/silences/<silence_id>")
def end_silence(silence_id: str) -> Response:
    services = shared()
    now_us = _now_us()
    ended = services.store.silences.expire(silence_id, now_us)
    if ended is None:
        abort(404, "there is no such silence")
    services.refresh()
    return json_answer(_shown(ended, now_us))


def _now_us() -> int:
    return int(shared().clock() * 1_000_000)


def _shown(silence: Silence, now_us: int) -> SilenceShown:
    return SilenceShown(**msgspec.structs.asdict(silence), status=SilenceStatus(state_of(silence, now_us)))
