/**
 * Receives figures and alerts: /api/stream pushes them, and the figures are also read every 5 s, so that without a
 * stream the page is only less fresh. A hidden page receives nothing; shown again, it reads everything again.
 */

import { getJson } from "./server.js";

const POLL_MS = 5_000;
export const TIMEOUT_MS = 8_000;
const RECONNECT_MS = [1_000, 2_000, 5_000, 10_000];
// How long a stream may be silent while figures change, before it counts as dead.
const SILENT_MS = 15_000;
/**
 * Starts to receive.
 *
 * @param {object} on
 *   metrics(object): an answer of /api/metrics, pushed or read;
 *   alert(object): an alert, pushed;
 *   catchUp(): alerts may have been missed: read them again;
 *   contact({answer, error, pushing}): time (ms) of the last answer, an Error with `status` or null, and whether the
 *     stream is open.
 */
export function startTransport(on) {
  const contact = { answer: null, error: null, pushing: false };
  let stream = null;
  let failures = 0;
  let missed = false;
  let pollTimer = 0;
  let reconnectTimer = 0;
  let lastEvent = 0;
  // The last answer of /api/metrics, and the figures pushed since it was requested.
  let read = {};
  let pushed = null;

  /** Notes that the server is there. An error that it answered with stays until a request succeeds. */
  const heard = () => {
    contact.answer = Date.now();
    if (contact.error?.status === 0) contact.error = null;
  };

  function received(event) {
    lastEvent = Date.now();
    try {
      return JSON.parse(event.data);
    } catch {
      return null;
    }
  }

  function open() {
    clearTimeout(reconnectTimer);
    stream?.close();
    const opened = (stream = new EventSource("api/stream"));
    opened.addEventListener("open", () => {
      failures = 0;
      lastEvent = Date.now();
      contact.pushing = true;
      heard();
      on.contact(contact);
      if (missed) poll();
      missed = false;
    });
    opened.addEventListener("metrics", (event) => {
      const metrics = received(event);
      if (!metrics) return;
      heard();
      pushed = metrics;
      // The stream leaves out the long lists.
      on.metrics({ ...read, ...metrics });
      on.contact(contact);
    });
    opened.addEventListener("alert", (event) => {
      const alert = received(event);
      if (alert) on.alert(alert);
    });
    opened.addEventListener("error", () => {
      if (contact.pushing) poll();
      missed = true;
      contact.pushing = false;
      on.contact(contact);
      // The browser reconnects by itself unless the server refused.
      if (opened.readyState === EventSource.CLOSED && stream === opened) {
        reconnectTimer = setTimeout(open, RECONNECT_MS[Math.min(failures++, RECONNECT_MS.length - 1)]);
      }
    });
  }

  async function poll() {
    clearTimeout(pollTimer);
    pollTimer = setTimeout(poll, POLL_MS);
    pushed = null;
    try {
      const metrics = await getJson("api/metrics", TIMEOUT_MS);
      const moved = metrics.total_messages !== read.total_messages;
      contact.answer = Date.now();
      contact.error = null;
      read = metrics;
      on.metrics({ ...metrics, ...pushed });
      on.catchUp();
      if (contact.pushing && moved && Date.now() - lastEvent > SILENT_MS) {
        contact.pushing = false;
        open();
      }
    } catch (error) {
      contact.error = error;
    }
    on.contact(contact);
  }

  function close() {
    clearTimeout(pollTimer);
    clearTimeout(reconnectTimer);
    stream?.close();
    stream = null;
    contact.pushing = false;
  }

  const start = () => {
    poll();
    open();
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : start()));
  // A page restored by the back button has lost its connections.
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && start());
  if (!document.hidden) start();
}
