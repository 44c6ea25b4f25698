"use strict";
// Draws the charts of a load test's report from the JSON in the page. A chart without a line is left out.

const { tests } = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"];
const SECONDS = { title: { text: "seconds" } };
const MILLISECONDS = { title: { text: "ms" }, type: "log", rangemode: "normal" };

function name(test) {
  if (test.test === "backlog") {
    return "sending the backlog";
  }
  return tests.length === 1 ? test.test : `${test.test}, ${test.client}, ${test.threads} thread${test.threads > 1 ? "s" : ""}`;
}

function colour(at) {
  return COLOURS[at % COLOURS.length];
}

/** A line of [x, y] pairs, without those that were not measured. */
function line(label, pairs, more = {}) {
  const known = pairs.filter(([, y]) => y !== null && y !== undefined);
  return { x: known.map(([x]) => x), y: known.map(([, y]) => y), name: label, mode: "lines+markers", marker: { size: 4 }, ...more };
}

/** Draw the lines that have at least two points; leave the chart out if there are none. */
function draw(id, title, traces, xaxis, yaxis, more = {}) {
  const figure = document.getElementById(id);
  const drawn = traces.filter((trace) => trace.x.length > 1);
  if (!drawn.length) {
    figure.className = "empty";
    return;
  }
  figure.querySelector("figcaption").textContent = title;
  const layout = {
    xaxis: { automargin: true, ...xaxis }, yaxis: { rangemode: "tozero", automargin: true, ...yaxis },
    // Above the lines, where a legend of several rows covers no label of an axis.
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
    margin: { t: 20, r: 15, b: 45, l: 55 }, showlegend: drawn.length > 1 || tests.length > 1, ...more,
  };
  Plotly.newPlot(figure.querySelector(".plot"), drawn, layout, { responsive: true, displayModeBar: false });
}

// The search for the highest rate ------------------------------------------------------------------------------------

const searches = tests.filter((test) => test.steps.length);
const rate = { title: { text: "readings/s" }, rangemode: "tozero" };

/** Values of the steps by rate, in the order of the rates. */
function bySteps(test, label, value, more = {}) {
  const ordered = [...test.steps].sort((a, b) => a.rate_per_s - b.rate_per_s);
  return line(label, ordered.map((step) => [step.rate_per_s, value(step)]), more);
}

draw("steps", "Latency p99 by rate (crosses did not hold)", searches.flatMap((test) => {
  const ordered = [...test.steps].sort((a, b) => a.rate_per_s - b.rate_per_s);
  const symbols = ordered.map((step) => (step.held ? "circle" : "x"));
  return [["windows", (step) => step.windows_ms.p99], ["alerts", (step) => step.alerts_ms.p99],
    ["acknowledged by Kafka", (step) => step.acknowledged_ms.p99], ["the page's answer", (step) => step.page_ms.p99]]
    .map(([label, value]) => bySteps(test, label, value, { marker: { size: 8, symbol: symbols } }));
}), rate, MILLISECONDS);
draw("step-cpu", "CPU by rate, in per cent of a core", searches.flatMap((test) => {
  const roles = [...new Set(test.steps.flatMap((step) => Object.keys(step.cpu_pct)))];
  return roles.map((role) => bySteps(test, role, (step) => step.cpu_pct[role]));
}), rate, { title: { text: "%" } });

// A backlog ----------------------------------------------------------------------------------------------------------

draw("drain", "Processed after the start", tests.filter((test) => test.drain.length).flatMap((test) => [
  line("readings", test.drain.map((sample) => [sample.at_s, sample.messages]), { line: { shape: "hv" } }),
  line("alerts", test.drain.map((sample) => [sample.at_s, sample.alerts]), { yaxis: "y2", line: { shape: "hv" } }),
]), SECONDS, { title: { text: "readings" } }, {
  yaxis2: { title: { text: "alerts" }, overlaying: "y", side: "right", rangemode: "tozero", automargin: true, showgrid: false },
});

// Latency ------------------------------------------------------------------------------------------------------------

/** What has latencies: the stages of a test, or the test itself. */
const measured = tests.flatMap((test) => {
  const stages = test.stages.filter((stage) => stage.latency_curve.length);
  return stages.length ? stages.map((stage) => ({ ...stage, label: tests.length === 1 ? stage.name : `${name(test)}: ${stage.name}` }))
    : [{ ...test, label: name(test) }];
});
const rarities = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];

draw("percentiles", "Latency by percentile", measured.map((of) => line(of.label, of.latency_curve, { mode: "lines" })), {
  type: "log", tickangle: 0, tickvals: rarities, title: { text: "percentile" },
  ticktext: ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"],
}, MILLISECONDS);
draw("latency", "Latency over time (solid: p99; dotted: p50)", measured.flatMap((of, at) => [["p99", "solid"], ["p50", "dot"]].map(
  ([key, dash]) => line(of.label, of.latency_over_time.map((sample) => [sample.at_s, sample[key]]), {
    mode: "lines", line: { dash, color: colour(at) }, legendgroup: of.label, showlegend: key === "p99",
  }),
)), SECONDS, MILLISECONDS);

// Throughput, CPU and memory over time -------------------------------------------------------------------------------

/** The samples of a test. The last one may be so close to the one before it that its rates say nothing. */
function samples(test) {
  return test.timeline.filter((sample, at, all) => sample.at_s - (all[at - 1]?.at_s ?? 0) >= 0.1);
}

/** Readings acknowledged a second between each sample of a test and the one before it. */
function rates(test) {
  let before = { at_s: 0, acknowledged: 0 };
  return samples(test).map((sample) => {
    const pair = [sample.at_s, (sample.acknowledged - before.acknowledged) / (sample.at_s - before.at_s)];
    before = sample;
    return pair;
  });
}

draw("throughput", "Throughput over time", tests.map((test) => line(name(test), rates(test)))
  .filter((trace) => trace.y.some((value) => value > 0)), SECONDS, { title: { text: "readings/s" } });
draw("processes", "CPU of each process, in per cent of a core", tests.flatMap((test) => test.process_cpu.map((one) => line(
  tests.length === 1 ? one.role : `${name(test)}: ${one.role}`, one.at_s.map((at_s, at) => [at_s, one.cpu_pct[at]]), { mode: "lines" },
))), SECONDS, { title: { text: "%" } });
draw("cpu", "CPU (solid: the client, 100 % is one core; dotted: the machine)", tests.flatMap((test, at) => [
  ["cpu_pct", "solid"], ["machine_cpu_pct", "dot"],
].map(([key, dash]) => line(name(test), samples(test).map((sample) => [sample.at_s, sample[key]]), {
  mode: "lines", line: { dash, color: colour(at) }, legendgroup: name(test), showlegend: key === "cpu_pct",
}))), SECONDS, { title: { text: "%" } });
draw("memory", "Memory of the client", tests.map((test) => line(name(test), test.timeline.map((sample) => [sample.at_s, sample.memory_mb]))),
  SECONDS, { title: { text: "MB" } });

// Sweeps -------------------------------------------------------------------------------------------------------------

/** One line for each test and client that ran with more than one number of threads. */
function byThreads(value) {
  const lines = new Map();
  for (const test of tests) {
    const key = `${test.test}, ${test.client}`;
    lines.set(key, [...(lines.get(key) ?? []), test]);
  }
  return [...lines].filter(([, of]) => new Set(of.map((test) => test.threads)).size > 1).map(([key, of]) => {
    const ordered = [...of].sort((a, b) => a.threads - b.threads);
    return line(key, ordered.map((test) => [String(test.threads), value(test)]));
  });
}

const threads = { title: { text: "threads" }, type: "category" };
draw("threads", "Throughput by threads", byThreads((test) => test.throughput_per_s), threads, { title: { text: "readings/s" } });
draw("frugality", "Readings a second per 1 % CPU, by threads", byThreads((test) => test.throughput_per_cpu_pct), threads,
  { title: { text: "readings/s per 1 % CPU" } });

if (!document.querySelector("#charts figure:not(.empty)")) {
  document.getElementById("charts").className = "empty";
}
