"""Alarms, acknowledgements and silences by the API, over a real database."""

from __future__ import annotations

import time

import msgspec
import pytest

from iot.alarms.model import Acknowledgement
from iot.readings import format_timestamp
from iot.results.store import Store
from iot.web.alarms import MAX_SILENCES
from iot.web.app import create_app
from tests.support.results import IDENTITY, NOW_S
from tests.support.stored_alarms import an_alarm, put_alarms

JSON = {"Content-Type": "application/json"}
HOUR_S = 3_600


class Clock:
    now_s = float(NOW_S)

    def __call__(self) -> float:
        return self.now_s


def iso(after_s: float = 0.0) -> str:
    return format_timestamp(int((NOW_S + after_s) * 1_000_000))


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'results.db'}")
    store.reset(IDENTITY, "state")
    yield store
    store.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(store, clock):
    return create_app({"STORE": store, "CLOCK": clock}).test_client()


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [alarm["alarm_id"].split("-")[3] for alarm in answer.json["alarms"]]


# Alarms ---------------------------------------------------------------------------------------------------------------


def test_alarms_are_listed_whole_and_the_newest_first(client, store):
    old, new = an_alarm(1, fired=iso(1)), an_alarm(2, fired=iso(2), acknowledged=Acknowledgement(iso(3), "ann", "mine"))
    over = an_alarm(3, state="resolved", resolved=iso(9), fired=iso(8))
    pending = an_alarm(4, state="pending", fired=None)
    put_alarms(store, [old, new, over, pending])
    answer = client.get("/api/alarms")
    assert ids(answer) == ["2", "1", "4"]
    assert answer.json["alarms"][0] == msgspec.to_builtins(new)
    assert (answer.json["total"], answer.json["next"]) == (3, None)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "4321"),
        ("state=firing", "431"),
        ("state=pending", "2"),
        ("state=resolved", "5"),
        ("state=resolved,firing", "5431"),
        ("state=&severity=&limit=", "4321"),
        ("severity=critical", "4"),
        ("sensor_type=humidity", "3"),
        ("sensor_id=sensor_1", "1"),
        ("acknowledged=true", "3"),
        ("acknowledged=false", "421"),
        ("state=firing&severity=warning&acknowledged=false", "1"),
    ],
)
def test_parameters_select_alarms(client, store, query, found):
    ack = Acknowledgement(iso(), "ann", "")
    put_alarms(
        store,
        [
            an_alarm(1, fired=iso(1)),
            an_alarm(2, fired=None, state="pending"),
            an_alarm(3, fired=iso(3), sensor_type="humidity", acknowledged=ack),
            an_alarm(4, fired=iso(4), severity="critical"),
            an_alarm(5, fired=iso(5), state="resolved", resolved=iso(6)),
        ],
    )
    # An alarm that has not fired comes last.
    assert sorted(ids(client.get(f"/api/alarms?{query}")), reverse=True) == list(found)


def test_pages_follow_each_other_while_alarms_come_and_go(client, store):
    put_alarms(store, [an_alarm(number, fired=iso(number)) for number in range(25)])
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        answer = client.get("/api/alarms", query_string={"limit": 10, "after": after})
        seen += ids(answer)
        after = answer.json["next"]
        put_alarms(store, [an_alarm(100 + len(seen), fired=iso(100 + len(seen)))])
    assert seen == [str(number) for number in reversed(range(25))]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("state=over", "state: expected one or more of pending, firing, resolved"),
        ("state=firing,", "state: expected"),
        ("state=Firing", "state: expected"),
        ("severity=high", "severity: expected info or warning or critical"),
        ("acknowledged=yes", "acknowledged: expected true or false"),
        ("limit=0", "limit: expected a whole number from 1 to 1000"),
        ("limit=1001", "limit: expected"),
        ("after=x", "after: expected"),
        ("after=%E2%82%AC", "after: expected"),
        (f"after={'x' * 1001}", "after: expected at most 1000 characters"),
        ("state=firing&state=pending", "state is given 2 times"),
    ],
)
def test_wrong_parameters_are_refused(client, query, says):
    answer = client.get(f"/api/alarms?{query}")
    assert answer.status_code == 400
    assert answer.json["error"].startswith(says)


def test_metrics_and_prometheus_count_active_alarms(client, store):
    put_alarms(
        store,
        [
            *(an_alarm(number) for number in range(3)),
            an_alarm(3, sensor_type="humidity"),
            an_alarm(4, state="pending", fired=None),
            an_alarm(5, rule="SENSOR_SILENT", severity="critical"),
            an_alarm(6, state="resolved", resolved=iso()),
        ],
    )
    answer = client.get("/api/metrics").json
    assert answer["active_alarms"] == [
        {"state": "firing", "severity": "critical", "count": 1},
        {"state": "firing", "severity": "warning", "count": 4},
        {"state": "pending", "severity": "warning", "count": 1},
    ]
    assert answer["silent_sensors"] == 1
    lines = client.get("/metrics").text.splitlines()
    assert 'iot_alarms{sensor_type="temperature",severity="warning",state="firing"} 3.0' in lines
    assert 'iot_alarms{sensor_type="humidity",severity="warning",state="firing"} 1.0' in lines
    assert 'iot_alarms{sensor_type="temperature",severity="warning",state="pending"} 1.0' in lines
    assert "iot_silent_sensors 1.0" in lines
    assert not any("sensor_1" in line for line in lines)


# Acknowledgements -----------------------------------------------------------------------------------------------------


def ack(client, alarm, content=None, method="post", **options):
    url = f"/api/alarms/{alarm.alarm_id}/ack"
    return getattr(client, method)(url, headers=JSON, **({"json": content} if content is not None else options))


def test_an_alarm_is_acknowledged_and_that_is_taken_back(client, store):
    alarm = an_alarm(1)
    put_alarms(store, [alarm, an_alarm(2)])
    assert ids(client.get("/api/alarms?acknowledged=true")) == []
    answer = ack(client, alarm, {"by": "ann", "comment": "looking"})
    assert answer.json["acknowledged"] == {"at": iso(), "by": "ann", "comment": "looking"}
    # The next answer shows it.
    assert ids(client.get("/api/alarms?acknowledged=true")) == ["1"]
    assert [change.alarm_id for change in store.alarms.changes()] == [alarm.alarm_id]
    assert ack(client, alarm, method="delete").json == msgspec.to_builtins(alarm)
    assert ids(client.get("/api/alarms?acknowledged=true")) == []
    # Once more changes nothing.
    assert ack(client, alarm, method="delete").status_code == 200
    assert len(store.alarms.changes()) == 2


@pytest.mark.parametrize("data", [b"", b"{}", b'{"by": null}', b'{"comment": "", "more": 1}'])
def test_both_fields_are_optional(client, store, data):
    put_alarms(store, [an_alarm(1, state="pending", fired=None)])
    answer = ack(client, an_alarm(1), data=data)
    assert answer.json["acknowledged"] == {"at": iso(), "by": "", "comment": ""}


@pytest.mark.parametrize(
    "data",
    [
        b"{", b"[]", b"null", b'"by"', b"by=ann", b"\xff", b'{"by": 1}', b'{"by": "\xff"}', b"{}{}", b"[" * 60_000,
        b'{"by": "%b"}' % (b"x" * 129), b'{"comment": "%b"}' % (b"x" * 1001),
    ],
)  # fmt: skip
def test_a_wrong_body_is_refused(client, store, data):
    put_alarms(store, [an_alarm(1)])
    answer = ack(client, an_alarm(1), data=data)
    assert answer.status_code == 400
    assert answer.json["error"].startswith("the body: ")
    assert client.get("/api/alarms").json["alarms"][0]["acknowledged"] is None


def test_an_alarm_that_is_over_or_unknown_cannot_be_acknowledged(client, store):
    put_alarms(store, [an_alarm(1, state="resolved", resolved=iso())])
    for method in ("post", "delete"):
        assert ack(client, an_alarm(1), method=method).status_code == 409
        answer = ack(client, an_alarm(2), method=method)
        assert (answer.status_code, answer.json) == (404, {"error": "there is no such alarm"})


# Silences -------------------------------------------------------------------------------------------------------------


def a_silence(**changes):
    return {
        "matchers": [{"name": "sensor_id", "value": "sensor_1", "isRegex": False, "isEqual": True}],
        "startsAt": iso(),
        "endsAt": iso(HOUR_S),
        "createdBy": "ann",
        "comment": "maintenance",
    } | changes


def post(client, **changes):
    return client.post("/api/silences", json=a_silence(**changes))


def test_a_silence_is_made_listed_and_ended(client, store, clock):
    put_alarms(store, [an_alarm(1), an_alarm(2)])
    made = post(client)
    assert made.status_code == 200
    assert made.json.keys() == {"silenceID"}
    silence_id = made.json["silenceID"]
    listed = client.get("/api/silences").json
    assert listed == [a_silence(id=silence_id, updatedAt=iso(), status={"state": "active"})]
    silenced = {alarm["sensor_id"]: alarm["silenced_by"] for alarm in client.get("/api/alarms").json["alarms"]}
    assert silenced == {"sensor_1": [silence_id], "sensor_2": []}
    clock.now_s += 60
    ended = client.delete(f"/api/silences/{silence_id}", headers=JSON)
    assert ended.json["status"] == {"state": "expired"}
    assert ended.json["endsAt"] == iso(60)
    assert client.get("/api/silences").json == [ended.json]
    assert not any(alarm["silenced_by"] for alarm in client.get("/api/alarms").json["alarms"])
    # Once more changes nothing.
    clock.now_s += 60
    assert client.delete(f"/api/silences/{silence_id}", headers=JSON).json == ended.json


def test_a_silence_is_changed_by_its_id(client, clock):
    first = post(client).json["silenceID"]
    clock.now_s += 60
    # A later end and another text leave the past as it was.
    assert post(client, id=first, endsAt=iso(2 * HOUR_S), comment="longer").json["silenceID"] == first
    [shown] = client.get("/api/silences").json
    assert (shown["endsAt"], shown["comment"], shown["updatedAt"]) == (iso(2 * HOUR_S), "longer", iso(60))
    # Other matchers do not: the old one ends, and a new one begins.
    other = [{"name": "sensor_type", "value": "temp.*", "isRegex": True}]
    second = post(client, id=first, matchers=other).json["silenceID"]
    assert second != first
    states = {one["id"]: (one["status"]["state"], one["startsAt"]) for one in client.get("/api/silences").json}
    assert states == {first: ("expired", iso()), second: ("active", iso(60))}


def test_a_silence_may_begin_later(client, clock):
    made = post(client, startsAt=iso(60)).json["silenceID"]
    assert client.get("/api/silences").json[0]["status"] == {"state": "pending"}
    assert post(client, id=made, startsAt=iso(30)).json["silenceID"] == made
    clock.now_s += 45
    assert client.get("/api/silences").json[0]["status"] == {"state": "active"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"endsAt": iso()}, "endsAt: must be after startsAt"),
        ({"endsAt": iso(-60)}, "endsAt: must be after startsAt"),
        ({"startsAt": iso(-120), "endsAt": iso(-60)}, "endsAt: must not be in the past"),
        ({"startsAt": "now"}, "startsAt: expected"),
        ({"endsAt": "2026-02-30T00:00:00Z"}, "endsAt: no such day"),
        ({"endsAt": None}, "the body: Expected `str`"),
        ({"matchers": []}, "the body: Expected `array` of length >= 1"),
        ({"matchers": [{"name": "sensor", "value": "x", "isRegex": False}]}, "the body: Invalid enum value 'sensor'"),
        ({"matchers": [{"name": "rule", "value": "(", "isRegex": True}]}, "matchers: '('"),
        ({"matchers": [{"name": "rule", "value": "(?=x)", "isRegex": True}]}, "matchers: "),
        ({"matchers": [{"name": "rule", "value": r"(x)\1", "isRegex": True}]}, "matchers: "),
        ({"matchers": [{"name": "rule", "value": "x{1000}{1000}", "isRegex": True}]}, "matchers: "),
        ({"matchers": [{"name": "rule", "value": ".*", "isRegex": True}]}, "matchers: at least one must not match"),
        ({"matchers": [{"name": "location", "value": "", "isRegex": False}]}, "matchers: at least one must not match"),
        ({"matchers": [{"name": "rule", "value": "x" * 1001, "isRegex": True}]}, "the body: Expected `str` of length"),
        ({"matchers": [{"name": "rule", "value": "x", "isRegex": False}] * 21}, "the body: Expected `array`"),
        ({"createdBy": "x" * 129}, "the body: Expected `str` of length"),
        ({"comment": 7}, "the body: Expected `str`"),
    ],
)
def test_a_wrong_silence_is_refused(client, changes, says):
    answer = post(client, **changes)
    assert answer.status_code == 400
    assert answer.json["error"].startswith(says)
    assert client.get("/api/silences").json == []


@pytest.mark.parametrize("missing", ["matchers", "startsAt", "endsAt", "createdBy", "comment"])
def test_a_silence_needs_all_fields(client, missing):
    content = a_silence()
    del content[missing]
    answer = client.post("/api/silences", json=content)
    assert answer.json["error"] == f"the body: Object missing required field `{missing}`"


def test_an_unknown_silence_is_not_found(client):
    assert post(client, id="no-such-silence").status_code == 404
    assert client.delete("/api/silences/no-such-silence", headers=JSON).status_code == 404


def test_there_are_only_so_many_silences(client, store, monkeypatch):
    monkeypatch.setattr("iot.web.alarms.MAX_SILENCES", 3)
    made = [post(client).json["silenceID"] for _ in range(3)]
    answer = post(client)
    assert (answer.status_code, answer.json["error"][:28]) == (400, "there are 3 silences already")
    assert post(client, id=made[0], endsAt=iso(60)).status_code == 200
    client.delete(f"/api/silences/{made[1]}", headers=JSON)
    assert post(client).status_code == 200
    # The id of one that is over begins another.
    assert post(client, id=made[1]).status_code == 400
    assert MAX_SILENCES >= 3


def test_an_expression_that_explodes_elsewhere_is_answered_at_once(client, store):
    """Python's ``re`` would try for hours."""
    put_alarms(store, [an_alarm(1, sensor_id="a" * 128)])
    begun_s = time.monotonic()
    matchers = [{"name": "sensor_id", "value": "((a+)+)+((a*)*)*b", "isRegex": True}]
    assert post(client, matchers=matchers).status_code == 200
    assert client.get("/api/alarms").json["alarms"][0]["silenced_by"] == []
    assert time.monotonic() - begun_s < 5


@pytest.mark.parametrize(
    ("matcher", "silenced"),
    [
        ({"value": "sensor_1.*", "isRegex": True}, ["sensor_1", "sensor_12"]),
        # An expression stands for the whole text.
        ({"value": "ensor", "isRegex": True}, []),
        ({"value": "sensor_1|sensor_2", "isRegex": True}, ["sensor_1", "sensor_2"]),
        ({"value": "sensor_1", "isRegex": False, "isEqual": False}, ["sensor_12", "sensor_2"]),
        ({"value": "sensor_1.?", "isRegex": True, "isEqual": False}, ["sensor_2"]),
    ],
)
def test_matchers_mean_what_they_mean_in_alertmanager(client, store, matcher, silenced):
    put_alarms(store, [an_alarm(number) for number in (1, 2, 12)])
    hall = {"name": "location", "value": "hall", "isRegex": False}
    assert post(client, matchers=[{"name": "sensor_id", **matcher}, hall]).status_code == 200
    alarms = client.get("/api/alarms").json["alarms"]
    assert sorted(alarm["sensor_id"] for alarm in alarms if alarm["silenced_by"]) == silenced
