/** The page: shows what arrives at most every 250 ms, as filters, pause and theme ask. */

import { Alarms } from "./alarms.js";
import { Charts } from "./charts.js";
import { element, setIcon, setText } from "./dom.js";
import { moment, parseTime, zoneName } from "./format.js";
import { AlertList, setOptions, showCards, showLatest, showStats } from "./lists.js";
import { getJson, now } from "./server.js";
import { pageState, pausedState } from "./status.js";
import { startTransport, TIMEOUT_MS } from "./transport.js";

const RENDER_EVERY_MS = 250;
// How long to wait after a rendering, as a multiple of the time it took: a slow machine renders less often, not late.
const REST = 4;
const MAX_REST_MS = 1_000;
const TICK_MS = 1_000;
const RANGES_MINUTES = [5, 15, 60, 360, 1440];
const DEFAULT_MINUTES = 5;
const ALERTS_READ = 100;
// /api/alerts has no filter by location, so more are read and filtered here.
const ALERTS_READ_TO_FILTER = 1000;
const COPIED_MS = 2_000;

/** The filters in the address: a view can be bookmarked and shared. */
function filtersFromAddress() {
  const given = new URLSearchParams(location.search);
  const minutes = Number(given.get("minutes"));
  return {
    sensorType: given.get("sensor_type") ?? "",
    location: given.get("location") ?? "",
    minutes: RANGES_MINUTES.includes(minutes) ? minutes : DEFAULT_MINUTES,
    // The readings behind an alarm: the alerts of one sensor, from a moment on.
    sensorId: given.get("sensor_id") ?? "",
    since: parseTime(given.get("since")) === null ? "" : given.get("since"),
  };
}

function filterParameters({ sensorType, location, minutes, sensorId, since }) {
  const parameters = new URLSearchParams({ minutes });
  if (sensorId) parameters.set("sensor_id", sensorId);
  if (sensorId && since) parameters.set("since", since);
  if (sensorType) parameters.set("sensor_type", sensorType);
  if (location) parameters.set("location", location);
  return parameters;
}

class Page {
  #filters = filtersFromAddress();
  /** The figures shown, and the newest ones: they differ while the page is paused. */
  #metrics = null;
  #newest = null;
  #contact = { answer: null, error: null, pushing: false };
  #paused_ms = null;
  #alarms = new Alarms({ changed: () => this.#schedule(), readings: (alarm) => this.#showReadings(alarm) }, TIMEOUT_MS);
  #alerts = new AlertList();
  #charts = new Charts(this.#filters);
  #next_ms = 0;
  #renderTimer = 0;
  #announced = "";

  start() {
    setText(element("zone"), zoneName());
    this.#wireFilters();
    this.#wireButtons();
    startTransport({
      metrics: (metrics) => {
        this.#newest = metrics;
        this.#charts.addRate(now(), metrics.messages_per_second ?? null);
        if (this.#paused_ms === null) this.#metrics = metrics;
        this.#schedule();
      },
      alert: (alert) => {
        if (this.#paused_ms !== null) return;
        this.#alerts.add([alert]);
        this.#alarms.readings.addAlert(alert);
        this.#schedule();
      },
      alarm: (alarm) => this.#alarms.take(alarm),
      catchUp: () => {
        if (this.#paused_ms !== null) return;
        this.#readAlerts();
        this.#alarms.read();
      },
      contact: (contact) => {
        this.#contact = contact;
        this.#showState();
      },
    });
    setInterval(() => {
      if (document.hidden) return;
      this.#showState();
      this.#alarms.tick();
    }, TICK_MS);
  }

  #schedule() {
    if (this.#renderTimer) return;
    const wait_ms = Math.max(0, this.#next_ms - performance.now());
    this.#renderTimer = setTimeout(() => this.#render(), wait_ms);
  }

  #render() {
    this.#renderTimer = 0;
    const start_ms = performance.now();
    this.#next_ms = start_ms + RENDER_EVERY_MS;
    requestAnimationFrame(() =>
      // This runs once the frame is laid out.
      setTimeout(() => {
        const rest_ms = Math.min(MAX_REST_MS, REST * (performance.now() - start_ms));
        this.#next_ms = Math.max(this.#next_ms, performance.now() + rest_ms);
      }),
    );
    this.#showState();
    const metrics = this.#metrics;
    if (metrics && this.#paused_ms === null) this.#alerts.total = this.#filters.sensorId ? null : metrics.total_alerts;
    this.#alerts.render();
    if (metrics && this.#paused_ms === null) this.#alarms.metrics = metrics;
    this.#alarms.render();
    if (!metrics) return;
    showCards(metrics);
    showStats(metrics, this.#filters);
    showLatest(metrics, this.#filters);
    setOptions(
      element("filter-type"),
      metrics.sensor_types ?? (metrics.sensor_stats ?? []).map((row) => row.sensor_type),
    );
    setOptions(element("filter-location"), metrics.locations ?? []);
    this.#showLinks(metrics);
    if (this.#paused_ms === null) this.#charts.setMetrics(metrics);
  }

  #showState() {
    const actual = pageState(this.#newest, this.#contact);
    const shown = this.#paused_ms === null ? actual : pausedState(this.#paused_ms, actual);
    const banner = element("banner");
    banner.dataset.state = shown.name;
    banner.dataset.underlying = actual.name;
    setIcon(element("banner-icon"), shown.name);
    setText(element("banner-word"), shown.word);
    setText(element("banner-text"), shown.text);
    setText(element("banner-age"), shown.age);
    element("command").hidden = !shown.command;
    setText(element("command-text"), shown.command);
    const known = this.#newest && !this.#contact.error;
    setText(
      element("transport"),
      known ? (this.#contact.pushing ? "pushed as it happens" : "no push: read every 5 s") : "",
    );
    // Figures that are out of date look different.
    document.body.classList.toggle("old", Boolean(this.#metrics) && !["live", "no_data"].includes(actual.name));
    // Announce a state once, although the seconds in its reasons tick.
    const announced = `${shown.name} ${actual.name}`;
    if (announced !== this.#announced) {
      this.#announced = announced;
      setText(element("announcer"), `${shown.word}. ${shown.text}`);
    }
    const { firing } = this.#alarms;
    const badge = firing > 0 ? `(${firing}) ` : "";
    document.title = `${badge}${actual.name === "live" ? "" : `${actual.word} – `}IoT sensors`;
    const favicon = `static/favicon${firing > 0 ? "-alarm" : ""}.svg`;
    if (element("favicon").getAttribute("href") !== favicon) element("favicon").setAttribute("href", favicon);
  }

  #showLinks(metrics) {
    const spark = element("link-spark");
    const safe = /^https?:\/\//.test(metrics.spark_ui ?? "");
    spark.hidden = !safe;
    if (safe) spark.href = metrics.spark_ui;
    const limits = metrics.limits_reached ?? [];
    setText(
      element("limits"),
      limits.length
        ? `Limits reached: ${limits.join(", ")}. Later types and locations are counted as "other", ` +
            "and the sensors silent for longest are dropped."
        : "",
    );
  }

  async #readAlerts() {
    const { sensorType, location, sensorId, since } = this.#filters;
    const limit = location ? ALERTS_READ_TO_FILTER : ALERTS_READ;
    const parameters = new URLSearchParams({ limit });
    if (sensorType) parameters.set("sensor_type", sensorType);
    if (sensorId) parameters.set("sensor_id", sensorId);
    if (sensorId && since) parameters.set("since", since);
    const asked = [this.#filters, this.#paused_ms];
    try {
      const answer = await getJson(`api/alerts?${parameters}`, TIMEOUT_MS);
      if (asked[0] !== this.#filters || asked[1] !== this.#paused_ms) return;
      this.#alerts.read(answer.alerts ?? [], limit);
      for (const alert of answer.alerts ?? []) this.#alarms.readings.addAlert(alert);
      this.#schedule();
    } catch {
      // The figures are read at the same time, and their failure is shown.
    }
  }

  #wireFilters() {
    const form = element("filters");
    setOptions(element("filter-type"), [this.#filters.sensorType].filter(Boolean));
    setOptions(element("filter-location"), [this.#filters.location].filter(Boolean));
    element("filter-type").value = this.#filters.sensorType;
    element("filter-location").value = this.#filters.location;
    form.elements.minutes.value = String(this.#filters.minutes);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () =>
      this.#setFilters({
        sensorType: element("filter-type").value,
        location: element("filter-location").value,
        minutes: Number(form.elements.minutes.value),
      }),
    );
    element("alerts-of").addEventListener("click", () => {
      this.#setFilters({ sensorId: "", since: "" });
      element("alerts").focus();
    });
    this.#applyFilters();
  }

  #setFilters(filters) {
    this.#filters = { ...this.#filters, ...filters };
    this.#applyFilters();
    this.#charts.setFilters(this.#filters);
    this.#readAlerts();
    this.#schedule();
  }

  /** Shows the readings behind an alarm: the alerts of its sensor since it began, also where a filter would hide them. */
  #showReadings(alarm) {
    for (const name of ["filter-type", "filter-location"]) element(name).value = "";
    this.#setFilters({ sensorType: "", location: "", sensorId: alarm.sensor_id, since: alarm.started });
    element("alerts").focus({ preventScroll: true });
    element("alerts").scrollIntoView({ block: "start" });
  }

  #applyFilters() {
    const { sensorType, location: place, sensorId, since } = this.#filters;
    const parameters = filterParameters(this.#filters);
    element("csv").href = `api/windows?${filterParameters({ ...this.#filters, sensorId: "" })}&format=csv`;
    const since_ms = parseTime(since);
    element("alerts-of").hidden = !sensorId;
    setText(element("alerts-of-text"), since ? `${sensorId} since ${moment(since_ms, now())}` : sensorId);
    history.replaceState(null, "", `${location.pathname}?${parameters}`);
    this.#alerts.setFilter(
      (alert) =>
        (!sensorType || alert.sensor_type === sensorType) &&
        (!place || alert.location === place) &&
        (!sensorId || (alert.sensor_id === sensorId && !(parseTime(alert.timestamp) < since_ms))) &&
        !(this.#paused_ms !== null && parseTime(alert.timestamp) > this.#paused_ms),
    );
  }

  #wireButtons() {
    element("pause").addEventListener("click", () => this.#pause(this.#paused_ms === null));
    element("latest-details").addEventListener("toggle", () => this.#schedule());
    const theme = element("theme");
    const showTheme = () =>
      theme.setAttribute("aria-pressed", String(document.documentElement.dataset.theme === "dark"));
    theme.addEventListener("click", () => window.toggleTheme());
    addEventListener("themechange", showTheme);
    showTheme();
    element("command-copy").addEventListener("click", async () => {
      const button = element("command-copy");
      try {
        await navigator.clipboard.writeText(element("command-text").textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(element("command-text"));
        button.textContent = "Selected: press Ctrl+C";
      }
      setTimeout(() => (button.textContent = "Copy"), COPIED_MS);
    });
  }

  #pause(pause) {
    this.#paused_ms = pause ? now() : null;
    const button = element("pause");
    button.setAttribute("aria-pressed", String(pause));
    setIcon(button.querySelector("svg"), pause ? "play" : "paused");
    setText(button.querySelector("span"), pause ? "Resume" : "Pause");
    this.#charts.pause(this.#paused_ms);
    this.#alarms.pause(pause);
    if (!pause) {
      this.#metrics = this.#newest;
      this.#readAlerts();
    }
    this.#schedule();
  }
}

new Page().start();
