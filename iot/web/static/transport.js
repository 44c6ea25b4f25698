/**
 * Receives figures, alerts and alarms: /api/stream pushes them, and the figures are also read every 5 s, so that without a
 * stream the page is only less fresh. A hidden page receives nothing; shown again, it reads everything again.
 */

import { getJson } from "./server.js";
import { SharedStream } from "./shared-stream.js";
import { SILENT_MS } from "./stream.js";

const POLL_MS = 5_000;
export const TIMEOUT_MS = 8_000;

/**
 * Starts to receive.
 *
 * @param {object} on
 *   metrics(object): an answer of /api/metrics, pushed or read;
 *   alert(object): an alert, pushed;
 *   alarm(object): an alarm that has changed, pushed;
 *   catchUp(): alerts and alarms may have been missed: read them again;
 *   contact({answer, error, pushing}): time (ms) of the last answer, an Error with `status` or null, and whether events
 *     arrive.
 */
export function startTransport(on) {
  const contact = { answer: null, error: null, pushing: false };
  let stream = null;
  let missed = false;
  let pollTimer = 0;
  let lastEvent = 0;
  // The last answer of /api/metrics, and the figures pushed since it was requested.
  let read = {};
  let pushed = null;

  /** Notes that the server is there. An error that it answered with stays until a request succeeds. */
  const heard = () => {
    contact.answer = Date.now();
    if (contact.error?.status === 0) contact.error = null;
  };

  function received(message) {
    if (message.type === "pushing") {
      // The stream that broke off may have missed something, so read it.
      if (message.pushing ? missed : contact.pushing) poll();
      missed = !message.pushing;
      contact.pushing = message.pushing;
      on.contact(contact);
      return;
    }
    lastEvent = Date.now();
    heard();
    if (message.type !== "metrics") {
      on[message.type]?.(message[message.type]);
      return;
    }
    pushed = message.metrics;
    // The stream leaves out the long lists.
    on.metrics({ ...read, ...pushed });
    on.contact(contact);
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
      if (moved && Date.now() - lastEvent > SILENT_MS) stream?.missed();
    } catch (error) {
      contact.error = error;
    }
    on.contact(contact);
  }

  function close() {
    clearTimeout(pollTimer);
    stream?.leave();
    stream = null;
    contact.pushing = false;
  }

  const start = () => {
    close();
    lastEvent = Date.now();
    missed = false;
    stream = new SharedStream(received);
    poll();
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : start()));
  // A page restored by the back button has lost its connections.
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && start());
  if (!document.hidden) start();
}
