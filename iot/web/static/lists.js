/** Cards, alert list and tables. Rows are changed in place, so that focus, selection and scroll position stay. */

import { element, make, setIcon, setText } from "./dom.js";
import { UNKNOWN, alertName, measure, moment, parseTime, rate, short, unit, value, whole } from "./format.js";
import { byImportance, colorName } from "./plotting.js";
import { now } from "./server.js";

const MAX_ALERTS = 100;
/** Maximum number of rows marked as new at once: more would only flicker. */
const MAX_MARKED = 5;
const MAX_REASONS = 4;
const MAX_PARTITIONS = 12;
const HEALTH_ICONS = { Good: "good", Warning: "warning", Critical: "failed" };

const BY_NAME = new Intl.Collator(undefined, { numeric: true });

/** Sets the items of a list to these texts. */
function setItems(list, texts) {
  while (list.children.length > texts.length) list.lastElementChild.remove();
  texts.forEach((text, index) => setText(list.children[index] ?? list.appendChild(make("li")), text));
}

function someOf(texts, limit) {
  return texts.length > limit ? [...texts.slice(0, limit), `and ${whole(texts.length - limit)} more`] : texts;
}

/** Shows the cards, from an answer of /api/metrics. */
export function showCards(metrics) {
  setText(element("messages"), whole(metrics.total_messages));
  setText(
    element("messages-detail"),
    `${whole(metrics.rejected_messages)} rejected, ${whole(metrics.late_messages)} late`,
  );
  setText(element("rate"), rate(metrics.messages_per_second));
  setText(element("active-alerts"), whole(metrics.active_alerts));
  element("active-alerts-icon").toggleAttribute("hidden", !(metrics.active_alerts > 0));
  setText(element("alerts-detail"), `${whole(metrics.total_alerts)} alerts in all`);
  setText(element("active-sensors"), whole(metrics.active_sensors));
  setText(element("lag"), whole(metrics.lag?.total));
  const partitions = Object.entries(metrics.lag?.partitions ?? {}).map(
    ([partition, lag]) => `p${partition} ${whole(lag)}`,
  );
  setItems(
    element("lag-partitions"),
    partitions.length ? someOf(partitions, MAX_PARTITIONS) : ["per partition: unknown"],
  );
  const health = metrics.system_health;
  setText(element("health"), health || UNKNOWN);
  element("health").closest(".card").dataset.health = health ?? "";
  const isKnown = Object.hasOwn(HEALTH_ICONS, health);
  element("health-icon").toggleAttribute("hidden", !isKnown);
  if (isKnown) setIcon(element("health-icon"), HEALTH_ICONS[health]);
  const reasons = metrics.health_reasons ?? [];
  const otherwise = health
    ? health === "Good"
      ? "all queries run, no alert is active"
      : "no reason given"
    : "not known yet";
  setItems(element("health-reasons"), reasons.length ? someOf(reasons, MAX_REASONS) : [otherwise]);
}

/** A topic that was deleted and created again repeats its ids. */
const keyOf = (alert) => `${alert.alert_id} ${alert.timestamp}`;

/** The newest alerts by time of measurement, each once. */
export class AlertList {
  #list = element("alert-list");
  #alerts = new Map();
  #rows = new Map();
  #matches = () => true;
  #total = null;
  #loaded = false;

  /** Shows only alerts that match, and forgets the others. */
  setFilter(matches) {
    this.#matches = matches;
    this.#alerts.clear();
    this.#loaded = false;
  }

  add(alerts) {
    for (const alert of alerts) if (this.#matches(alert)) this.#alerts.set(keyOf(alert), alert);
    if (this.#alerts.size > MAX_ALERTS * 4) this.#trim();
  }

  /** Takes over the server's newest alerts, at most `limit`. Others within the time that they span are removed. */
  read(alerts, limit) {
    const newest = alerts[0]?.timestamp;
    const oldest = alerts.length < limit ? "" : alerts.at(-1).timestamp;
    for (const [key, { timestamp }] of this.#alerts) {
      if (newest === undefined || (timestamp >= oldest && timestamp <= newest)) this.#alerts.delete(key);
    }
    this.#loaded = true;
    this.add(alerts);
  }

  set total(count) {
    this.#total = count ?? null;
  }

  #trim() {
    const newestFirst = [...this.#alerts].sort(([, a], [, b]) => (a.timestamp < b.timestamp ? 1 : -1));
    this.#alerts = new Map(newestFirst.slice(0, MAX_ALERTS));
  }

  render() {
    this.#trim();
    let at = this.#list.firstElementChild;
    const fresh = [];
    for (const [key, alert] of this.#alerts) {
      let row = this.#rows.get(key);
      if (!row) {
        row = makeAlertRow(alert);
        this.#rows.set(key, row);
        fresh.push(row);
      }
      if (row === at) at = at.nextElementSibling;
      else this.#list.insertBefore(row, at);
    }
    for (const [key, row] of this.#rows) {
      if (this.#alerts.has(key)) continue;
      row.remove();
      this.#rows.delete(key);
    }
    if (fresh.length <= MAX_MARKED) for (const row of fresh) row.classList.add("fresh");
    const count = this.#alerts.size;
    // Alerts are pushed before they are counted.
    const hint =
      count < this.#total ? `newest ${whole(count)}, ${whole(this.#total)} in all` : `${whole(count)} in all`;
    setText(element("alerts-hint"), count ? hint : "");
    setText(element("alerts-empty"), count ? "" : this.#loaded ? "No alerts." : "Not loaded yet.");
    this.#list.hidden = !count;
  }
}

function makeAlertRow(alert) {
  const { side, words } = alertName(alert.type);
  const row = make("li", "alert");
  row.dataset.testid = "alert-row";
  row.dataset.alertId = alert.alert_id;
  row.dataset.side = side;
  const name = make("span", "alert-type", `${side ? `${side === "HIGH" ? "High" : "Low"} ` : ""}${words}`);
  const reading = make("span", "alert-value", measure(alert.value, alert.unit));
  const bound = make("span", "alert-bound", boundOf(alert));
  const sensor = make("span", "alert-sensor", alert.sensor_id);
  const place = make("span", "alert-place", alert.location ?? "");
  const time = make("time", "", moment(parseTime(alert.timestamp), now()));
  time.dateTime = alert.timestamp;
  const where = make("span", "alert-where");
  where.append(sensor, place);
  const why = make("span", "alert-why");
  why.append(bound, time);
  row.append(make("span", "alert-mark"), name, reading, where, why);
  return row;
}

function boundOf({ value: measured, threshold }) {
  if (!Number.isFinite(threshold)) return "";
  return `${measured > threshold ? "above" : "below"} ${short(threshold)}`;
}

/** Sets the rows of a table's body. `rows` are lists of texts, `columns` the classes of the columns. */
function setRows(body, rows, columns) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, index) => {
    let row = body.rows[index];
    if (!row) {
      row = body.insertRow();
      columns.forEach((className, column) => {
        const cell = make(column ? "td" : "th", className);
        if (!column) cell.scope = "row";
        row.append(cell);
      });
    }
    cells.forEach((text, column) => setText(row.cells[column], text));
  });
}

/** Shows the statistics table, one row for each sensor type. */
export function showStats(metrics, { sensorType }) {
  const stats = metrics.sensor_stats ?? [];
  const shown = byImportance(stats.filter((row) => !sensorType || row.sensor_type === sensorType));
  const cells = shown.map((row) => [
    row.sensor_type ?? "",
    unit(row.unit) || UNKNOWN,
    whole(row.count),
    value(row.avg_value),
    value(row.min_value),
    value(row.max_value),
  ]);
  const body = element("stats-rows");
  setRows(body, cells, ["swatched", "", "number", "number", "number", "number"]);
  shown.forEach((row, index) => {
    const [name] = body.rows[index].cells;
    name.style.setProperty("--swatch", `var(${colorName(row.sensor_type)})`);
    name.dataset.unit = unit(row.unit);
  });
  setText(
    element("stats-empty"),
    shown.length ? "" : metrics.sensor_stats ? "No readings yet." : "The statistics are not known.",
  );
  body.closest("table").hidden = !shown.length;
}

/** Shows the table of the latest readings while it is open. */
export function showLatest(metrics, { sensorType, location }) {
  if (!element("latest-details").open) return;
  const fits = (row) => (!sensorType || row.sensor_type === sensorType) && (!location || row.location === location);
  const cells = (metrics.latest ?? [])
    .filter(fits)
    .map((row) => [
      row.sensor_id ?? "",
      row.sensor_type ?? "",
      row.location ?? UNKNOWN,
      value(row.value),
      unit(row.unit) || UNKNOWN,
      moment(parseTime(row.timestamp), now()),
      row.alert ? "breaks a rule" : "",
    ])
    .sort((a, b) => BY_NAME.compare(a[0], b[0]));
  setRows(element("latest-rows"), cells, ["", "", "", "number", "", "", ""]);
}

const optionsOf = new WeakMap();

/** Sets the options of a filter, after "all". The chosen one stays, even if it is not among the values. */
export function setOptions(select, values) {
  const chosen = select.value;
  const wanted = chosen && !values.includes(chosen) ? [...values, chosen] : values;
  const known = optionsOf.get(select) ?? [];
  if (known.length === wanted.length && wanted.every((text, index) => text === known[index])) return;
  optionsOf.set(select, wanted);
  select.replaceChildren(select.options[0], ...wanted.map((text) => new Option(text, text)));
  select.value = chosen;
}
