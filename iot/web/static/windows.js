/** Asks the worker for windows, one question at a time, as often as their points can tell something new. */

/** How often windows are read at most, by range in minutes; their points are wider the longer the range. */
const REFRESH_MS = [
  [15, 1_000],
  [60, 2_000],
  [Infinity, 5_000],
];

export class Windows {
  /** As the worker answers; `loaded` is false until there is an answer to the present question. */
  series = [];
  step_s = 10;
  loaded = false;
  #worker = new Worker(new URL("windows-worker.js", import.meta.url), { type: "module" });
  #id = 0;
  #asked_ms = 0;
  #waiting = false;
  #again = false;
  #timer = 0;

  /**
   * @param {object} on
   *   question(): {minutes, location, sensorTypes, until_ms} to ask for;
   *   changed(first): there is an answer, the first one to a new question;
   *   problem(text): why windows cannot be read, or "".
   */
  constructor(on) {
    this.on = on;
    this.#worker.onmessage = ({ data }) => this.#received(data);
    this.#worker.onerror = () => on.problem("Windows cannot be read: static/windows-worker.js does not run.");
  }

  /** The question is another one: what is known does not answer it. */
  reset() {
    this.#id += 1;
    this.loaded = false;
    this.refresh();
  }

  /** There may be something new: ask when that is not too soon, unless time stands still. */
  refreshLater() {
    const { minutes, until_ms } = this.on.question();
    if (this.#timer || until_ms !== null) return;
    const [, interval_ms] = REFRESH_MS.find(([longest]) => minutes <= longest);
    this.#timer = setTimeout(
      () => {
        this.#timer = 0;
        if (this.on.question().until_ms === null && !document.hidden) this.refresh();
      },
      Math.max(0, this.#asked_ms + interval_ms - Date.now()),
    );
  }

  /** Ask now, or as soon as the last question is answered. */
  refresh() {
    this.#again = this.#waiting;
    if (this.#waiting) return;
    this.#waiting = true;
    this.#asked_ms = Date.now();
    const url = new URL("api/windows", document.baseURI).href;
    this.#worker.postMessage({ id: this.#id, url, ...this.on.question() });
  }

  #received({ id, error, status, ...windows }) {
    this.#waiting = false;
    if (id === this.#id) {
      // Without any answer the state of the page says enough.
      this.on.problem(status ? `Windows cannot be read: ${error}` : "");
      const first = !this.loaded;
      if (!error) Object.assign(this, windows, { loaded: true });
      // What is there answers another question.
      else if (first) this.series = [];
      this.on.changed(first);
    }
    if (this.#again) this.refresh();
  }
}
