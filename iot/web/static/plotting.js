/**
 * Colours, texts and times in the form that Plotly needs, for all figures.
 *
 * Moments are passed as the viewer's clock shows them (`local`), because Plotly's versions treat numbers differently.
 * Plotly reads labels as a kind of HTML, so strings from the data are escaped (`literal`).
 */

const MINUTE_MS = 60_000;
const KNOWN_TYPES = ["temperature", "humidity", "pressure", "motion", "light"];
const OTHER_COLORS = ["--other-1", "--other-2", "--other-3"];

/** Escapes a text, so that Plotly shows tags, entities and %{…} in it as they are. */
export const literal = (text) => String(text ?? "").replace(/[&<>"'%{}$\\]/g, (sign) => `&#${sign.charCodeAt(0)};`);

/** A moment (ms since the epoch) on the viewer's clock, as "2026-11-24T02:15:07.123". */
export const local = (time) =>
  new Date(time - new Date(time).getTimezoneOffset() * MINUTE_MS).toISOString().slice(0, -1);

/** Sensor types in the order of the page: the known ones first, then by number of readings. */
export function byImportance(stats) {
  const place = (row) => KNOWN_TYPES.indexOf(row.sensor_type) + 1 || KNOWN_TYPES.length + 1;
  return [...stats].sort((a, b) => place(a) - place(b) || (b.count ?? 0) - (a.count ?? 0));
}

/** The key of a series: one type may come in several units. */
export const seriesKey = (row) => JSON.stringify([row.sensor_type, row.unit]);

/** A number that depends only on the text. */
export function hash(text) {
  let sum = 7;
  for (const sign of text) sum = (sum * 31 + sign.codePointAt(0)) >>> 0;
  return sum;
}

/** The CSS property with the colour of a sensor type. */
export function colorName(sensorType) {
  if (KNOWN_TYPES.includes(sensorType)) return `--type-${sensorType}`;
  return OTHER_COLORS[hash(String(sensorType)) % OTHER_COLORS.length];
}

/** The colours, font and separators of the current theme. */
export function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const colors = new Map();
  const color = (name) => {
    if (!colors.has(name)) colors.set(name, style.getPropertyValue(name).trim());
    return colors.get(name);
  };
  const separators = new Intl.NumberFormat().formatToParts(12345.6);
  const separator = (type) => separators.find((part) => part.type === type)?.value ?? "";
  return {
    color,
    font: getComputedStyle(document.body).fontFamily,
    separators: (separator("decimal") || ".") + separator("group"),
    // On a touch screen, dragging scrolls the page.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  };
}

/** The layout of a figure, overridden by `more`. */
export function layout(theme, view, more) {
  return {
    autosize: true,
    margin: { l: 50, r: 10, t: 8, b: 22 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: theme.font, size: 11, color: theme.color("--muted") },
    separators: theme.separators,
    hoverlabel: {
      align: "left",
      bgcolor: theme.color("--surface"),
      bordercolor: theme.color("--border-strong"),
      font: { family: theme.font, size: 12, color: theme.color("--text") },
    },
    showlegend: false,
    dragmode: theme.dragmode,
    uirevision: view.revision,
    ...more,
  };
}

/** An axis, overridden by `more`. */
export const axis = (theme, more) => ({
  gridcolor: theme.color("--grid"),
  linecolor: theme.color("--border-strong"),
  zeroline: false,
  ticks: "",
  tickformat: ",.6~g",
  ...more,
});

/** A colour #rrggbb with an opacity from 0 to 1. */
export function transparent(hex, alpha) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${red},${green},${blue},${alpha})`;
}
