"use strict";
// Draws the charts of a load test's report from the JSON in the page.

const { tests } = JSON.parse(document.getElementById("data").textContent);
const PERCENTILES = [["p50", "p50"], ["p95", "p95"], ["p99", "p99"], ["p99_9", "p99.9"], ["max", "max"]];
const COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];

function name(test) {
  return `${test.test}, ${test.client}, ${test.threads} thread${test.threads > 1 ? "s" : ""}`;
}

/** Readings acknowledged a second between each sample of a test and the one before it. */
function rates(test) {
  let before = { at_s: 0, acknowledged: 0 };
  return test.timeline.map((sample) => {
    const rate = (sample.acknowledged - before.acknowledged) / (sample.at_s - before.at_s);
    before = sample;
    return rate;
  });
}

function draw(id, title, traces, xaxis, yaxis, more = {}) {
  const figure = document.getElementById(id);
  if (!traces.some((trace) => trace.x.length)) {
    figure.className = "empty";
    return;
  }
  const layout = {
    title: { text: title, font: { size: 15 }, x: 0, xref: "paper" },
    xaxis, yaxis: { rangemode: "tozero", ...yaxis },
    margin: { t: 40, r: 15, b: 45, l: 65 }, legend: { orientation: "h", y: -0.26, font: { size: 11 } },
    showlegend: true, ...more,
  };
  Plotly.newPlot(figure, traces, layout, { responsive: true, displaylogo: false });
}

const sampled = tests.filter((test) => test.timeline.length);
const seconds = { title: { text: "seconds" } };

function overTime(values) {
  return sampled.map((test) => ({
    x: test.timeline.map((sample) => sample.at_s), y: values(test), name: name(test), mode: "lines+markers", marker: { size: 4 },
  }));
}

draw("throughput", "Throughput over time", overTime(rates).filter((trace) => trace.y.some((rate) => rate > 0)), seconds,
  { title: { text: "readings/s" } });
draw("latency", "Latency", tests.map((test) => ({
  x: PERCENTILES.map(([, label]) => label), y: PERCENTILES.map(([key]) => test.latency_ms[key]), name: name(test),
  mode: "lines+markers",
})), { type: "category" }, { title: { text: "ms" }, type: "log" });
draw("cpu", "CPU (solid: the client, 100 % is one core; dotted: the machine)", [
  ...overTime((test) => test.timeline.map((sample) => sample.cpu_pct)),
  ...overTime((test) => test.timeline.map((sample) => sample.machine_cpu_pct)).map((trace) => ({
    ...trace, mode: "lines", line: { dash: "dot" }, showlegend: false,
  })),
].map((trace, at) => ({ ...trace, line: { ...trace.line, color: COLOURS[at % sampled.length % COLOURS.length] } })),
seconds, { title: { text: "%" } });
draw("memory", "Memory of the client", overTime((test) => test.timeline.map((sample) => sample.memory_mb)), seconds,
  { title: { text: "MB" } });

/** One line for each test and client that ran with more than one number of threads. */
function byThreads(value) {
  const lines = new Map();
  for (const test of tests) {
    const key = `${test.test}, ${test.client}`;
    lines.set(key, [...(lines.get(key) ?? []), test]);
  }
  return [...lines].filter(([, of]) => new Set(of.map((test) => test.threads)).size > 1).map(([key, of]) => {
    const ordered = [...of].sort((a, b) => a.threads - b.threads);
    return { x: ordered.map((test) => String(test.threads)), y: ordered.map(value), name: key, mode: "lines+markers" };
  });
}

const threads = { title: { text: "threads" }, type: "category" };
draw("threads", "Throughput by threads", byThreads((test) => test.throughput_per_s), threads, { title: { text: "readings/s" } });
draw("frugality", "Readings a second per 1 % CPU, by threads", byThreads((test) => test.throughput_per_cpu_pct), threads,
  { title: { text: "readings/s per 1 % CPU" } });
