"use strict";
// Draws the charts of a soak test from the JSON in the page.

const { samples, warm_up } = JSON.parse(document.getElementById("data").textContent);
const TITLES = {
  memory_mb: "Memory of processes, shared pages divided (PSS)",
  resident_mb: "Memory of processes, shared pages counted in each (RSS)",
  files_mb: "Files",
};
const minutes = samples.map((sample) => sample.at_s / 60);

for (const [key, title] of Object.entries(TITLES)) {
  const names = new Set(samples.flatMap((sample) => Object.keys(sample[key])));
  const traces = [...names].map((name) => ({ x: minutes, y: samples.map((sample) => sample[key][name] ?? null), name, mode: "lines" }));
  Plotly.newPlot(document.getElementById(key), traces, {
    title: { text: title, font: { size: 15 }, x: 0, xref: "paper" },
    xaxis: { title: { text: "minutes" } }, yaxis: { title: { text: "MB" }, rangemode: "tozero" },
    shapes: [{
      type: "rect", xref: "x", yref: "paper", x0: 0, x1: warm_up * minutes.at(-1), y0: 0, y1: 1,
      fillcolor: "#5d6b79", opacity: 0.1, line: { width: 0 }, label: { text: "warm-up", textposition: "top left" },
    }],
    margin: { t: 40, r: 15, b: 45, l: 65 }, legend: { orientation: "h", y: -0.22, font: { size: 11 } }, showlegend: true,
  }, { responsive: true, displaylogo: false });
}
