/** Formats numbers, units and times for people. What is not known is a dash, never 0. */

export const UNKNOWN = "–";

const WHOLE = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const ONE_DIGIT = new Intl.NumberFormat(undefined, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const TWO_DIGITS = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const SHORT = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
const SCIENTIFIC = new Intl.NumberFormat(undefined, { notation: "scientific", maximumFractionDigits: 2 });
const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const DAY_AND_CLOCK = new Intl.DateTimeFormat(undefined, {
  dateStyle: "medium",
  timeStyle: "medium",
  hourCycle: "h23",
});

const SHORT_DAY = new Intl.DateTimeFormat(undefined, {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
});

const SYMBOLS = new Map([
  ["celsius", "°C"],
  ["percent", "%"],
  ["hPa", "hPa"],
  ["lux", "lx"],
  ["boolean", "0 or 1"],
]);

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A count with its groups of digits. */
export const whole = (value) => (isNumber(value) ? WHOLE.format(value) : UNKNOWN);

/** A rate: below 100 with one digit after the point. */
export const rate = (value) =>
  isNumber(value) ? (value > 0 && value < 100 ? ONE_DIGIT : WHOLE).format(value) : UNKNOWN;

/** A measured value: two digits after the point, very large and very small ones as powers of ten. */
export function value(value) {
  if (!isNumber(value)) return UNKNOWN;
  const size = Math.abs(value);
  return (size >= 1e9 || (size > 0 && size < 0.005) ? SCIENTIFIC : TWO_DIGITS).format(value);
}

/** A bound, with as few digits as it has. */
export const short = (value) => SHORT.format(value);

/** The symbol of a unit; "" if the unit is not known. */
export const unit = (name) => SYMBOLS.get(name) ?? (name && name !== "unknown" ? String(name) : "");

/** Value and unit. A boolean has no unit: "0 or 1" names its values. */
export function measure(number, name) {
  const symbol = name === "boolean" ? "" : unit(name);
  return symbol ? `${value(number)}\u00a0${symbol}` : value(number);
}

/** A moment given as ISO 8601 in milliseconds since the epoch, or null. */
export function parseTime(text) {
  const time = typeof text === "string" ? Date.parse(text) : NaN;
  return Number.isNaN(time) ? null : time;
}

/** A moment (ms) on the viewer's clock, with its day if that is not today. */
export function moment(time, now) {
  if (time === null) return UNKNOWN;
  return new Date(time).toDateString() === new Date(now).toDateString()
    ? CLOCK.format(time)
    : DAY_AND_CLOCK.format(time);
}

/** A moment (ms) in few characters: without the year, and on another day without seconds. */
export function shortMoment(time, now) {
  if (time === null) return UNKNOWN;
  const today = new Date(time).toDateString() === new Date(now).toDateString();
  return (today ? CLOCK : SHORT_DAY).format(time);
}

/** A span of time (ms) in its two greatest units, the smaller one only if it is not 0. */
export function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const parts = [
    [Math.floor(seconds / 86400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, name]) => `${count} ${name}`)
    .join(" ");
}

/** The viewer's time zone, as "Europe/Berlin (GMT+1)". */
export function zoneName() {
  const parts = new Intl.DateTimeFormat(undefined, { timeZoneName: "shortOffset" }).formatToParts(new Date());
  const offset = parts.find((part) => part.type === "timeZoneName")?.value;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return offset && offset !== zone ? `${zone} (${offset})` : zone;
}

/** "HIGH_TEMPERATURE" as side and words; the side is "" if the name has none. */
export function alertName(type) {
  const [, side = "", rest] = /^(?:(HIGH|LOW)_)?([^]*)$/.exec(String(type ?? ""));
  return { side, words: rest.toLowerCase() };
}

/** The text, cut to `length` characters with an ellipsis. */
export const shortened = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
