"""The page in a real browser, served by the real web server from a database that the tests fill."""

from __future__ import annotations

import re

import pytest
from kafka import KafkaProducer
from playwright.sync_api import expect

from iot.alerts import encode
from iot.settings import ALERTS_TOPIC
from tests.support.page import (  # noqa: F401  # fixtures among them
    TOPIC,
    a_reading,
    an_alert,
    browser,
    open_page,
    processing,
    readings,
    running_site,
    site,
    wait_for_charts,
    wait_for_state,
)

HOSTILE = "<img src=x onerror=\"window.executed='{}'\">"
# The range of each chart over time, in the order of the page.
TIME_RANGES = """[...document.querySelectorAll(".chart")]
    .filter((chart) => chart._fullLayout?.xaxis.type === "date")
    .map((chart) => String(chart._fullLayout.xaxis.range))"""
AVERAGES = 'document.querySelector("[data-testid=chart-window]").data?.[1].y.concat()'


# What the page shows --------------------------------------------------------------------------------------------------


def test_figures_update_without_a_reload(open_page, processing, eventually):
    processing.process(*readings(value=20.0))
    page = open_page()
    expect(page.get_by_test_id("value-messages")).to_have_text("49")
    expect(page.get_by_test_id("value-health")).to_have_text("Good")
    expect(page.get_by_test_id("value-active-alerts")).to_have_text("0")
    wait_for_charts(page)
    drawn = page.evaluate(AVERAGES)
    page.evaluate("window.sameDocument = true")

    # They were measured 30 s ago, so they change windows that are complete.
    processing.process(*(a_reading(30, value=31.0 + number, sensor_id=f"s-{number}") for number in range(1_200)))
    # Three readings in the partition are not processed yet.
    processing.beat(end_offsets={0: 3}, read_offsets={0: 0})
    expect(page.get_by_test_id("value-rate")).to_have_text(re.compile(r"^[1-9][0-9]+$"))
    expect(page.get_by_test_id("value-messages")).to_have_text("1,249")
    expect(page.get_by_test_id("value-active-sensors")).to_have_text("1,201")
    expect(page.get_by_test_id("value-active-alerts")).to_have_text("1,200")
    expect(page.get_by_test_id("value-lag")).to_have_text("3")
    expect(page.get_by_test_id("value-health")).to_have_text("Warning")
    cells = page.get_by_test_id("stats-rows").locator("tr").first.locator("th, td")
    expect(cells).to_have_text(["temperature", "°C", "1,249", "606.55", "20.00", "1,230.00"])
    eventually(lambda: page.evaluate(AVERAGES) != drawn, 60)
    assert page.evaluate("window.sameDocument")


def test_an_alert_is_pushed_onto_the_page(open_page, processing, site, eventually):
    processing.process(a_reading())
    old = processing.alert()
    page = open_page()
    expect(page.get_by_test_id("transport")).to_have_text("pushed as it happens")
    rows = page.get_by_test_id("alert-row")
    expect(rows).to_have_count(1)
    page.evaluate("window.sameDocument = true")
    # The alert is only in the topic, not in the database, so it can only arrive by push.
    producer = KafkaProducer(bootstrap_servers=site.bootstrap_servers)
    sent = 100

    def one_has_come() -> bool:
        # The server reads from the end of the topic at its start, which may be after the first alerts.
        nonlocal sent
        sent += 1
        pushed = an_alert(sent, sensor_id="boiler", value=87.25, location="cellar").alert
        producer.send(ALERTS_TOPIC, encode(pushed)).get(30)
        return bool(rows.count() > 1)

    eventually(one_has_come, 60)
    producer.close()
    newest = rows.first
    assert newest.get_attribute("data-alert-id") != old
    for text in ("High temperature", "87.25\u00a0°C", "above 30", "boiler", "cellar"):
        expect(newest).to_contain_text(text)
    assert page.evaluate("window.sameDocument")


def test_without_push_the_page_polls(open_page, processing):
    processing.process(a_reading())
    page = open_page(push=False, expected="501")
    expect(page.get_by_test_id("transport")).to_have_text("no push: read every 5 s")
    expect(page.get_by_test_id("value-messages")).to_have_text("1")
    processing.process(a_reading(), a_reading())
    alert_id = processing.alert()
    expect(page.get_by_test_id("value-messages")).to_have_text("3")
    expect(page.locator(f"[data-alert-id='{alert_id}']")).to_be_visible()


def test_zoom_survives_a_refresh(open_page, processing, eventually):
    processing.process(*readings(), *readings(sensor_type="humidity", unit="percent", value=50.0))
    page = open_page("/?minutes=5")
    wait_for_charts(page)
    box = page.get_by_test_id("chart-window").first.locator(".nsewdrag").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 62, steps=5)
    page.mouse.up()
    expect(page.get_by_test_id("zoom-reset")).to_be_visible()
    # All time axes share the zoom.
    eventually(lambda: len(set(page.evaluate(TIME_RANGES))) == 1, 60)
    ranges, drawn = page.evaluate(TIME_RANGES), page.evaluate(AVERAGES)
    assert len(ranges) >= 3

    processing.process(*readings(value=29.0))
    eventually(lambda: page.evaluate(AVERAGES) != drawn, 60)
    assert page.evaluate(TIME_RANGES) == ranges

    page.get_by_test_id("zoom-reset").click()
    eventually(lambda: not set(page.evaluate(TIME_RANGES)) & set(ranges), 60)
    expect(page.get_by_test_id("zoom-reset")).to_be_hidden()


# States --------------------------------------------------------------------------------------------------------------


def test_each_state_is_shown_in_words(open_page, processing):
    processing.beat(bootstrap_servers="localhost:19092")
    page = open_page()
    word, text, command = (page.get_by_test_id(name) for name in ("state-word", "state-text", "producer-command"))
    age, health, rate = (page.get_by_test_id(name) for name in ("state-age", "value-health", "value-rate"))
    wait_for_state(page, "no_data")
    expect(word).to_have_text("No data yet")
    expect(text).to_have_text("No reading has been processed. Start a producer in another terminal:")
    expect(command).to_have_text(f"python iot_producer.py --bootstrap-servers localhost:19092 --topic {TOPIC}")
    expect(command).to_be_visible()
    # These are not known, which is not the same as 0.
    for figure in (rate, health, page.get_by_test_id("value-lag")):
        expect(figure).to_have_text("–")

    processing.process(a_reading())
    wait_for_state(page, "live")
    expect(word).to_have_text("Live")
    expect(age).to_have_text(re.compile(r"^Last update [0-9]+ s ago\.$"))
    expect(command).to_be_hidden()
    expect(page).to_have_title("IoT sensors")

    processing.process(a_reading(ago_s=7_500), ago_s=7_500)
    wait_for_state(page, "stale")
    expect(word).to_have_text("Stale")
    expect(text).to_have_text("No new readings are arriving.")
    expect(age).to_have_text("Nothing new for 2 h 5 min.")

    processing.beat(failure="java.io.IOException: No space left on device")
    wait_for_state(page, "failed")
    expect(word).to_have_text("Failed")
    expect(text).to_contain_text("Query windows is not running: java.io.IOException: No space left on device.")
    expect(health).to_have_text("Critical")
    expect(rate).to_have_text("–")
    expect(page.get_by_test_id("value-active-sensors")).to_have_text("–")
    expect(page).to_have_title("Failed – IoT sensors")

    processing.process(a_reading())
    wait_for_state(page, "live")
    processing.beat(ago_s=60)
    wait_for_state(page, "failed")
    expect(text).to_contain_text("No sign of life from the processing for 6")


def test_an_unreachable_server_is_shown_and_the_page_reconnects(open_page, processing, site, eventually):
    page = open_page(expected="net::ERR_")
    processing.process(a_reading())
    wait_for_state(page, "live")
    site.stop()
    wait_for_state(page, "unreachable")
    expect(page.get_by_test_id("state-word")).to_have_text("Server unreachable")
    # The icon does not come from the server now.
    icon = page.locator("#banner-icon use").bounding_box()
    assert icon
    assert icon["width"] > 0
    expect(page.get_by_test_id("state-text")).to_contain_text("server does not answer. The figures below are from")
    expect(page.get_by_test_id("state-age")).to_contain_text("No answer for")
    expect(page.get_by_test_id("value-messages")).to_have_text("1")
    site.start(eventually)
    processing.process(a_reading())
    expect(page.get_by_test_id("value-messages")).to_have_text("2")
    wait_for_state(page, "live")
    expect(page.get_by_test_id("transport")).to_have_text("pushed as it happens")


# Hostile data ---------------------------------------------------------------------------------------------------------


def test_names_from_the_data_are_shown_as_text(open_page, processing, eventually):
    sensor, kind, place = (HOSTILE.format(part) for part in ("sensor", "type", "location"))
    # Plotly interprets tags and fields like these.
    unit = "<b>unit</b>%{y}"
    names = {"sensor_id": sensor, "sensor_type": kind, "location": place, "unit": unit}
    processing.process(*readings(**names), *readings())
    processing.alert(type=f"HIGH_{kind}", **names)
    # Without the server's content security policy, the page itself must keep a handler from running.
    page = open_page(bypass_csp=True)
    wait_for_charts(page)
    row = page.get_by_test_id("alert-row")
    for text in (sensor, place, unit):
        expect(row).to_contain_text(text)
    page.get_by_test_id("latest-details").locator("summary").click()
    cells = page.get_by_test_id("latest-table").locator("tbody tr", has_text=sensor).locator("th, td")
    expect(cells.first).to_have_text(sensor)
    expect(cells.nth(1)).to_have_text(kind)
    expect(cells.nth(2)).to_have_text(place)
    expect(page.get_by_test_id("stats-rows")).to_contain_text(kind)
    page.get_by_test_id("filter-location").select_option(place)
    page.get_by_test_id("filter-type").select_option(kind)
    expect(page.get_by_test_id("panel")).to_have_count(1)
    expect(page.get_by_test_id("panel")).to_contain_text(kind)
    # Plotly reads its labels as a kind of HTML: of the sensors, of their types, and under the pointer.
    expect(page.get_by_test_id("chart-latest")).to_contain_text("<img src=x")
    dot = page.get_by_test_id("chart-latest").locator(".point").first
    dot.scroll_into_view_if_needed()

    def hover() -> bool:
        # A chart that was just redrawn has forgotten the pointer.
        box = dot.bounding_box()
        assert box
        for beside in (3, 4):
            page.mouse.move(box["x"] + beside, box["y"] + 4)
        label = page.get_by_test_id("chart-latest").locator(".hoverlayer").text_content() or ""
        return sensor[:20] in label and unit in label

    eventually(hover, 60)
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.executed") is None


# Controls -------------------------------------------------------------------------------------------------------------


def test_a_paused_page_does_not_change(open_page, processing):
    processing.process(a_reading())
    processing.alert()
    page = open_page()
    expect(page.get_by_test_id("alert-row")).to_have_count(1)
    pause, messages = page.get_by_test_id("pause"), page.get_by_test_id("value-messages")
    pause.click()
    wait_for_state(page, "paused")
    expect(pause).to_have_text("Resume")
    processing.process(a_reading())
    processing.alert()
    processing.beat(failure="no space left")
    expect(page.get_by_test_id("state-text")).to_contain_text("Meanwhile: Failed. Query windows is not running")
    # By the next answer, anything pushed would have been shown.
    page.wait_for_event("response", lambda response: response.url.endswith("/api/metrics"))
    expect(messages).to_have_text("1")
    assert page.get_by_test_id("alert-row").count() == 1
    pause.click()
    expect(messages).to_have_text("2")
    expect(page.get_by_test_id("alert-row")).to_have_count(2)
    wait_for_state(page, "failed")


def test_filters_apply_to_charts_lists_and_tables(open_page, processing):
    humidity = {"sensor_type": "humidity", "unit": "percent", "value": 50.0}
    processing.process(
        *readings(location="hall"), *readings(location="roof"), *readings(location="roof", sensor_id="h", **humidity)
    )
    processing.alert(location="hall")
    on_roof = processing.alert(location="roof")
    damp = processing.alert(type="HIGH_HUMIDITY", location="roof", **humidity)
    page = open_page()
    panels, stats = page.get_by_test_id("panel"), page.get_by_test_id("stats-rows").locator("tr")
    rows = page.get_by_test_id("alert-row")
    expect(panels).to_have_count(2)
    expect(stats).to_have_count(2)
    expect(rows).to_have_count(3)

    with page.context.expect_event("request", lambda request: "location=roof" in request.url):
        page.get_by_test_id("filter-location").select_option("roof")
    expect(rows).to_have_count(2)
    page.get_by_test_id("filter-type").select_option("humidity")
    expect(panels).to_have_count(1)
    expect(panels).to_have_attribute("data-sensor-type", "humidity")
    expect(stats).to_have_count(1)
    expect(rows).to_have_count(1)
    expect(rows).to_have_attribute("data-alert-id", damp)
    with page.context.expect_event("request", lambda request: "api/windows?" in request.url and "since" in request.url):
        page.get_by_test_id("range-1440").check()
    expect(page.get_by_test_id("csv")).to_have_attribute(
        "href", "api/windows?minutes=1440&sensor_type=humidity&location=roof&format=csv"
    )

    page.reload()
    expect(page.get_by_test_id("range-1440")).to_be_checked()
    expect(page.get_by_test_id("filter-type")).to_have_value("humidity")
    expect(rows).to_have_count(1)
    page.get_by_test_id("filter-type").select_option("")
    expect(rows).to_have_count(2)
    expect(page.locator(f"[data-alert-id='{on_roof}']")).to_be_visible()


def test_the_theme_follows_the_system_until_it_is_chosen(open_page, processing):
    page = open_page(color_scheme="dark")
    root, toggle = page.locator("html"), page.get_by_test_id("theme-toggle")
    background = "getComputedStyle(document.body).backgroundColor"
    expect(root).to_have_attribute("data-theme", "dark")
    expect(toggle).to_have_attribute("aria-pressed", "true")
    dark = page.evaluate(background)
    toggle.click()
    expect(root).to_have_attribute("data-theme", "light")
    expect(toggle).to_have_attribute("aria-pressed", "false")
    assert page.evaluate(background) != dark
    page.reload()
    expect(root).to_have_attribute("data-theme", "light")


def test_every_control_is_reached_and_used_by_keyboard(open_page, processing):
    processing.process(*readings())
    processing.alert()
    page = open_page()
    wait_for_charts(page)
    expect(page.get_by_test_id("alert-list")).to_be_visible()
    focused = (
        "((at) => at.dataset.testid ?? at.parentElement?.dataset.testid ?? at.textContent)(document.activeElement)"
    )
    reached: list[str] = []
    while len(reached) < 40 and (not reached or page.evaluate("document.activeElement !== document.body")):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focused))
        if reached[-1] == "pause":
            page.keyboard.press("Space")
            wait_for_state(page, "paused")
            page.keyboard.press("Enter")
            expect(page.get_by_test_id("pause")).to_have_attribute("aria-pressed", "false")
        if reached[-1] == "range-5":
            page.keyboard.press("ArrowRight")
            expect(page.get_by_test_id("range-15")).to_be_checked()
        if reached[-1] == "latest-details":
            page.keyboard.press("Enter")
            expect(page.get_by_test_id("latest-table")).to_be_visible()
    wanted = [
        *("Skip to the figures", "Skip to the alerts", "link-api", "link-prometheus", "pause", "theme-toggle"),
        *("filter-type", "filter-location", "range-5", "csv", "latest-details"),
    ]
    # The list of alerts is not checked: it cannot take the focus while it is read again, and a link leads to it.
    # The details take the focus twice, the second time for their table.
    assert list(dict.fromkeys(name for name in reached if name in wanted)) == wanted


@pytest.mark.parametrize("empty", [True, False])
def test_the_page_fits_a_phone(open_page, processing, empty):
    if empty:
        processing.beat(bootstrap_servers=",".join(f"broker-{number}.example.org:9092" for number in range(5)))
    else:
        long = {"sensor_id": "s" * 120, "location": "l" * 120, "sensor_type": "t" * 120, "unit": "u" * 120}
        processing.process(*readings(), *readings(**long))
        processing.alert(**long, type="HIGH_" + "T" * 120)
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    if empty:
        expect(page.get_by_test_id("producer-command")).to_be_visible()
    else:
        wait_for_charts(page)
        expect(page.get_by_test_id("alert-row")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    edges = "(all) => all.map((one) => one.getBoundingClientRect()).filter((box) => box.width).map((box) => box.right)"
    controls = page.locator(".controls button, select, fieldset, #csv, .card, .block, #banner").evaluate_all(edges)
    assert len(controls) > 10
    assert max(controls) <= 390


FIGURE_OF_RATES = """async (samples) => {
  const [{ rateFigure }, { readTheme }] = await Promise.all(
    [import("/static/figures.js"), import("/static/plotting.js")]
  );
  const view = { end_ms: 600_000, ahead_ms: 0, minutes: 10, zoom: null, zoomRevision: 0 };
  return rateFigure(samples, readTheme(), view).data.map((trace) => trace.y);
}"""


def test_the_rate_chart_is_empty_across_gaps(open_page):
    steady = [[at_s * 1_000, 5] for at_s in range(0, 60, 15)]
    later = [[at_s * 1_000, 7] for at_s in (300, 315, 330)]
    page = open_page()
    line, area = page.evaluate(FIGURE_OF_RATES, [*steady, *later, [345_000, None], [360_000, 9]])
    assert line == [5, 5, 5, 5, None, 7, 7, 7, None, 9, None]
    assert area == [0, 5, 5, 5, 5, 0, 0, 7, 7, 7, 0, 0, 9, 0]


def test_alerts_shown_and_counted_agree(open_page, processing):
    processing.process(*readings())
    for _ in range(3):
        processing.alert()
    page = open_page()
    expect(page.get_by_test_id("alert-row")).to_have_count(3)
    expect(page.locator("#alerts-hint")).to_have_text("3 in all")
    expect(page.locator("#alerts-detail")).to_have_text("3 alerts in all")
