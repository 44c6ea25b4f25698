/** One connection to /api/stream, opened again after a failure. Windows share it, see shared-stream.js. */

/** How often the worker that holds the connection says that it runs. */
export const ALIVE_EVERY_MS = 5_000;
const RECONNECT_MS = [1_000, 2_000, 5_000, 10_000];
// How long a stream may be silent while figures change, before it counts as dead.
export const SILENT_MS = 15_000;
// How long to wait after a second silence: a proxy on the way holds the events back.
const HELD_BACK_MS = 60_000;

export class Stream {
  /** Whether events arrive. An open connection alone proves nothing: a proxy may hold its events back. */
  pushing = false;
  /** The figures pushed last. */
  metrics = null;
  #url;
  #on;
  #source = null;
  #timer = 0;
  #failures = 0;
  #silences = 0;
  #heard_ms = 0;

  /**
   * @param {URL} url of /api/stream
   * @param {function(object)} on receives {type: "metrics", metrics}, {type: "alert", alert}, {type: "alarm", alarm}
   *   and, when it changes, {type: "pushing", pushing}
   */
  constructor(url, on) {
    this.#url = url;
    this.#on = on;
    this.#open();
  }

  close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  /** Opens a silent stream again. To be called when the figures have changed and no event told so. */
  missed() {
    if (!this.#source || Date.now() - this.#heard_ms < SILENT_MS) return;
    this.close();
    this.#setPushing(false);
    this.#silences += 1;
    if (this.#silences > 1) this.#openAfter(HELD_BACK_MS);
    else this.#open();
  }

  #openAfter(wait_ms) {
    this.#timer = setTimeout(() => this.#open(), wait_ms);
  }

  #open() {
    this.#heard_ms = Date.now();
    const source = (this.#source = new EventSource(this.#url));
    for (const type of ["metrics", "alert", "alarm"]) {
      source.addEventListener(type, ({ data }) => source === this.#source && this.#received(type, data));
    }
    source.addEventListener("error", () => {
      if (source !== this.#source) return;
      this.#setPushing(false);
      // The browser reconnects by itself unless the server refused.
      if (source.readyState !== EventSource.CLOSED) return;
      this.close();
      this.#openAfter(RECONNECT_MS[Math.min(this.#failures++, RECONNECT_MS.length - 1)]);
    });
  }

  #received(type, data) {
    this.#heard_ms = Date.now();
    this.#failures = this.#silences = 0;
    let content;
    try {
      content = JSON.parse(data);
    } catch {
      return;
    }
    if (type === "metrics") this.metrics = content;
    this.#setPushing(true);
    this.#on({ type, [type]: content });
  }

  #setPushing(pushing) {
    if (pushing === this.pushing) return;
    this.pushing = pushing;
    this.#on({ type: "pushing", pushing });
  }
}
