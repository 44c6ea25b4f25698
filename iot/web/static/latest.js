/** The Plotly figure of the latest readings. */

import { measure, shortened, unit, value } from "./format.js";
import { axis, byImportance, colorName, hash, layout, literal, seriesKey, transparent } from "./plotting.js";

const MAX_LINES = 8;
const LINE_PX = 54;
// Maximum number of dots on a line that leaves room for the names of their sensors.
const NAMED_DOTS = 3;

/**
 * The latest readings as dots, on one line for each type and unit, from the smallest to the largest value. Readings
 * that break a rule are diamonds. `extents` are [minimum, maximum] by series and keep the scales still; `when(reading)`
 * is the text of its moment. Also returns `height` (px) and `leftOut`, the number of lines without room.
 */
export function latestFigure(readings, extents, theme, view, when) {
  const groups = new Map();
  for (const reading of readings) {
    const key = seriesKey(reading);
    if (!groups.has(key)) groups.set(key, { ...reading, key, count: 0, readings: [] });
    groups.get(key).count += 1;
    groups.get(key).readings.push(reading);
  }
  if (!groups.size) return null;
  const ranked = byImportance([...groups.values()]);
  const lines = ranked.slice(0, MAX_LINES);
  const rails = { x: [], y: [] };
  const ends = { x: [], y: [], text: [], textposition: [] };
  const dots = { x: [], y: [], text: [], textposition: [], hovertext: [] };
  const marker = { symbol: [], size: [], color: [], line: { width: [], color: [] } };
  lines.forEach((line, row) => {
    const values = line.readings
      .map((reading) => reading.value)
      .concat(extents.get(line.key) ?? [])
      .filter(Number.isFinite);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const place = (value) => (high > low ? (value - low) / (high - low) : 0.5);
    const named = line.readings.length <= NAMED_DOTS;
    const color = theme.color(colorName(line.sensor_type));
    rails.x.push(0, 1, null);
    rails.y.push(-row, -row, null);
    for (const [x, end] of high > low
      ? [
          [0, low],
          [1, high],
        ]
      : [[0.5, low]]) {
      ends.x.push(x);
      ends.y.push(-row - 0.38);
      ends.text.push(literal(value(end)));
      ends.textposition.push(x === 0 ? "middle right" : x === 1 ? "middle left" : "middle center");
    }
    line.readings.forEach((reading, at) => {
      const x = place(reading.value);
      // Each sensor has its own height, which keeps dots of equal values apart.
      const share = named ? (at + 0.5) / line.readings.length : (hash(String(reading.sensor_id)) % 77) / 77;
      dots.x.push(x);
      dots.y.push(-row + 0.2 - share * 0.4);
      dots.text.push(named ? literal(shortened(String(reading.sensor_id), 20)) : "");
      dots.textposition.push(x > 0.5 ? "middle left" : "middle right");
      const names = [reading.sensor_id, reading.location ?? ""].map((name) => literal(shortened(String(name), 40)));
      const judged = reading.alert ? " breaks a rule" : "";
      const measured = `<b>${literal(measure(reading.value, reading.unit))}</b>${judged}`;
      dots.hovertext.push(`${measured}<br>${names.join(", ")}<br>${literal(when(reading))}`);
      marker.symbol.push(reading.alert ? "diamond" : "circle");
      marker.size.push(reading.alert ? 12 : 9);
      marker.color.push(reading.alert ? theme.color("--critical") : transparent(color, 0.75));
      marker.line.width.push(reading.alert ? 1.5 : 1);
      marker.line.color.push(reading.alert ? theme.color("--text") : color);
    });
  });
  const names = lines.map((line) => {
    const symbol = unit(line.unit);
    return (
      literal(shortened(line.sensor_type ?? "", 14)) +
      (symbol ? `<br><span style="font-size:10px">${literal(shortened(symbol, 12))}</span>` : "")
    );
  });
  const still = { fixedrange: true, showgrid: false, showline: false };
  const height = lines.length * LINE_PX + 6;
  return {
    data: [
      {
        ...rails,
        type: "scatter",
        mode: "lines",
        line: { width: 26, color: theme.color("--grid") },
        hoverinfo: "skip",
      },
      { ...ends, type: "scatter", mode: "text", textfont: { size: 10 }, hoverinfo: "skip" },
      {
        ...dots,
        type: "scatter",
        mode: "markers+text",
        cliponaxis: false,
        textfont: { size: 11 },
        marker,
        hoverinfo: "text",
      },
    ],
    layout: layout(theme, view, {
      height,
      hovermode: "closest",
      dragmode: false,
      margin: { l: 92, r: 14, t: 2, b: 4 },
      xaxis: axis(theme, { ...still, range: [-0.015, 1.015], showticklabels: false }),
      yaxis: axis(theme, {
        ...still,
        range: [0.5 - lines.length, 0.5],
        tickvals: names.map((_, row) => -row),
        ticktext: names,
        tickfont: { size: 11, color: theme.color("--text") },
      }),
    }),
    height,
    leftOut: ranked.length - lines.length,
  };
}
