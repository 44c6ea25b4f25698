/**
 * Joins the event stream that all windows of a browser share.
 *
 * A shared worker holds it, also on a page without HTTPS. In a browser that has none, the window that gets a Web Lock
 * holds a stream for itself. All others, and browsers with neither, read the figures instead.
 */

import { ALIVE_EVERY_MS, Stream } from "./stream.js";

// How long the worker may say nothing before it is started again.
const DEAD_MS = 12_000;
// How often to try a worker that never says anything.
const MAX_TRIES = 2;
// To be changed with the messages: windows that were loaded from an older server keep their worker.
const WORKER_NAME = "iot-stream-2";

export class SharedStream {
  #on;
  #worker = null;
  #alone = null;
  #release = null;
  #heard_ms = 0;
  #tries = 0;
  #watch = 0;

  /** @param {function(object)} on receives the messages of stream.js; nothing after `leave`. */
  constructor(on) {
    this.#on = on;
    this.#watch = setInterval(() => this.#worker && this.#requireAlive(), ALIVE_EVERY_MS);
    this.#join();
  }

  /** Tells that figures changed without an event. */
  missed() {
    this.#worker?.port.postMessage("missed");
    this.#alone?.missed();
  }

  leave() {
    clearInterval(this.#watch);
    this.#on = () => {};
    this.#dropWorker();
    this.#release?.();
  }

  #join() {
    this.#heard_ms = Date.now();
    this.#tries += 1;
    let worker;
    try {
      worker = new SharedWorker(new URL("stream-worker.js", import.meta.url), { type: "module", name: WORKER_NAME });
    } catch {
      this.#waitForLock();
      return;
    }
    this.#worker = worker;
    worker.onerror = () => {
      if (worker !== this.#worker) return;
      this.#dropWorker();
      this.#waitForLock();
    };
    worker.port.onmessage = ({ data }) => {
      if (worker !== this.#worker) return;
      this.#heard_ms = Date.now();
      this.#tries = 0;
      if (data.type === "alive") worker.port.postMessage("here");
      else this.#on(data);
    };
  }

  #dropWorker() {
    this.#worker?.port.postMessage("leave");
    this.#worker = null;
  }

  #requireAlive() {
    if (Date.now() - this.#heard_ms < DEAD_MS) return;
    this.#dropWorker();
    this.#on({ type: "pushing", pushing: false });
    if (this.#tries < MAX_TRIES) this.#join();
    else this.#waitForLock();
  }

  async #waitForLock() {
    // Browsers have locks only where the connection is secure or to the same machine.
    if (!navigator.locks) return;
    const url = new URL("../api/stream", import.meta.url);
    const waiting = new AbortController();
    this.#release = () => waiting.abort();
    try {
      await navigator.locks.request(url.href, { signal: waiting.signal }, () => {
        this.#alone = new Stream(url, (message) => this.#on(message));
        return new Promise((resolve) => {
          this.#release = () => {
            this.#alone.close();
            this.#alone = null;
            resolve();
          };
        });
      });
    } catch {
      // The window left before it got the lock, or the browser forbids locks.
    }
  }
}
