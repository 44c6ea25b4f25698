/** Requests to the dashboard's server, and its clock. Used by the page and by its worker. */

const CLOCK_TOLERANCE_MS = 3_000;

let clockOffset_ms = 0;

/** The time (ms since the epoch) on the server's clock, as its answers tell it: the viewer's clock may be wrong. */
export const now = () => Date.now() + clockOffset_ms;

const failure = (text, status, cause) => Object.assign(new Error(text, { cause }), { status });

/**
 * GET a URL and return the JSON of the answer.
 *
 * Throws an Error with `status`: that of the answer, or 0 if none came.
 */
export const getJson = (url, timeout_ms) => request(url, {}, timeout_ms);

/** Send a request that changes something, with JSON as its body, and return the JSON of the answer; else as getJson. */
export const sendJson = (method, url, content, timeout_ms) =>
  request(url, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) }, timeout_ms);

async function request(url, options, timeout_ms) {
  let response;
  try {
    response = await fetch(url, {
      ...options,
      signal: AbortSignal.timeout(timeout_ms),
      headers: { Accept: "application/json", ...options.headers },
    });
  } catch (error) {
    throw failure("no answer", 0, error);
  }
  const date = Date.parse(response.headers.get("Date"));
  // The header is cut to whole seconds, so half a second is the best guess.
  const offset = date + 500 - Date.now();
  clockOffset_ms = Math.abs(offset) > CLOCK_TOLERANCE_MS ? offset : 0;
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (response.ok) throw failure("the answer is not JSON", response.status, error);
  }
  if (response.ok) return body;
  throw failure(body?.error || `the server answered ${response.status}`, response.status);
}
