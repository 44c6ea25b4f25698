/** The alarms: active ones, which come first on the page, and those that are over. */

import { AlarmDialogs } from "./alarm-dialogs.js";
import { AlarmRows } from "./alarm-rows.js";
import { ruleName } from "./alarm-texts.js";
import { element, make, setText } from "./dom.js";
import { whole } from "./format.js";
import { Readings } from "./readings.js";
import { getJson } from "./server.js";

const SEVERITIES = ["critical", "warning", "info"];
const ACTIVE = ["firing", "pending"];
/** Maximum number of alarms that are read at once, and of active ones that are kept. */
const READ = 1_000;
const HISTORY_READ = 50;
const ANNOUNCED = 3;

const firedOf = (alarm) => alarm.fired ?? alarm.started;

/** Whether somebody takes care of an alarm, or wants to hear nothing of it. */
const isSettled = (alarm) => Boolean(alarm.acknowledged) || alarm.silenced_by?.length > 0;

/** What needs attention first: firing before pending, then what is not settled, by severity, the newest. */
function byUrgency(a, b) {
  return (
    ACTIVE.indexOf(a.state) - ACTIVE.indexOf(b.state) ||
    isSettled(a) - isSettled(b) ||
    SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity) ||
    (firedOf(a) < firedOf(b) ? 1 : firedOf(a) > firedOf(b) ? -1 : 0)
  );
}

/**
 * Shows the alarms. Changes arrive one by one (`take`), and all are read every few seconds (`read`), because the values
 * of an alarm change without an event.
 */
export class Alarms {
  readings = new Readings();
  #on;
  #timeout_ms;
  #active = new Map();
  #total = null;
  #history = [];
  #next = null;
  #historyLoaded = false;
  #historyTotal = null;
  #showsHistory = false;
  #severities = new Set(SEVERITIES);
  #counts = [];
  #silences = [];
  #silencesChanged = false;
  #readingSilences = false;
  /** Changes that arrive while an answer is on its way, which may be older than they. */
  #meanwhile = null;
  /** Alarms that began to fire since the last rendering. */
  #fresh = [];
  #paused = false;
  #rows;
  #dialogs;

  /**
   * @param {object} on changed(): something is to be rendered; readings(alarm): show the readings behind an alarm.
   */
  constructor(on, timeout_ms) {
    this.#on = on;
    this.#timeout_ms = timeout_ms;
    this.#dialogs = new AlarmDialogs({
      changed: (alarm) => this.#takeOwn(alarm),
      silences: () => this.#readSilences(),
    });
    this.#rows = new AlarmRows({
      acknowledge: (alarm) => this.#dialogs.acknowledge(alarm),
      silence: (alarm) => this.#dialogs.silence(alarm),
      readings: (alarm) => on.readings(alarm),
      shown: (alarm) => this.readings.need(alarm, () => on.changed()),
    });
    this.#wire();
  }

  /** Takes a changed alarm. */
  take(alarm) {
    this.#meanwhile?.push(alarm);
    if (this.#paused) return;
    const known = this.#active.get(alarm.alarm_id);
    this.#put(alarm);
    if (alarm.state === "firing" && known?.state !== "firing" && !alarm.acknowledged) this.#fresh.push(alarm);
    if (String(alarm.silenced_by) !== String(known?.silenced_by ?? "")) this.#readSilences();
  }

  /** Takes the counts of an answer of /api/metrics. */
  set metrics(metrics) {
    this.#counts = metrics.active_alarms ?? [];
    this.readings.addLatest(metrics.latest ?? []);
  }

  /** How many alarms fire. */
  get firing() {
    return this.#counts.filter((one) => one.state === "firing").reduce((sum, one) => sum + one.count, 0);
  }

  /** A paused list does not change, but for what its user does. */
  pause(paused) {
    this.#paused = paused;
    if (!paused) this.read();
  }

  /** Reads all active alarms, and the history if it is shown. */
  async read() {
    if (this.#paused || this.#meanwhile) return;
    this.#meanwhile = [];
    try {
      const parameters = new URLSearchParams({ limit: READ });
      // Of very many alarms, not all are read, but all of one severity may be.
      if (this.#severities.size === 1) parameters.set("severity", [...this.#severities][0]);
      const answer = await getJson(`api/alarms?${parameters}`, this.#timeout_ms);
      if (this.#paused) return;
      this.#active = new Map((answer.alarms ?? []).map((alarm) => [alarm.alarm_id, alarm]));
      this.#total = answer.total ?? null;
      for (const alarm of this.#meanwhile) this.#put(alarm);
      this.readings.keepOnly(this.#active.values());
      this.#on.changed();
      if (this.#showsHistory) await this.#readHistory(false);
      if (this.#silences.length || [...this.#active.values()].some((alarm) => alarm.silenced_by?.length)) {
        await this.#readSilences();
      }
    } catch {
      // The figures are read at the same time, and their failure is shown.
    } finally {
      this.#meanwhile = null;
    }
  }

  render() {
    this.#announce();
    const active = [...this.#active.values()];
    const shown = (this.#showsHistory ? this.#history : active).filter((alarm) => this.#severities.has(alarm.severity));
    if (!this.#showsHistory) shown.sort(byUrgency);
    this.#rows.show(shown, this.readings, this.#silences, this.#showsHistory ? "Resolved alarms" : "Active alarms");
    const count = this.#showHead(active);
    this.#showEmpty(shown.length, count);
    const more = element("alarms-more");
    more.hidden = !this.#showsHistory || !this.#next;
  }

  /** Moves durations on. */
  tick() {
    this.#rows.tick();
  }

  #put(alarm) {
    if (ACTIVE.includes(alarm.state)) {
      if (this.#active.has(alarm.alarm_id) || this.#active.size < READ) this.#active.set(alarm.alarm_id, alarm);
    } else {
      this.#active.delete(alarm.alarm_id);
      if (this.#historyLoaded) {
        this.#history = [alarm, ...this.#history.filter((one) => one.alarm_id !== alarm.alarm_id)];
      }
    }
    this.#on.changed();
  }

  /** Takes an alarm that this page has changed, also while it is paused. */
  #takeOwn(alarm) {
    this.#meanwhile?.push(alarm);
    this.#put(alarm);
  }

  /** Tells screen readers of new alarms; of many at once, of the first few and how many more there are. */
  #announce() {
    if (!this.#fresh.length) return;
    const texts = this.#fresh
      .slice(0, ANNOUNCED)
      .map((alarm) => `New ${alarm.severity} alarm: ${ruleName(alarm)}, ${alarm.sensor_id}.`);
    if (this.#fresh.length > ANNOUNCED) texts.push(`And ${whole(this.#fresh.length - ANNOUNCED)} more.`);
    this.#fresh = [];
    element("alarm-announcer").replaceChildren(...texts.map((text) => make("p", "", text)));
  }

  /** Shows the counts, and returns the number of active alarms of all severities. */
  #showHead(active) {
    const counts = new Map(SEVERITIES.map((severity) => [severity, 0]));
    const listed = this.#counts.length || !active.length ? this.#counts : active.map((one) => ({ ...one, count: 1 }));
    for (const { severity, count } of listed) counts.set(severity, (counts.get(severity) ?? 0) + count);
    for (const severity of SEVERITIES) {
      const button = element(`severity-${severity}`);
      // How many are over is not counted by severity.
      setText(button.querySelector(".count"), this.#showsHistory ? "" : whole(counts.get(severity)));
      button.setAttribute("aria-pressed", String(this.#severities.has(severity)));
      button.toggleAttribute("data-none", !this.#showsHistory && !counts.get(severity));
    }
    const firing = listed.filter((one) => one.state === "firing").reduce((sum, one) => sum + one.count, 0);
    const pending = listed.filter((one) => one.state === "pending").reduce((sum, one) => sum + one.count, 0);
    const acknowledged = active.filter((alarm) => alarm.acknowledged).length;
    const parts = [`${whole(firing)} firing`];
    if (pending) parts.push(`${whole(pending)} pending`);
    if (acknowledged) parts.push(`${whole(acknowledged)} acknowledged`);
    if (this.#total > READ) parts.push(`the newest ${whole(READ)} are listed`);
    setText(element("alarms-hint"), this.#showsHistory ? this.#historyHint() : firing + pending ? parts.join(", ") : "");
    // With nothing to choose from, the buttons would only be in the way.
    element("severities").hidden = !(firing + pending) && !this.#showsHistory;
    const lasting = this.#silences.filter((silence) => silence.status.state !== "expired").length;
    element("silences-open").hidden = !lasting;
    setText(element("silences-count"), whole(lasting));
    return firing + pending;
  }

  #historyHint() {
    if (!this.#historyLoaded || !this.#history.length) return "";
    const count = this.#history.length;
    return count < this.#historyTotal ? `newest ${whole(count)} of ${whole(this.#historyTotal)}` : `${whole(count)} in all`;
  }

  #showEmpty(shown, active) {
    let text = "";
    if (this.#showsHistory && !shown) text = this.#historyLoaded ? "No resolved alarms." : "Not loaded yet.";
    if (!this.#showsHistory && !shown) {
      if (this.#total === null) text = "Not loaded yet.";
      else if (active) text = "No alarm of the chosen severities.";
      else text = "No active alarms.";
    }
    setText(element("alarms-empty-text"), text);
    element("alarms-empty").hidden = !text;
    element("alarms-empty-icon").toggleAttribute("hidden", text !== "No active alarms.");
  }

  async #readHistory(more) {
    const parameters = new URLSearchParams({ state: "resolved", limit: HISTORY_READ });
    // The API takes one severity; of two, the list leaves out the third.
    if (this.#severities.size === 1) parameters.set("severity", [...this.#severities][0]);
    if (more) parameters.set("after", this.#next);
    const answer = await getJson(`api/alarms?${parameters}`, this.#timeout_ms);
    if (this.#paused && this.#historyLoaded && !more) return;
    const read = answer.alarms ?? [];
    const ids = new Set(read.map((alarm) => alarm.alarm_id));
    const others = this.#history.filter((alarm) => !ids.has(alarm.alarm_id));
    // Reading the first page again leaves older pages as they are.
    this.#history = more ? [...others, ...read] : [...read, ...(this.#historyLoaded ? others : [])];
    if (more || !this.#historyLoaded) this.#next = answer.next ?? null;
    this.#historyLoaded = true;
    this.#historyTotal = answer.total ?? null;
    this.#on.changed();
  }

  /** Reads all silences; one that begins may change many alarms, so that this is asked for many times at once. */
  async #readSilences() {
    this.#silencesChanged = true;
    if (this.#readingSilences) return;
    this.#readingSilences = true;
    try {
      while (this.#silencesChanged) {
        this.#silencesChanged = false;
        this.#silences = await getJson("api/silences", this.#timeout_ms);
        this.#dialogs.silences = this.#silences;
        this.#on.changed();
      }
    } catch {
      // They are read again with the alarms.
    }
    this.#readingSilences = false;
  }

  #wire() {
    for (const severity of SEVERITIES) {
      element(`severity-${severity}`).addEventListener("click", () => {
        if (this.#severities.has(severity)) this.#severities.delete(severity);
        else this.#severities.add(severity);
        this.#historyLoaded = false;
        this.#history = [];
        if (this.#showsHistory) this.#readHistory(false).catch(() => {});
        this.read();
        this.#on.changed();
      });
    }
    element("alarms-which").addEventListener("change", ({ target }) => {
      this.#showsHistory = target.value === "resolved";
      if (this.#showsHistory && !this.#historyLoaded) this.#readHistory(false).catch(() => {});
      this.#on.changed();
    });
    element("alarms-more").addEventListener("click", () => this.#readHistory(true).catch(() => {}));
    element("silences-open").addEventListener("click", () => this.#dialogs.list());
    this.read();
    this.#readSilences();
  }
}
