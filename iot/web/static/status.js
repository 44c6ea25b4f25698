/** Says in words what state the system is in: no data, live, stale, failed, or a server that does not answer. */

import { moment, parseTime, span } from "./format.js";
import { now } from "./server.js";

const STALE_MS = 30_000;
const SERVER_STATES = ["no_data", "live", "stale", "failed"];
const PRODUCER_COMMAND = "python iot_producer.py";
const WORDS = {
  connecting: "Connecting",
  unauthorised: "Access refused",
  unreachable: "Server unreachable",
  failed: "Failed",
  no_data: "No data yet",
  stale: "Stale",
  live: "Live",
  paused: "Paused",
};

/** The state in an answer of /api/metrics, or one derived from its figures. */
function stateOf(metrics) {
  if (SERVER_STATES.includes(metrics.state)) return metrics.state;
  if (metrics.system_health === "Critical") return "failed";
  const updated = parseTime(metrics.last_update);
  if (updated === null) return metrics.total_messages === 0 ? "no_data" : "stale";
  return now() - updated > STALE_MS ? "stale" : "live";
}

function reasons(metrics) {
  const given = (metrics.health_reasons ?? []).filter((text) => text && !metrics.state_reason?.includes(text));
  return [metrics.state_reason, ...given].filter(Boolean).map(sentence).join(" ");
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");

/**
 * The state of the page.
 *
 * @param {object|null} metrics the figures shown
 * @param {{answer: number|null, error: Error|null}} contact from the transport
 * @returns {{name: string, word: string, text: string, age: string, command: string}} `age` counts seconds;
 *   `command` is a command to run in a terminal, or "".
 */
export function pageState(metrics, contact) {
  const made = (name, text, age = "", command = "") => ({ name, word: WORDS[name], text, age, command });
  if (contact.error?.status === 401) {
    return made(
      "unauthorised",
      "This dashboard requires a token. Open its address once with /?token= and the token that the server was " +
        "started with.",
    );
  }
  if (contact.error) {
    const shown = metrics ? `The figures below are from ${moment(contact.answer, Date.now())}. ` : "";
    const why = contact.error.status
      ? `The dashboard's server answers with an error: ${contact.error.message}. `
      : "The dashboard's server does not answer. ";
    return made(
      "unreachable",
      `${why}${shown}Trying again.`,
      contact.answer === null ? "" : `No answer for ${span(Date.now() - contact.answer)}.`,
    );
  }
  if (!metrics) return made("connecting", "Waiting for the server's first answer.");
  const updated = parseTime(metrics.last_update);
  const since = updated === null ? "" : span(now() - updated);
  switch (stateOf(metrics)) {
    case "failed":
      return made("failed", reasons(metrics) || "The reason is not known.", since && `Last update ${since} ago.`);
    case "no_data":
      return made(
        "no_data",
        "No reading has been processed. Start a producer in another terminal:",
        "",
        metrics.producer_command || PRODUCER_COMMAND,
      );
    case "stale":
      return made(
        "stale",
        "No new readings are arriving.",
        since ? `Nothing new for ${since}.` : "It is not known for how long.",
      );
    default:
      return made("live", "Readings are arriving.", since ? `Last update ${since} ago.` : "");
  }
}

/** The state of a paused page: when its figures are from, and the state of the system now. */
export function pausedState(paused_ms, meanwhile) {
  const shown = `The figures below are from ${moment(paused_ms, now())}.`;
  return {
    name: "paused",
    word: WORDS.paused,
    text: `${shown} Meanwhile: ${meanwhile.word}. ${meanwhile.name === "live" ? "" : meanwhile.text}`.trim(),
    age: meanwhile.age,
    command: "",
  };
}
