/**
 * Reads, merges and thins /api/windows outside the page's thread: 24 h of windows are some 40,000 rows.
 *
 * A question is {id, url, minutes, location, sensorTypes, until_ms}: `url` of /api/windows; `sensorTypes` null for all
 * in one request, else one request for each; `until_ms` null for now. An answer is {id, series, step_s}, or
 * {id, error, status} with status 0 if no answer came. A series is {sensor_type, unit, points}; points are oldest
 * first, each [end_ms, average, minimum, maximum, count].
 */

import { getJson } from "./server.js";

const WINDOW_MS = 30_000;
const SLIDE_S = 10;
const HOUR_MINUTES = 60;
const TIMEOUT_MS = 30_000;
// How far back windows are read again, because late readings change them; and how often all are, because of backlogs.
const REREAD_MS = 120_000;
const WHOLE_EVERY_MS = 120_000;

/** The windows of the last question, by series and then by end (ms); kept while the question stays the same. */
let known = { scope: "", readAt_ms: 0, series: new Map() };

/** Seconds between the points of a range: all windows up to an hour, then some 300 points. */
function stepOf(minutes) {
  if (minutes <= HOUR_MINUTES) return SLIDE_S;
  return minutes <= 6 * HOUR_MINUTES ? 60 : 300;
}

async function read(url, parameters) {
  const answer = await getJson(`${url}?${new URLSearchParams(parameters)}`, TIMEOUT_MS);
  return answer.windows ?? [];
}

function merge(series, rows) {
  for (const row of rows) {
    const key = JSON.stringify([row.sensor_type, row.unit]);
    if (!series.has(key)) series.set(key, { sensor_type: row.sensor_type, unit: row.unit, byEnd: new Map() });
    const end_ms = Date.parse(row.end);
    series.get(key).byEnd.set(end_ms, [end_ms, row.avg, row.min, row.max, row.count]);
  }
}

/** Merges windows into points `step_ms` apart; uses one window in three, so that they do not overlap. */
function thinned(points, step_ms) {
  const merged = new Map();
  for (const [end, average, minimum, maximum, count] of points) {
    if (end % WINDOW_MS || average === null) continue;
    const at = Math.ceil(end / step_ms) * step_ms;
    const into = merged.get(at);
    if (!into) {
      merged.set(at, [at, average, minimum, maximum, count]);
    } else {
      into[1] += ((average - into[1]) * count) / (into[4] + count);
      into[2] = Math.min(into[2], minimum);
      into[3] = Math.max(into[3], maximum);
      into[4] += count;
    }
  }
  return [...merged.values()];
}

async function answer({ url, minutes, location, sensorTypes, until_ms }) {
  const scope = JSON.stringify([minutes, location, sensorTypes, until_ms]);
  const now_ms = Date.now();
  const increment = scope === known.scope && minutes > HOUR_MINUTES && now_ms - known.readAt_ms < WHOLE_EVERY_MS;
  const next = increment ? known : { scope, readAt_ms: now_ms, series: new Map() };
  const newest_ms = Math.max(0, ...[...next.series.values()].map(({ byEnd }) => Math.max(...byEnd.keys())));
  const iso = (ms) => new Date(ms).toISOString();
  const parameters = location ? { location } : {};
  if (until_ms) {
    Object.assign(parameters, { since: iso(until_ms - minutes * 60_000), until: iso(until_ms) });
  } else if (increment && newest_ms) {
    parameters.since = iso(newest_ms - REREAD_MS);
  } else {
    parameters.minutes = minutes;
  }
  for (const sensor_type of sensorTypes ?? [null]) {
    merge(next.series, await read(url, sensor_type === null ? parameters : { ...parameters, sensor_type }));
  }
  known = next;
  const step_s = stepOf(minutes);
  const oldest_ms = newest_ms - minutes * 60_000 - REREAD_MS;
  const series = [...next.series.values()].map(({ sensor_type, unit, byEnd }) => {
    for (const end of byEnd.keys()) if (end < oldest_ms) byEnd.delete(end);
    const points = [...byEnd.values()].sort((a, b) => a[0] - b[0]);
    return { sensor_type, unit, points: step_s > SLIDE_S ? thinned(points, step_s * 1000) : points };
  });
  return { series, step_s };
}

// Answer one question after another, because they share `known`.
let last = Promise.resolve();
onmessage = ({ data }) => {
  last = last.then(async () => {
    try {
      postMessage({ id: data.id, ...(await answer(data)) });
    } catch (error) {
      const status = error.cause?.name === "TimeoutError" ? 408 : (error.status ?? 0);
      postMessage({ id: data.id, error: error.message, status });
    }
  });
};
