/** Names, values and durations of alarms in words. */

import { UNKNOWN, alertName, measure, parseTime, short, shortMoment, span, value } from "./format.js";
import { now } from "./server.js";

export const SENSOR_SILENT = "SENSOR_SILENT";

export const isSilent = (alarm) => alarm.rule === SENSOR_SILENT;

/** "High temperature" for HIGH_TEMPERATURE. */
export function ruleName(alarm) {
  if (isSilent(alarm)) return "Sensor silent";
  const { side, words } = alertName(alarm.rule);
  const text = side ? `${side === "HIGH" ? "High" : "Low"} ${words}` : words;
  return text[0] ? text[0].toUpperCase() + text.slice(1) : UNKNOWN;
}

/** How long an alarm has lasted, up to its end or until now. */
export function duration(alarm) {
  const started = parseTime(alarm.started);
  const ended = alarm.state === "resolved" ? parseTime(alarm.resolved) : now();
  return started === null || ended === null ? UNKNOWN : span(ended - started);
}

/** When an alarm began, or ended. */
export function when(alarm) {
  const at = alarm.state === "resolved" ? alarm.resolved : alarm.started;
  const word = alarm.state === "resolved" ? "ended" : isSilent(alarm) ? "heard" : "since";
  return `${word} ${shortMoment(parseTime(at), now())}`;
}

/** The value farthest beyond the bound, and the bound with the newest value. */
export function values(alarm) {
  if (isSilent(alarm)) {
    return [alarm.state === "resolved" ? "was silent" : "no readings", `limit ${span(alarm.threshold * 1_000)}`];
  }
  const side = alarm.rule.startsWith("LOW_") ? "below" : "above";
  const peak = alarm.state === "pending" ? measure(alarm.peak, alarm.unit) : `peak ${measure(alarm.peak, alarm.unit)}`;
  const newest = alarm.state === "resolved" ? "" : `, now ${value(alarm.value)}`;
  return [peak, `${side} ${short(alarm.threshold)}${newest}`];
}

/** Who takes care of an alarm, whether it is silenced, or that it has not fired yet. */
export function status(alarm, silences) {
  const parts = [];
  if (alarm.acknowledged) {
    const { by, comment } = alarm.acknowledged;
    parts.push({ icon: "good", text: `Acknowledged${by ? ` by ${by}` : ""}${comment ? `: ${comment}` : ""}` });
  }
  if (alarm.silenced_by?.length && alarm.state !== "resolved") {
    const ends = silences
      .filter((silence) => alarm.silenced_by.includes(silence.id))
      .map((silence) => parseTime(silence.endsAt))
      .filter((end) => end !== null);
    const until = ends.length ? ` until ${shortMoment(Math.max(...ends), now())}` : "";
    parts.push({ icon: "silenced", text: `Silenced${until}` });
  }
  if (alarm.state === "pending") parts.push({ icon: "stale", text: "Pending: not over its waiting time yet" });
  return parts;
}
