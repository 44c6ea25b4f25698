/** The known readings of sensors that have an alarm, for sparklines. Nothing is drawn between readings that are far apart. */

import { isSilent } from "./alarm-texts.js";
import { measure, parseTime } from "./format.js";
import { getJson } from "./server.js";

const KEPT = 60;
const TIMEOUT_MS = 8_000;
const READ_AT_ONCE = 2;
// A row that is only scrolled past needs no readings.
const SETTLED_MS = 300;
/** Maximum distance of two readings that are connected by a line. */
const CONNECTED_MS = 20_000;
/** How long before an alarm a sparkline begins at most: an earlier alarm of the sensor is not part of it. */
const LEAD_MS = 60_000;
const WIDTH = 132;
const HEIGHT = 34;
const EDGE = 3;
const SVG = "http://www.w3.org/2000/svg";

const keyOf = ({ sensor_id, sensor_type }) => JSON.stringify([sensor_id, sensor_type]);

export class Readings {
  /** By sensor and type, [time in ms, value] in the order of time. */
  #known = new Map();
  #asked = new Set();
  #wanted = new Map();
  #reading = 0;

  /** Takes an alert: a reading beyond a bound. */
  addAlert(alert) {
    this.#add(alert);
  }

  /** Takes the latest readings in an answer of /api/metrics. */
  addLatest(latest) {
    for (const reading of latest) this.#add(reading);
  }

  /** Forgets all sensors but those of these alarms. */
  keepOnly(alarms) {
    const all = [...alarms];
    const wanted = new Set(all.map(keyOf));
    const ids = new Set(all.map((alarm) => alarm.alarm_id));
    for (const key of this.#known.keys()) if (!wanted.has(key)) this.#known.delete(key);
    for (const key of wanted) if (!this.#known.has(key)) this.#known.set(key, []);
    for (const id of this.#asked) if (!ids.has(id)) this.#asked.delete(id);
  }

  /** The readings of the sensor of an alarm. */
  of(alarm) {
    return this.#known.get(keyOf(alarm)) ?? [];
  }

  /** Reads the alerts behind an alarm that is shown, once, and calls `then` after that. */
  need(alarm, then) {
    if (isSilent(alarm) || alarm.state === "resolved" || this.#asked.has(alarm.alarm_id)) return;
    if (!this.#wanted.has(alarm.alarm_id)) this.#wanted.set(alarm.alarm_id, [alarm, performance.now(), then]);
    setTimeout(() => this.#readNext(), SETTLED_MS);
  }

  /** Forgets what is not read yet about other alarms than these. */
  onlyNeeded(ids) {
    for (const id of this.#wanted.keys()) if (!ids.has(id)) this.#wanted.delete(id);
  }

  async #readNext() {
    if (this.#reading >= READ_AT_ONCE) return;
    const [id, found] = [...this.#wanted].find(([, [, at]]) => performance.now() - at >= SETTLED_MS - 1) ?? [];
    if (!id) return;
    const [alarm, , then] = found;
    this.#wanted.delete(id);
    this.#asked.add(id);
    this.#reading += 1;
    try {
      const { sensor_id, sensor_type, started } = alarm;
      const parameters = new URLSearchParams({ sensor_id, sensor_type, since: started, limit: KEPT });
      const answer = await getJson(`api/alerts?${parameters}`, TIMEOUT_MS);
      if (!this.#known.has(keyOf(alarm))) this.#known.set(keyOf(alarm), []);
      for (const alert of answer.alerts ?? []) this.#add(alert);
      then();
    } catch {
      // Without them, the line begins with the next reading.
    }
    this.#reading -= 1;
    this.#readNext();
  }

  #add(reading) {
    const known = this.#known.get(keyOf(reading));
    const time = parseTime(reading.timestamp);
    if (!known || time === null || !Number.isFinite(reading.value)) return;
    let at = known.length;
    while (at > 0 && known[at - 1][0] > time) at -= 1;
    if (at > 0 && known[at - 1][0] === time) return;
    known.splice(at, 0, [time, reading.value]);
    if (known.length > KEPT) known.shift();
  }
}

/** An empty sparkline. */
export function makeSparkline() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("class", "spark");
  svg.setAttribute("role", "img");
  for (const name of ["bound", "line", "newest"]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", `spark-${name}`);
    svg.append(path);
  }
  return svg;
}

/** Draws the known readings behind an alarm, and the bound. With fewer than two readings there is nothing to see. */
export function drawSparkline(svg, alarm, known) {
  const [bound, line, newest] = svg.children;
  const began = parseTime(alarm.started) - LEAD_MS;
  const readings = known.filter(([time]) => time >= began);
  const enough = readings.length > 1;
  svg.toggleAttribute("data-empty", !enough);
  if (!enough) {
    for (const path of svg.children) path.setAttribute("d", "");
    svg.setAttribute("aria-label", "");
    svg.setAttribute("aria-hidden", "true");
    return;
  }
  const numbers = readings.map(([, value]) => value);
  const [low, high] = [Math.min(...numbers, alarm.threshold), Math.max(...numbers, alarm.threshold)];
  const [first, last] = [readings[0][0], readings.at(-1)[0]];
  const x = (time) => (EDGE + ((time - first) / (last - first || 1)) * (WIDTH - 2 * EDGE)).toFixed(1);
  const y = (value) => (HEIGHT - EDGE - ((value - low) / (high - low || 1)) * (HEIGHT - 2 * EDGE)).toFixed(1);
  let path = "";
  readings.forEach(([time, value], at) => {
    const connected = at > 0 && time - readings[at - 1][0] <= CONNECTED_MS;
    // A reading on its own is a dot: a line without length, with round ends.
    path += connected ? `L${x(time)} ${y(value)}` : `M${x(time)} ${y(value)}h0`;
  });
  bound.setAttribute("d", `M0 ${y(alarm.threshold)}H${WIDTH}`);
  line.setAttribute("d", path);
  newest.setAttribute("d", `M${x(last)} ${y(numbers.at(-1))}h0`);
  svg.removeAttribute("aria-hidden");
  const range = `${measure(Math.min(...numbers), alarm.unit)} to ${measure(Math.max(...numbers), alarm.unit)}`;
  svg.setAttribute("aria-label", `The last ${readings.length} known readings: ${range}`);
}
