/**
 * Draws Plotly figures one at a time, the newest of each element, while that element is in sight. Drawing gets a fixed
 * share of the thread: a slow machine or many charts delay the charts, never the page.
 */

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: false, showTips: false };
// How far out of sight an element is already drawn.
const MARGIN = "300px";
// How often one element is drawn at most.
const EVERY_MS = 1_000;
// How long to wait after a figure, as a multiple of the time that it took.
const REST = 3;

/** Loads plotly.js and resolves to its Plotly. */
export function loadPlotly() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "static/plotly.min.js";
    script.onload = () =>
      window.Plotly ? resolve(window.Plotly) : reject(new Error("plotly.min.js defines no Plotly"));
    script.onerror = () => reject(new Error("static/plotly.min.js cannot be loaded"));
    document.head.append(script);
  });
}

/** Draws figures into elements. */
export class Canvas {
  #plotly = null;
  #due = new Map();
  #inSight = new Set();
  #drawn_ms = new WeakMap();
  #rested_ms = 0;
  #frame = 0;
  #timer = 0;
  #observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) this.#inSight[isIntersecting ? "add" : "delete"](target);
      this.#schedule();
    },
    { rootMargin: MARGIN },
  );

  /** `onZoom` receives the range that a user zooms a time axis to, Plotly's [from, to], or null to reset it. */
  constructor(onZoom) {
    this.onZoom = onZoom;
  }

  ready(plotly) {
    this.#plotly = plotly;
    this.#schedule();
  }

  watch(div) {
    this.#observer.observe(div);
  }

  remove(div) {
    this.#observer.unobserve(div);
    this.#due.delete(div);
    this.#inSight.delete(div);
    if (div.data) this.#plotly.purge(div);
  }

  /** Draws what `figure()` returns when its turn comes, at once if `urgent`. Null clears the chart. */
  draw(div, figure, urgent = false) {
    const before = this.#due.get(div);
    this.#due.set(div, { figure, urgent: urgent || Boolean(before?.urgent) });
    this.#schedule();
  }

  /** When an element may be drawn, on the clock of performance.now(). */
  #turn([div, { urgent }]) {
    return urgent ? 0 : Math.max(this.#rested_ms, (this.#drawn_ms.get(div) ?? -Infinity) + EVERY_MS);
  }

  #schedule() {
    if (!this.#plotly || this.#frame) return;
    const seen = [...this.#due].filter(([div]) => this.#inSight.has(div));
    if (!seen.length) return;
    // The map keeps its order: of equal turns, the one that has waited longest comes first.
    const next = seen.reduce((first, other) => (this.#turn(other) < this.#turn(first) ? other : first));
    clearTimeout(this.#timer);
    const wait_ms = this.#turn(next) - performance.now();
    if (wait_ms > 0) {
      this.#timer = setTimeout(() => this.#schedule(), wait_ms);
      return;
    }
    // Draw after this frame, so that nothing else in it has to wait.
    this.#frame = requestAnimationFrame(() =>
      setTimeout(() => {
        this.#frame = 0;
        try {
          if (this.#due.has(next[0])) this.#drawOne(next[0]);
        } finally {
          this.#schedule();
        }
      }),
    );
  }

  #drawOne(div) {
    const start_ms = performance.now();
    const { figure, urgent } = this.#due.get(div);
    this.#due.delete(div);
    const made = figure();
    if (made) this.#show(div, made);
    else if (div.data) this.#plotly.purge(div);
    const end_ms = performance.now();
    this.#drawn_ms.set(div, end_ms);
    this.#rested_ms = urgent ? end_ms : end_ms + REST * (end_ms - start_ms);
  }

  #show(div, { data, layout }) {
    const first = !div.data;
    this.#plotly.react(div, data, layout, CONFIG);
    if (!first) return;
    div.on("plotly_relayout", (change) => {
      const from = change["xaxis.range[0]"] ?? change["xaxis.range"]?.[0];
      const to = change["xaxis.range[1]"] ?? change["xaxis.range"]?.[1];
      if (layout.xaxis.type === "date" && from !== undefined && to !== undefined) this.onZoom([from, to]);
    });
    div.on("plotly_doubleclick", () => this.onZoom(null));
  }
}
