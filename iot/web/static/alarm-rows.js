/** The list of alarms: only the rows in sight are in the page, and they are changed in place. */

import { duration, isSilent, ruleName, status, values, when } from "./alarm-texts.js";
import { element, make, setIcon, setText } from "./dom.js";
import { drawSparkline, makeSparkline } from "./readings.js";

/** How many rows are kept beyond each edge. */
const SPARE = 3;
const ICONS = { critical: "failed", warning: "warning", info: "info" };

export class AlarmRows {
  #on;
  #box = element("alarm-box");
  #list = element("alarm-list");
  #alarms = [];
  #places = new Map();
  #rows = new Map();
  #context = { readings: null, silences: [] };
  #frame = 0;

  /** @param {object} on acknowledge(alarm), silence(alarm), readings(alarm), and shown(alarm): a row came in sight. */
  constructor(on) {
    this.#on = on;
    this.#box.addEventListener("scroll", () => this.#renderSoon(), { passive: true });
    new ResizeObserver(() => this.#renderSoon()).observe(this.#box);
    this.#list.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-action]");
      const row = button && this.#rows.get(button.closest("li").dataset.alarmId);
      if (row) this.#on[button.dataset.action](row.alarm);
    });
    this.#list.addEventListener("keydown", (event) => this.#moveFocus(event));
  }

  /** Shows these alarms, in this order. */
  show(alarms, readings, silences, label) {
    this.#alarms = alarms;
    this.#places = new Map(alarms.map((alarm, place) => [alarm.alarm_id, place]));
    this.#context = { readings, silences };
    this.#list.setAttribute("aria-label", label);
    this.#box.hidden = !alarms.length;
    this.#render();
  }

  /** Moves durations on. */
  tick() {
    for (const row of this.#rows.values()) row.tick();
  }

  #renderSoon() {
    this.#frame ||= requestAnimationFrame(() => this.#render());
  }

  #render() {
    this.#frame = 0;
    const height = parseFloat(getComputedStyle(this.#list).getPropertyValue("--row-height"));
    this.#list.style.height = `${this.#alarms.length * height}px`;
    const first = Math.max(0, Math.floor(this.#box.scrollTop / height) - SPARE);
    const last = Math.ceil((this.#box.scrollTop + this.#box.clientHeight) / height) + SPARE;
    const places = new Set();
    for (let place = first; place < Math.min(last, this.#alarms.length); place += 1) places.add(place);
    // The row with the focus stays, wherever it is.
    const focused = document.activeElement?.closest("#alarm-list li");
    const kept = focused && this.#places.get(focused.dataset.alarmId);
    if (kept !== undefined && kept !== null) places.add(kept);
    const wanted = new Set([...places].map((place) => this.#alarms[place].alarm_id));
    if (focused && !wanted.has(focused.dataset.alarmId)) this.#box.focus({ preventScroll: true });
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      row.item.remove();
      this.#rows.delete(id);
    }
    this.#context.readings?.onlyNeeded(wanted);
    let at = this.#list.firstElementChild;
    for (const place of [...places].sort((a, b) => a - b)) {
      const alarm = this.#alarms[place];
      let row = this.#rows.get(alarm.alarm_id);
      if (!row) {
        row = new AlarmRow();
        this.#rows.set(alarm.alarm_id, row);
        this.#on.shown(alarm);
      }
      row.show(alarm, this.#context, place, this.#alarms.length);
      if (row.item === at) at = at.nextElementSibling;
      else this.#list.insertBefore(row.item, at);
    }
  }

  /** Arrow keys move between the same buttons of the rows. */
  #moveFocus(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const item = event.target.closest("li");
    if (!step || !item || event.altKey || event.ctrlKey || event.metaKey) return;
    const place = this.#places.get(item.dataset.alarmId) + step;
    const alarm = this.#alarms[place];
    if (!alarm) return;
    event.preventDefault();
    if (!this.#rows.has(alarm.alarm_id)) {
      // The keys may be faster than the scrolling.
      this.#box.scrollTop = place * item.offsetHeight - this.#box.clientHeight / 2;
      this.#render();
    }
    const next = this.#rows.get(alarm.alarm_id);
    if (!next) return;
    const action = event.target.dataset.action;
    const target = next.item.querySelector(`[data-action="${action}"]:not([hidden])`);
    (target ?? next.item.querySelector("[data-action]:not([hidden])"))?.focus();
  }
}

class AlarmRow {
  item = make("li", "alarm");
  alarm = null;
  #icon = icon();
  #severity = make("span", "alarm-severity-word");
  #name = make("span", "alarm-name");
  #sensor = make("span", "alarm-sensor");
  #place = make("span", "alarm-place");
  #spark = makeSparkline();
  #peak = make("strong", "alarm-peak");
  #bound = make("span", "alarm-bounds");
  #duration = make("strong", "alarm-duration");
  #when = make("span", "alarm-when");
  #status = make("div", "alarm-status");
  #acknowledge = action("acknowledge");
  #silence = action("silence");
  #readings = action("readings");

  constructor() {
    this.item.dataset.testid = "alarm-row";
    const severity = make("span", "alarm-severity");
    severity.append(this.#icon, this.#severity);
    const what = make("div", "alarm-what");
    const where = make("span", "alarm-from");
    where.append(this.#sensor, this.#place);
    what.append(this.#name, where);
    const value = make("div", "alarm-values");
    value.append(this.#peak, this.#bound);
    const time = make("div", "alarm-time");
    time.append(this.#duration, this.#when);
    const actions = make("div", "alarm-actions");
    actions.append(this.#acknowledge, this.#silence, this.#readings);
    const graph = make("div", "alarm-graph");
    graph.append(this.#spark);
    this.item.append(severity, what, graph, value, time, this.#status, actions);
  }

  show(alarm, { readings, silences }, place, count) {
    this.alarm = alarm;
    const { item } = this;
    item.style.setProperty("--place", place);
    item.ariaPosInSet = String(place + 1);
    item.ariaSetSize = String(count);
    Object.assign(item.dataset, { alarmId: alarm.alarm_id, severity: alarm.severity, state: alarm.state });
    item.toggleAttribute("data-acknowledged", Boolean(alarm.acknowledged));
    setIcon(this.#icon, ICONS[alarm.severity] ?? "info");
    setText(this.#severity, alarm.severity);
    setText(this.#name, ruleName(alarm));
    setText(this.#sensor, alarm.sensor_id);
    setText(this.#place, alarm.location ?? "");
    this.#name.parentElement.title = `${alarm.sensor_id}${alarm.location ? `, ${alarm.location}` : ""}`;
    const [peak, bound] = values(alarm);
    setText(this.#peak, peak);
    setText(this.#bound, bound);
    drawSparkline(this.#spark, alarm, isSilent(alarm) ? [] : (readings?.of(alarm) ?? []));
    showStatus(this.#status, status(alarm, silences));
    const over = alarm.state === "resolved";
    const of = `${ruleName(alarm)} of ${alarm.sensor_id}`;
    setAction(this.#acknowledge, alarm.acknowledged ? "Take back" : "Acknowledge", over, of);
    setAction(this.#silence, "Silence", over, of);
    setAction(this.#readings, "Readings", isSilent(alarm), of);
    this.tick();
  }

  tick() {
    setText(this.#duration, duration(this.alarm));
    setText(this.#when, when(this.alarm));
  }
}

function icon() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  return svg;
}

function action(name) {
  const button = make("button");
  button.type = "button";
  button.dataset.action = name;
  button.dataset.testid = `alarm-${name}`;
  return button;
}

function setAction(button, text, hidden, of) {
  setText(button, text);
  button.hidden = hidden;
  const label = `${text}: ${of}`;
  if (button.ariaLabel !== label) button.ariaLabel = label;
}

function showStatus(box, parts) {
  while (box.children.length > parts.length) box.lastElementChild.remove();
  parts.forEach(({ icon: name, text }, at) => {
    let line = box.children[at];
    if (!line) {
      line = make("span", "alarm-note");
      line.append(icon(), make("span"));
      box.append(line);
    }
    line.dataset.kind = name;
    setIcon(line.firstElementChild, name);
    setText(line.lastElementChild, text);
    line.title = text;
  });
}
