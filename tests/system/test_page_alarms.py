"""The alarms on the page, in a real browser, from a database and a topic that the tests fill."""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec
import pytest
from kafka import KafkaProducer
from playwright.sync_api import Page, expect

from iot.alarms.model import Acknowledgement, Alarm
from iot.readings import format_timestamp
from iot.settings import ALARMS_TOPIC
from tests.support.page import (  # noqa: F401  # fixtures among them
    TOPIC,
    a_reading,
    browser,
    open_page,
    processing,
    running_site,
    site,
    wait_for_state,
)
from tests.support.stored_alarms import an_alarm, put_alarms

HOSTILE = "<img src=x onerror=\"window.executed='{}'\">"


def iso(ago_s: float = 0.0) -> str:
    return format_timestamp(int((time.time() - ago_s) * 1_000_000))


def alarm(number: int, ago_s: float = 60.0, **fields: Any) -> Alarm:
    """An alarm about a reading of the topic of these tests, that began this many seconds ago."""
    began = iso(ago_s)
    defaults = {"alarm_id": f"{TOPIC}-0-{number}-warning", "started": began, "fired": began, "updated": iso()}
    return an_alarm(number, **(defaults | fields))


def row(page: Page, of: Alarm) -> Any:
    return page.get_by_test_id("alarm-list").locator(f"[data-alarm-id='{of.alarm_id}']")


def shown(page: Page) -> Any:
    return page.get_by_test_id("alarm-list").locator("li")


def test_active_alarms_come_first_and_those_that_are_over_are_a_click_away(open_page, processing, site):
    processing.process(a_reading())
    mild = alarm(1, ago_s=30, severity="info", rule="LOW_HUMIDITY", unit="percent", value=24, peak=21.5)
    severe = alarm(2, ago_s=7_500, severity="critical", location="cellar")
    seen = alarm(3, severity="critical", acknowledged=Acknowledgement(iso(), "Ann", "on my way"))
    coming = alarm(4, state="pending", fired=None)
    silent = alarm(5, ago_s=400, rule="SENSOR_SILENT", unit="s", threshold=300.0, value=300.0, peak=300.0)
    over = [alarm(100 + n, ago_s=1_000 + n, state="resolved", resolved=iso(940 + n), peak=35.0) for n in range(60)]
    put_alarms(site.store, [mild, severe, seen, coming, silent, *over])
    page = open_page()
    rows = shown(page)
    expect(rows).to_have_count(5)
    # Firing before pending, without acknowledgement first, then by severity.
    ids = [one.get_attribute("data-alarm-id") for one in rows.all()]
    assert ids == [one.alarm_id for one in (severe, silent, mild, seen, coming)]
    assert page.get_by_test_id("alarms").bounding_box()["y"] < page.get_by_test_id("card-messages").bounding_box()["y"]
    for text in (
        "critical",
        "High temperature",
        "sensor_2",
        "cellar",
        "peak 33.00",
        "above 30, now 31.50",
        "2 h 5 min",
    ):
        expect(row(page, severe)).to_contain_text(text)
    for text in ("peak 21.50", "below 30, now 24.00"):
        expect(row(page, mild)).to_contain_text(text)
    for text in ("Sensor silent", "no readings", "limit 5 min", "heard", "6 min"):
        expect(row(page, silent)).to_contain_text(text)
    expect(row(page, seen)).to_contain_text("Acknowledged by Ann: on my way")
    expect(row(page, coming)).to_contain_text("Pending")
    expect(page.get_by_test_id("alarms-hint")).to_have_text("4 firing, 1 pending, 1 acknowledged")
    expect(page).to_have_title("(4) IoT sensors")
    expect(page.locator("#favicon")).to_have_attribute("href", "static/favicon-alarm.svg")

    page.get_by_test_id("severity-critical").click()
    expect(rows).to_have_count(3)
    page.get_by_test_id("severity-critical").click()
    page.get_by_test_id("alarms-resolved").check(force=True)
    expect(page.get_by_test_id("alarms-hint")).to_have_text("newest 50 of 60")
    expect(rows.first).to_contain_text("peak 35.00")
    expect(rows.first).to_contain_text("1 min")
    page.get_by_test_id("alarms-more").click()
    expect(page.get_by_test_id("alarms-hint")).to_have_text("60 in all")
    expect(page.get_by_test_id("alarms-more")).to_be_hidden()


def test_without_alarms_the_page_says_so(open_page, processing):
    processing.process(a_reading())
    page = open_page()
    expect(page.get_by_test_id("alarms-empty")).to_have_text("No active alarms.")
    expect(page.get_by_test_id("severity-critical")).to_be_hidden()
    expect(page).to_have_title("IoT sensors")
    expect(page.locator("#favicon")).to_have_attribute("href", "static/favicon.svg")
    page.get_by_test_id("alarms-resolved").check(force=True)
    expect(page.get_by_test_id("alarms-empty")).to_have_text("No resolved alarms.")


def test_a_changed_alarm_is_pushed_onto_the_page(open_page, processing, site, eventually):
    processing.process(a_reading())
    page = open_page()
    expect(page.get_by_test_id("alarms-empty")).to_have_text("No active alarms.")
    expect(page.get_by_test_id("transport")).to_have_text("pushed as it happens")
    producer = KafkaProducer(bootstrap_servers=site.bootstrap_servers)
    new = alarm(1, severity="critical")

    def send(changed: Alarm) -> None:
        producer.send(ALARMS_TOPIC, msgspec.json.encode(changed), changed.alarm_id.encode()).get(30)

    def it_has_come() -> bool:
        # It is only in the topic, so what the page reads removes it again. The server begins at the end of the topic.
        send(new)
        return bool(row(page, new).count())

    eventually(it_has_come, 60)
    expect(page.get_by_test_id("alarm-announcer")).to_contain_text("New critical alarm: High temperature, sensor_1.")
    put_alarms(site.store, [new])
    send(msgspec.structs.replace(new, peak=48.25))
    expect(row(page, new)).to_contain_text("peak 48.25")
    put_alarms(site.store, [ended := msgspec.structs.replace(new, state="resolved", resolved=iso())])
    send(ended)
    producer.close()
    expect(row(page, new)).to_have_count(0)
    page.get_by_test_id("alarms-resolved").check(force=True)
    expect(row(page, new)).to_be_visible()


def test_a_pending_alarm_that_is_forgotten_disappears(open_page, processing, site):
    processing.process(a_reading())
    put_alarms(site.store, [alarm(1), alarm(2, state="pending", fired=None)])
    page = open_page()
    expect(shown(page)).to_have_count(2)
    put_alarms(site.store, [alarm(1, value=47.0)], replace=True)
    expect(shown(page)).to_have_count(1)
    # Values change without an event.
    expect(shown(page)).to_contain_text("now 47.00")


def test_an_alarm_is_acknowledged_by_keyboard_and_the_name_is_remembered(open_page, processing, site):
    processing.process(a_reading())
    first, second = alarm(1, ago_s=20), alarm(2, ago_s=40)
    put_alarms(site.store, [first, second])
    page = open_page()
    row(page, first).get_by_test_id("alarm-acknowledge").focus()
    page.keyboard.press("ArrowDown")
    expect(row(page, second).get_by_test_id("alarm-acknowledge")).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("ack-dialog")).to_be_visible()
    expect(page.get_by_test_id("ack-by")).to_be_focused()
    page.keyboard.type("Ann Example")
    page.keyboard.press("Tab")
    page.keyboard.type("the fan is off")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("ack-dialog")).to_be_hidden()
    expect(row(page, first)).to_contain_text("Acknowledged by Ann Example: the fan is off")
    known = site.store.alarms.get(first.alarm_id).acknowledged
    assert (known.by, known.comment) == ("Ann Example", "the fan is off")
    # It moves behind the others, and the focus is still in it.
    expect(row(page, first).get_by_test_id("alarm-acknowledge")).to_be_focused()
    expect(shown(page).last).to_have_attribute("data-alarm-id", first.alarm_id)

    row(page, second).get_by_test_id("alarm-acknowledge").click()
    expect(page.get_by_test_id("ack-by")).to_have_value("Ann Example")
    expect(page.get_by_test_id("ack-comment")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("ack-dialog")).to_be_hidden()
    assert site.store.alarms.get(second.alarm_id).acknowledged is None

    row(page, first).get_by_role("button", name="Take back: High temperature of sensor_1").click()
    expect(row(page, first).get_by_test_id("alarm-acknowledge")).to_have_text("Acknowledge")
    assert site.store.alarms.get(first.alarm_id).acknowledged is None


def test_a_refused_acknowledgement_says_why(open_page, processing, site):
    processing.process(a_reading())
    put_alarms(site.store, [alarm(1)])
    page = open_page(expected="409")
    row(page, alarm(1)).get_by_test_id("alarm-acknowledge").click()
    put_alarms(site.store, [alarm(1, state="resolved", resolved=iso())])
    page.get_by_test_id("ack-send").click()
    expect(page.get_by_test_id("ack-problem")).to_contain_text("That did not work: the alarm is over")


def test_alarms_are_silenced_and_silences_are_ended(open_page, processing, site):
    processing.process(a_reading())
    put_alarms(site.store, [alarm(1), alarm(2), alarm(3, sensor_id="sensor_1", rule="LOW_TEMPERATURE")])
    page = open_page()
    row(page, alarm(1)).get_by_test_id("alarm-silence").click()
    matchers = page.get_by_test_id("silence-matchers")
    expect(matchers).to_have_text("rule is HIGH_TEMPERATURE, sensor_id is sensor_1")
    page.get_by_test_id("scope-sensor").check()
    expect(matchers).to_have_text("sensor_id is sensor_1")
    page.get_by_test_id("silence-minutes").select_option("240")
    page.get_by_test_id("silence-by").fill("Ann")
    page.get_by_test_id("silence-comment").fill("maintenance")
    page.get_by_test_id("silence-send").click()
    expect(page.get_by_test_id("silence-dialog")).to_be_hidden()
    for number in (1, 3):
        expect(row(page, alarm(number))).to_contain_text("Silenced until")
    expect(row(page, alarm(2))).not_to_contain_text("Silenced")
    [silence] = site.store.silences.all()
    assert (silence.created_by, silence.comment) == ("Ann", "maintenance")

    page.get_by_test_id("silences-open").click()
    expect(page.get_by_test_id("silence")).to_contain_text("by Ann: maintenance")
    page.get_by_test_id("silence-end").click()
    expect(page.get_by_test_id("silence")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(row(page, alarm(1))).not_to_contain_text("Silenced")
    expect(page.get_by_test_id("silences-open")).to_be_hidden()


def test_the_readings_behind_an_alarm_are_one_click_away(open_page, processing, site):
    processing.process(a_reading())
    put_alarms(site.store, [alarm(1, ago_s=100)])
    before = processing.alert(sensor_id="sensor_1", timestamp=iso(150))
    behind = [processing.alert(sensor_id="sensor_1", timestamp=iso(ago_s), value=32.0) for ago_s in (100, 95, 90)]
    other = processing.alert(sensor_id="sensor_2", timestamp=iso(50))
    page = open_page()
    alerts = page.get_by_test_id("alert-row")
    expect(alerts).to_have_count(5)
    # The sparkline has what is known of the sensor.
    expect(row(page, alarm(1)).locator("svg.spark")).to_have_attribute(
        "aria-label", re.compile(r"^The last [34] known")
    )
    row(page, alarm(1)).get_by_test_id("alarm-readings").click()
    expect(alerts).to_have_count(3)
    assert {one.get_attribute("data-alert-id") for one in alerts.all()} <= {*behind, before}
    expect(page.get_by_test_id("alerts-of")).to_contain_text("sensor_1 since")
    expect(page.locator("#alerts")).to_be_focused()
    page.reload()
    expect(alerts).to_have_count(3)
    page.get_by_test_id("alerts-of").click()
    expect(alerts).to_have_count(5)
    expect(page.locator(f"[data-alert-id='{other}']")).to_be_visible()
    assert "sensor_id" not in page.url


def test_of_500_alarms_only_those_in_sight_are_in_the_page(open_page, processing, site):
    processing.process(a_reading())
    put_alarms(site.store, [alarm(n, ago_s=60 + n, alarm_id=f"{TOPIC}-0-{n}-warning") for n in range(500)])
    page = open_page()
    expect(page).to_have_title("(500) IoT sensors")
    expect(row(page, alarm(0))).to_be_visible()
    assert shown(page).count() < 30
    expect(shown(page).first).to_have_attribute("aria-setsize", "500")
    page.locator("#alarm-box").evaluate("(box) => box.scrollTo(0, box.scrollHeight)")
    expect(row(page, alarm(499))).to_be_visible()
    expect(row(page, alarm(499))).to_have_attribute("aria-posinset", "500")
    assert shown(page).count() < 30
    # The keyboard goes on where the rows in the page end.
    row(page, alarm(499)).get_by_test_id("alarm-silence").focus()
    for _ in range(40):
        page.keyboard.press("ArrowUp")
    expect(row(page, alarm(459)).get_by_test_id("alarm-silence")).to_be_focused()


def test_a_paused_page_keeps_its_alarms(open_page, processing, site):
    processing.process(a_reading())
    put_alarms(site.store, [alarm(1)])
    page = open_page()
    expect(shown(page)).to_have_count(1)
    page.get_by_test_id("pause").click()
    wait_for_state(page, "paused")
    put_alarms(site.store, [alarm(2)])
    page.wait_for_event("response", lambda response: response.url.endswith("/api/metrics"))
    assert shown(page).count() == 1
    page.get_by_test_id("pause").click()
    expect(shown(page)).to_have_count(2)


@pytest.mark.parametrize("width", [390, 1440])
def test_long_and_hostile_names_fit_and_are_shown_as_text(open_page, processing, site, width):
    processing.process(a_reading())
    names: dict[str, Any] = {
        "sensor_id": HOSTILE.format("sensor") + "s" * 60,
        "location": HOSTILE.format("place") + "l" * 60,
    }
    ack = Acknowledgement(iso(), HOSTILE.format("by"), HOSTILE.format("comment") + "c" * 900)
    long = alarm(1, **names, sensor_type="t" * 120, unit="u" * 120, rule="HIGH_" + "T" * 120, acknowledged=ack)
    put_alarms(site.store, [long, alarm(2)])
    page = open_page(viewport={"width": width, "height": 844}, bypass_csp=True)
    expect(row(page, long)).to_contain_text(names["sensor_id"])
    assert page.evaluate("document.documentElement.scrollWidth") == width
    edges = "(all) => all.map((one) => one.getBoundingClientRect()).filter((box) => box.width).map((box) => box.right)"
    assert max(page.locator("#alarms button, #alarm-list li").evaluate_all(edges)) <= width
    row(page, long).get_by_test_id("alarm-silence").click()
    expect(page.get_by_test_id("silence-dialog")).to_contain_text(names["sensor_id"])
    box = page.get_by_test_id("silence-dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert page.locator("main img, dialog img, main script").count() == 0
    assert page.evaluate("window.executed") is None


SPARKLINE = """async ([alarm, readings]) => {
  const { makeSparkline, drawSparkline } = await import("/static/readings.js");
  const svg = makeSparkline();
  drawSparkline(svg, alarm, readings);
  return [...svg.children].map((path) => path.getAttribute("d"));
}"""


def test_a_sparkline_draws_only_what_is_known(open_page, processing):
    page = open_page()
    of = msgspec.to_builtins(alarm(1, started="2026-11-24T00:00:00.000000+00:00"))
    began_ms = 1_795_478_400_000
    # What was long before is of an earlier alarm.
    for too_few in ([], [[began_ms, 31.0]], [[began_ms - 61_000, 31.0], [began_ms, 31.0]]):
        assert page.evaluate(SPARKLINE, [of, too_few]) == ["", "", ""]
    steady = [[began_ms + 1_000 * second, 31.0 + second] for second in range(3)]
    bound, line, newest = page.evaluate(SPARKLINE, [of, [*steady, [began_ms + 60_000, 40.0]]])
    # The last reading is far from the others, so no line leads to it.
    assert line.count("M") == 2
    assert line.count("L") == 2
    assert bound.startswith("M0 31.0")
    assert newest.startswith("M129.0 3.0")
