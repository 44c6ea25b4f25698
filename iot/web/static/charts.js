/** The charts on the page: what they show, and when it is read and redrawn. All time axes share one zoom. */

import { Canvas, loadPlotly } from "./canvas.js";
import { element, make, setText } from "./dom.js";
import { alertsFigure, describe, newestComplete, rateFigure, windowsFigure } from "./figures.js";
import { measure, moment, parseTime, rate, span, unit, whole } from "./format.js";
import { latestFigure } from "./latest.js";
import { byImportance, colorName, readTheme, seriesKey } from "./plotting.js";
import { now } from "./server.js";
import { Windows } from "./windows.js";

/** Maximum number of sensor types that are all shown; of more, the first few, and others by a button. */
const MANY_TYPES = 11;
const FIRST_PANELS = 5;
const MORE_PANELS = 6;
/** How far apart remembered rates are at least, and the maximum number of them: an hour. */
const RATE_STEP_MS = 5_000;
const RATES_KEPT = 720;

/** Shows the legend of the bars: a swatch and a text each. */
function showLegend(entries) {
  const list = element("alerts-legend");
  const key = JSON.stringify(entries);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(
    ...entries.map(({ name, color, hatched }) => {
      const item = make("li", hatched ? "swatched hatched" : "swatched", name);
      item.style.setProperty("--swatch", `var(${color})`);
      return item;
    }),
  );
}

/** All charts; `filters` is {sensorType, location, minutes}. */
export class Charts {
  #canvas = new Canvas((zoom) => this.#setZoom(zoom));
  #windows = new Windows({
    question: () => this.#question(),
    problem: (text) => this.#problem(text),
    changed: (first) => {
      this.#layPanels();
      this.#drawAll(first);
    },
  });
  #until_ms = null;
  #theme = readTheme();
  #panels = new Map();
  #morePanels = 0;
  #zoom = null;
  #zooms = 0;
  #filters = null;
  #metrics = null;
  #rates = [];
  #loading = false;

  constructor(filters) {
    this.#filters = filters;
    for (const id of ["chart-rate", "chart-alerts", "chart-latest"]) this.#canvas.watch(element(id));
    element("zoom-reset").addEventListener("click", () => this.#setZoom(null));
    element("more-panels").addEventListener("click", () => {
      this.#morePanels += MORE_PANELS;
      this.#windows.refresh();
    });
    addEventListener("themechange", () => {
      this.#theme = readTheme();
      this.#drawAll(true);
    });
  }

  // Loading plotly.js blocks the thread for a while, so the first figures are shown before.
  #load() {
    this.#loading = true;
    requestAnimationFrame(() =>
      setTimeout(() =>
        loadPlotly().then(
          (plotly) => this.#canvas.ready(plotly),
          (error) => this.#problem(`Charts cannot be drawn: ${error.message}. Figures, lists and tables still work.`),
        ),
      ),
    );
  }

  /** Applies new filters: resets the zoom and reads the windows again. */
  setFilters(filters) {
    this.#filters = filters;
    this.#morePanels = 0;
    this.#setZoom(null);
    this.#windows.reset();
  }

  /** Draws new figures, and reads the windows if that is not too soon. */
  setMetrics(metrics) {
    this.#metrics = metrics;
    if (!this.#loading) this.#load();
    this.#windows.refreshLater();
    this.#drawSystem();
  }

  /** Remembers a rate as this page saw it, for the chart of rates. */
  addRate(time, perSecond) {
    // Keep the newest always, and thin out those before it: the line is calmer and shows as much.
    if (this.#rates.length > 1 && time - this.#rates.at(-2)[0] < RATE_STEP_MS) this.#rates.pop();
    this.#rates.push([time, perSecond]);
    if (this.#rates.length > RATES_KEPT) this.#rates.shift();
  }

  /** Stops the charts at a moment (ms), or resumes them (null). */
  pause(until_ms) {
    this.#until_ms = until_ms;
    if (until_ms === null) this.#windows.refresh();
  }

  #question() {
    const { minutes, location } = this.#filters;
    return { minutes, location, sensorTypes: this.#shownTypes(), until_ms: this.#until_ms };
  }

  #problem(text) {
    setText(element("charts-problem"), text);
    element("charts-problem").hidden = !text;
  }

  /** The sensor types to ask for, or null for all. */
  #shownTypes() {
    if (this.#filters.sensorType) return [this.#filters.sensorType];
    const types = this.#allTypes();
    if (types.length <= MANY_TYPES) return null;
    return types.slice(0, FIRST_PANELS + this.#morePanels);
  }

  #allTypes() {
    const stats =
      this.#metrics?.sensor_stats ?? (this.#metrics?.sensor_types ?? []).map((sensor_type) => ({ sensor_type }));
    return [...new Set(byImportance(stats).map((row) => row.sensor_type))];
  }

  #setZoom(zoom) {
    // A new revision makes Plotly drop the range that the user chose before.
    this.#zooms += 1;
    this.#zoom = zoom;
    element("zoom-reset").hidden = !zoom;
    this.#drawAll(true);
  }

  #view() {
    const end_ms = this.#until_ms ?? now();
    return {
      end_ms,
      minutes: this.#filters.minutes,
      ahead_ms: Math.max(10_000, (this.#windows.step_s ?? 10) * 1000),
      // Everything in Kafka up to here is processed; a window that ends later may still grow.
      processed_ms: Math.min(end_ms, parseTime(this.#metrics?.last_update) ?? end_ms),
      zoom: this.#zoom,
      zoomRevision: `${this.#zooms}`,
      revision: JSON.stringify(this.#filters),
    };
  }

  #layPanels() {
    const wanted = byImportance(this.#windows.series.map((series) => ({ ...series, count: 0 })));
    const keys = new Set(wanted.map(seriesKey));
    for (const [key, panel] of this.#panels) {
      if (keys.has(key)) continue;
      this.#canvas.remove(panel.chart);
      panel.article.remove();
      this.#panels.delete(key);
    }
    let at = element("panels-empty").nextElementSibling;
    for (const series of wanted) {
      const key = seriesKey(series);
      if (!this.#panels.has(key)) this.#panels.set(key, this.#makePanel(series));
      const panel = this.#panels.get(key);
      panel.series = series;
      if (panel.article === at) at = at.nextElementSibling;
      else at.before(panel.article);
    }
    const types = this.#allTypes().length;
    const shown = new Set(wanted.map((series) => series.sensor_type)).size;
    const asked = this.#shownTypes();
    const partly = !this.#filters.sensorType && asked && asked.length < types;
    element("more-panels").hidden = !partly;
    setText(element("more-panels"), `Show ${Math.min(MORE_PANELS, types - (asked?.length ?? 0))} more types`);
    const minutes = this.#windows.step_s / 60;
    const step = minutes >= 1 ? `a point every ${minutes} min` : "30 s windows";
    const hint = partly ? `${shown} of ${whole(types)} types, ${step}` : step;
    const zoom = this.#theme.dragmode ? "; drag to zoom" : "";
    setText(element("panels-hint"), wanted.length ? `line: average, band: minimum to maximum; ${hint}${zoom}` : "");
    setText(element("panels-empty"), wanted.length ? "" : this.#whyEmpty());
  }

  #whyEmpty() {
    if (!this.#windows.loaded) return "Not loaded yet.";
    if (this.#metrics?.total_messages === 0) return "No windows yet.";
    const times = (this.#metrics?.latest ?? [])
      .map((reading) => parseTime(reading.timestamp))
      .filter((time) => time !== null);
    const newest = times.length ? Math.max(...times) : null;
    const known = newest === null ? "" : ` The newest reading was measured ${moment(newest, now())}.`;
    return `No window ends in the last ${span(this.#filters.minutes * 60_000)}.${known}`;
  }

  #makePanel({ sensor_type, unit: unitName }) {
    const article = make("article", "panel");
    article.dataset.testid = "panel";
    article.dataset.sensorType = sensor_type;
    const title = make("h3", "", sensor_type);
    title.title = sensor_type;
    title.style.setProperty("--swatch", `var(${colorName(sensor_type)})`);
    const figure = make("p", "figure");
    const number = make("strong");
    figure.append(number, make("span", "unit", unitName === "boolean" ? "" : unit(unitName)));
    const header = make("header");
    header.append(title, figure);
    const chart = make("div", "chart");
    chart.dataset.testid = "chart-window";
    chart.setAttribute("role", "img");
    article.append(header, chart);
    this.#canvas.watch(chart);
    return { article, chart, number };
  }

  #drawAll(urgent = false) {
    for (const panel of this.#panels.values()) {
      const newest = newestComplete(panel.series, this.#view());
      setText(panel.number, measure(newest?.[1]));
      panel.chart.setAttribute("aria-label", describe(panel.series, newest));
      this.#canvas.draw(
        panel.chart,
        () => windowsFigure(panel.series, this.#windows.step_s, this.#theme, this.#view()),
        urgent,
      );
    }
    this.#drawSystem(urgent);
  }

  /** Draws the charts whose data is in /api/metrics. */
  #drawSystem(urgent = false) {
    const metrics = this.#metrics;
    if (!metrics) return;
    this.#drawNoted("rate", "Message rate", urgent, () => {
      const samples = this.#rateSamples();
      const figure = rateFigure(samples, this.#theme, this.#view());
      return [
        figure,
        "No rate is known for this range.",
        `Message rate: now ${rate(samples.at(-1)?.[1])} readings per second`,
      ];
    });
    this.#drawNoted("alerts", "Alerts over time", urgent, () => {
      const figure =
        metrics.alert_history && alertsFigure(metrics.alert_history, this.#filters, this.#theme, this.#view());
      showLegend(figure?.legend ?? []);
      setText(
        element("alerts-chart-hint"),
        `${this.#filters.location ? "all locations, " : ""}hatched: too low; palest bar: still counting`,
      );
      const note = metrics.alert_history ? "No alerts in this range." : "The history of alerts is not known.";
      return [figure, note, `Alerts over time by type: ${whole(figure?.total)} in this range`];
    });
    this.#drawNoted("latest", "Latest values", urgent, () => {
      const { sensorType, location } = this.#filters;
      const fits = (reading) =>
        (!sensorType || reading.sensor_type === sensorType) && (!location || reading.location === location);
      const readings = metrics.latest?.filter(fits);
      const when = (reading) => moment(parseTime(reading.timestamp), now());
      const figure = readings && latestFigure(readings, this.#extents(), this.#theme, this.#view(), when);
      if (figure) element("chart-latest").style.height = `${figure.height}px`;
      const sensors = metrics.active_sensors;
      const part =
        readings && sensors > metrics.latest.length ? `${whole(readings.length)} of ${whole(sensors)} sensors, ` : "";
      const leftOut = figure?.leftOut ? `${figure.leftOut} more types with the filter, ` : "";
      setText(
        element("latest-hint"),
        figure ? `${part}${leftOut}diamond: breaks a rule; ends: minimum and maximum in this range` : "",
      );
      return [
        figure,
        readings ? "No readings to show." : "The latest readings are not known.",
        `Latest value of ${whole(readings?.length)} sensors`,
      ];
    });
  }

  /** [minimum, maximum] of each series in the windows shown. */
  #extents() {
    const extents = new Map();
    for (const series of this.#windows.series) {
      let [low, high] = [Infinity, -Infinity];
      for (const [, , minimum, maximum] of series.points)
        [low, high] = [Math.min(low, minimum), Math.max(high, maximum)];
      extents.set(seriesKey(series), [low, high]);
    }
    return extents;
  }

  #drawNoted(name, title, urgent, figure) {
    const chart = element(`chart-${name}`);
    this.#canvas.draw(
      chart,
      () => {
        const [made, note, label] = figure();
        setText(element(`note-${name}`), made ? "" : note);
        chart.setAttribute("aria-label", made ? label : `${title}: ${note}`);
        return made;
      },
      urgent,
    );
  }

  /** Rates from the server's history and from this page, oldest first. */
  #rateSamples() {
    const seen = new Set(this.#rates.map(([time]) => Math.floor(time / 15_000)));
    const history = (this.#metrics.rate_history ?? []).map(([time, perSecond]) => [parseTime(time), perSecond]);
    const unseen = history.filter(([time]) => time !== null && !seen.has(Math.floor(time / 15_000)));
    return [...unseen, ...this.#rates].sort((a, b) => a[0] - b[0]);
  }
}
