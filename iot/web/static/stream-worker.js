/**
 * Holds the one stream of all windows of a browser: over HTTP/1.1 a browser opens only six connections to a server, and
 * a stream in each window would leave none for the seventh.
 *
 * Messages to a window are those of stream.js, and {type: "alive"}. A window answers that with "here"; it also sends
 * "missed" (see Stream) and "leave".
 */

import { ALIVE_EVERY_MS, Stream } from "./stream.js";

// A window that crashed does not say that it leaves.
const GONE_MS = 12 * ALIVE_EVERY_MS;

/** When each window was heard last (ms), by its port. */
const heard = new Map();
let stream = null;

function tell(message) {
  for (const port of heard.keys()) port.postMessage(message);
}

function leave(port) {
  heard.delete(port);
  port.close();
  if (heard.size) return;
  stream?.close();
  stream = null;
}

onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => {
    if (!heard.has(port)) return;
    heard.set(port, Date.now());
    if (data === "leave") leave(port);
    else if (data === "missed") stream?.missed();
  };
  heard.set(port, Date.now());
  stream ??= new Stream(new URL("../api/stream", import.meta.url), tell);
  port.postMessage({ type: "alive" });
  if (!stream.pushing) return;
  port.postMessage({ type: "pushing", pushing: true });
  port.postMessage({ type: "metrics", metrics: stream.metrics });
};

setInterval(() => {
  for (const [port, heard_ms] of [...heard]) if (Date.now() - heard_ms > GONE_MS) leave(port);
  tell({ type: "alive" });
}, ALIVE_EVERY_MS);
