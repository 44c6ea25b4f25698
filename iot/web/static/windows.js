/** Asks the worker for windows, one question at a time. */

/** How often windows are read at most, by range in minutes: the longer the range, the wider apart its points. */
const REFRESH_MS = [
  [15, 1_000],
  [60, 2_000],
  [Infinity, 5_000],
];

export class Windows {
  /** The worker's last answer; `loaded` is false until the current question is answered. */
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
   *   question(): {minutes, location, sensorTypes, until_ms};
   *   changed(first): there is an answer; `first` if the question is new;
   *   problem(text): why windows cannot be read, or "".
   */
  constructor(on) {
    this.on = on;
    this.#worker.onmessage = ({ data }) => this.#received(data);
    this.#worker.onerror = () => on.problem("Windows cannot be read: static/windows-worker.js does not run.");
  }

  /** Asks a new question. */
  reset() {
    this.#id += 1;
    this.loaded = false;
    this.refresh();
  }

  /** Asks again as soon as the interval allows, unless the page is paused. */
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

  /** Asks now, or as soon as the last question is answered. */
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
      // If no answer came at all, the banner says so.
      this.on.problem(status ? `Windows cannot be read: ${error}` : "");
      const first = !this.loaded;
      if (!error) Object.assign(this, windows, { loaded: true });
      // The old series answer another question.
      else if (first) this.series = [];
      this.on.changed(first);
    }
    if (this.#again) this.refresh();
  }
}
