/** Plotly figures over time, made from data: functions to {data, layout}, or to null if there is nothing to draw. */

import { alertName, measure, shortened, unit, value } from "./format.js";
import { axis, colorName, layout, literal, local, transparent } from "./plotting.js";

const MAX_ALERT_TYPES = 8;
const MINUTE_MS = 60_000;
// Maximum distance between two samples with a line between them: in ms, and in steps beside it; the larger counts.
const RATE_GAP_STEPS = 4;
const RATE_GAP_MS = 30_000;

function timeAxis(theme, view, nticks) {
  return axis(theme, {
    type: "date",
    range: view.zoom ?? [local(view.end_ms - view.minutes * MINUTE_MS), local(view.end_ms + view.ahead_ms)],
    uirevision: view.zoomRevision,
    nticks,
    tickangle: 0,
    showgrid: false,
    showline: true,
    ticks: "outside",
    ticklen: 3,
    tickcolor: theme.color("--border-strong"),
    tickformat: "",
    tickformatstops: [
      { dtickrange: [null, 1000], value: "%H:%M:%S.%L" },
      { dtickrange: [1000, 60_000], value: "%H:%M:%S" },
      { dtickrange: [60_000, 86_400_000], value: "%H:%M" },
      { dtickrange: [86_400_000, null], value: "%e %b" },
    ],
  });
}

/** Splits points into runs without a gap. */
function runs(points, step_ms) {
  const found = [];
  let previous = -Infinity;
  for (const point of points) {
    if (point[0] - previous > step_ms * 1.5) found.push([]);
    found.at(-1).push(point);
    previous = point[0];
  }
  return found;
}

/** Whether everything in Kafka up to the end of a window is processed. */
const isComplete = ([end, average], view) => end <= view.processed_ms && average !== null;

/** The newest complete point of a series in the range, or undefined. */
export const newestComplete = ({ points }, view) =>
  points.findLast((point) => isComplete(point, view) && point[0] > view.end_ms - view.minutes * MINUTE_MS);

/**
 * The average of a series at the ends of its windows, with a band from minimum to maximum. Windows in progress are not
 * part of the line; the first of them is a hollow point.
 */
export function windowsFigure({ sensor_type, unit: unitName, points }, step_s, theme, view) {
  const step_ms = step_s * 1000;
  const oldest_ms = view.end_ms - view.minutes * MINUTE_MS;
  const shown = points.filter(([end, average]) => end > oldest_ms && average !== null);
  const complete = shown.filter((point) => isComplete(point, view));
  const inProgress = shown.filter((point) => !isComplete(point, view)).slice(0, 1);
  const color = theme.color(colorName(sensor_type));
  const pieces = runs(complete, step_ms);
  const band = { x: [], y: [] };
  const line = { x: [], y: [], customdata: [] };
  const alone = { x: [], y: [] };
  for (const piece of pieces) {
    const ends = piece.map(([end]) => local(end));
    band.x.push(...ends, ...ends.toReversed(), null);
    band.y.push(...piece.map((point) => point[3]), ...piece.map((point) => point[2]).toReversed(), null);
    line.x.push(...ends, null);
    line.y.push(...piece.map((point) => point[1]), null);
    line.customdata.push(...piece.map((point) => point.slice(2)), null);
    if (piece.length === 1) {
      alone.x.push(ends[0]);
      alone.y.push(piece[0][1]);
    }
  }
  const symbol = unitName === "boolean" ? "" : literal(unit(unitName));
  const size = Math.max(0, ...shown.map((point) => Math.abs(point[1])));
  const digits = size >= 1e9 || size < 0.01 ? ".3g" : ",.2f";
  const hover = (note) =>
    `<b>%{y:${digits}} ${symbol}</b><br>%{customdata[0]:${digits}} to %{customdata[1]:${digits}}<br>` +
    `%{customdata[2]:,} readings${note}<br>${step_s > 10 ? "to" : "window to"} %{x|%H:%M:%S}<extra></extra>`;
  return {
    data: [
      {
        ...band,
        type: "scatter",
        mode: "lines",
        fill: "toself",
        hoverinfo: "skip",
        line: { width: 0.5, color: transparent(color, 0.35) },
        fillcolor: transparent(color, 0.16),
      },
      { ...line, type: "scatter", mode: "lines", line: { width: 1.8, color }, hovertemplate: hover("") },
      { ...alone, type: "scatter", mode: "markers", hoverinfo: "skip", marker: { size: 4, color } },
      {
        x: inProgress.map(([end]) => local(end)),
        y: inProgress.map((point) => point[1]),
        customdata: inProgress.map((point) => point.slice(2)),
        type: "scatter",
        mode: "markers",
        cliponaxis: false,
        marker: { size: 6, color: theme.color("--surface"), line: { width: 1.5, color } },
        hovertemplate: hover(", in progress"),
      },
    ],
    layout: layout(theme, view, {
      hovermode: "x",
      xaxis: timeAxis(theme, view, 4),
      yaxis: axis(theme, { fixedrange: true, nticks: 5 }),
    }),
  };
}

/** Readings per second; `samples` are [ms, rate or null], oldest first. A gap in the samples is a gap in the line. */
export function rateFigure(samples, theme, view) {
  const oldest_ms = view.end_ms - view.minutes * MINUTE_MS;
  const first = Math.max(0, samples.findIndex(([time]) => time > oldest_ms) - 1);
  const shown = samples.slice(first).filter(([time]) => time <= view.end_ms);
  if (!shown.some(([time, rate]) => rate !== null && time > oldest_ms)) return null;
  const passed_ms = (index) => (index in shown && index > 0 ? shown[index][0] - shown[index - 1][0] : 0);
  const followed = [[]];
  shown.forEach(([time, perSecond], index) => {
    // The server's history is coarser than what this page saw. A gap is far wider than both steps beside it.
    const usual_ms = Math.max(passed_ms(index - 1), passed_ms(index + 1));
    const isGap = passed_ms(index) > Math.max(RATE_GAP_MS, usual_ms * RATE_GAP_STEPS);
    if (isGap || perSecond === null) followed.push([]);
    if (perSecond !== null) followed.at(-1).push([time, perSecond]);
  });
  const parts = followed.filter((part) => part.length);
  const color = theme.color("--accent");
  const trace = (points, more) => ({
    x: points.map(([time]) => local(time)),
    y: points.map(([, perSecond]) => perSecond),
    type: "scatter",
    ...more,
  });
  return {
    data: [
      trace(
        parts.flatMap((part) => [...part, [part.at(-1)[0] + 1, null]]),
        {
          mode: shown.length < 3 ? "lines+markers" : "lines",
          line: { width: 1.8, color },
          hovertemplate: "<b>%{y:,.1f} readings/s</b><br>%{x|%H:%M:%S}<extra></extra>",
        },
      ),
      // Plotly would fill a line across its gaps.
      trace(
        parts.flatMap((part) => [[part[0][0], 0], ...part, [part.at(-1)[0], 0]]),
        {
          mode: "none",
          fill: "tozeroy",
          fillcolor: transparent(color, 0.12),
          hoverinfo: "skip",
        },
      ),
    ],
    layout: layout(theme, view, {
      hovermode: "x",
      xaxis: timeAxis(theme, view, 4),
      yaxis: axis(theme, { fixedrange: true, nticks: 5, rangemode: "tozero" }),
    }),
  };
}

/** The width (minutes) of the bars of a range. */
const barMinutes = (minutes) => (minutes <= 15 ? 1 : minutes <= 60 ? 2 : minutes <= 360 ? 10 : 30);

/**
 * Alerts by type as stacked bars: coloured by sensor type, low ones hatched; the bar in progress is paler. Also returns
 * `total` and `legend` [{name, color, hatched}], bottom first; `color` is the name of a CSS property.
 */
export function alertsFigure(history, filters, theme, view) {
  const bar_ms = barMinutes(view.minutes) * MINUTE_MS;
  const oldest_ms = Math.floor((view.end_ms - view.minutes * MINUTE_MS) / bar_ms) * bar_ms;
  const wanted = filters.sensorType && `_${filters.sensorType.toUpperCase()}`;
  const byType = new Map();
  for (const { minute, type, count } of history) {
    const time = Date.parse(minute);
    if (!(time >= oldest_ms) || time > view.end_ms || (wanted && !String(type).endsWith(wanted))) continue;
    if (!byType.has(type)) byType.set(type, { total: 0, bars: new Map() });
    const entry = byType.get(type);
    const bar = Math.floor(time / bar_ms) * bar_ms;
    entry.total += count;
    entry.bars.set(bar, (entry.bars.get(bar) ?? 0) + count);
  }
  if (!byType.size) return null;
  const ranked = [...byType].sort((a, b) => b[1].total - a[1].total);
  const rest = ranked.splice(MAX_ALERT_TYPES);
  // Order them by name, so that a bar keeps its place while counts grow.
  ranked.sort((a, b) => (a[0] < b[0] ? -1 : 1));
  if (rest.length) {
    const bars = new Map();
    for (const [, entry] of rest) for (const [bar, count] of entry.bars) bars.set(bar, (bars.get(bar) ?? 0) + count);
    ranked.push([null, { bars }]);
  }
  const legend = ranked.map(([type]) => {
    const { side, words } = alertName(type);
    return {
      name: type === null ? "all other types" : shortened(`${side.toLowerCase()} ${words}`.trim(), 32),
      color: type === null ? "--muted" : colorName(words),
      hatched: side === "LOW",
    };
  });
  const data = ranked.map(([, { bars }], index) => {
    const { name, color, hatched } = legend[index];
    const times = [...bars.keys()].sort((a, b) => a - b);
    return {
      type: "bar",
      x: times.map(local),
      y: times.map((time) => bars.get(time)),
      width: bar_ms * 0.82,
      offset: bar_ms * 0.09,
      marker: {
        color: theme.color(color),
        line: { width: 0 },
        ...(hatched && {
          pattern: {
            shape: "/",
            size: 5,
            solidity: 0.45,
            fgcolor: theme.color("--surface"),
            bgcolor: theme.color(color),
          },
        }),
      },
      hovertemplate: `%{y:,} ${literal(name)}<extra></extra>`,
    };
  });
  const newest = Math.floor(view.end_ms / bar_ms) * bar_ms;
  const veil = {
    type: "rect",
    xref: "x",
    yref: "paper",
    x0: local(newest),
    x1: local(newest + bar_ms),
    y0: 0,
    y1: 1,
    fillcolor: theme.color("--surface"),
    opacity: 0.5,
    line: { width: 0 },
  };
  return {
    data,
    layout: layout(theme, view, {
      barmode: "stack",
      hovermode: "x unified",
      shapes: [veil],
      xaxis: timeAxis(theme, view, 6),
      yaxis: axis(theme, { fixedrange: true, nticks: 5, rangemode: "tozero" }),
    }),
    legend,
    total: [...byType.values()].reduce((sum, { total }) => sum + total, 0),
  };
}

/** What a chart shows, in words, for screen readers. */
export function describe({ sensor_type, unit: unitName }, newest) {
  if (!newest) return `${sensor_type}: no complete window in this range`;
  const [, average, minimum, maximum] = newest;
  const range = `from ${value(minimum)} to ${value(maximum)}`;
  return `${sensor_type}: average ${measure(average, unitName)} in the newest complete window, ${range}`;
}
