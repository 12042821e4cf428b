// The overview's figures each second, and its two charts.
import { duration, number, percent, UNKNOWN } from "./format.js";
import { stream } from "./stream.js";

const HOUR = 60; // minutes that a chart shows at most
const QUARTER = 15; // and at least
const SPOKEN_EVERY = 30_000; // ms between two readings of the figures to a screen reader
const WRITE = { throughput: number, lag: number, in_flight: number, p50: duration, p95: duration, p99: duration, cache_hit_rate: percent };
const minutes = new Map();
let spoken = 0;

stream.addEventListener("overview", ({ data }) => {
  for (const each of data.minutes ?? []) minutes.set(Date.parse(each.minute) / 1000, each);
  if (stream.paused) return;
  for (const [name, write] of Object.entries(WRITE)) {
    const figure = document.querySelector(`[data-figure="${name}"]`);
    if (!figure) continue;
    const text = write(data[name]);
    if (figure.textContent !== text) figure.textContent = text;
    figure.classList.toggle("unknown", text === UNKNOWN);
  }
  draw(Date.parse(data.at) / 1000);
  if (Date.now() - spoken > SPOKEN_EVERY) {
    spoken = Date.now();
    document.getElementById("spoken").textContent =
      `${number(data.throughput)} results a second, lag ${number(data.lag)}, p95 ${duration(data.p95)}`;
  }
});

function columns(now) {
  const newest = Math.floor(now / 60) * 60;
  for (const at of minutes.keys()) if (at <= newest - HOUR * 60) minutes.delete(at);
  const oldest = Math.min(newest, ...minutes.keys());
  const shown = Math.min(HOUR, Math.max(QUARTER, (newest - oldest) / 60 + 1));
  const times = Array.from({ length: shown }, (_, index) => newest - (shown - 1 - index) * 60);
  const of = (read, absent) => times.map((at) => (minutes.has(at) ? read(minutes.get(at)) ?? absent : absent));
  return {
    answers: [times, of((each) => each.total, 0), of((each) => each.outcomes.ok ?? 0, 0)],
    latency: [times, ...["p50", "p95", "p99"].map((name) => of((each) => each[name], null))],
  };
}

const utc = (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC");
const colour = (selector) => getComputedStyle(document.querySelector(selector), "::before").backgroundColor;
const text = () => getComputedStyle(document.querySelector(".legend")).color;
const line = () => getComputedStyle(document.querySelector(".panel")).borderTopColor;

// Of a logarithmic axis only the tens have a line.
const tens = (_, ticks) => ticks.map((at) => (Math.abs(Math.log10(at) % 1) < 1e-9 ? at : null));

function options(element, write, scale, series) {
  const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return {
    width: element.clientWidth, height: element.clientHeight, tzDate: utc, legend: { show: false },
    cursor: { y: false, points: { size: 5 }, drag: { x: false, y: false } },
    padding: [8, 20, 0, 0],
    axes: [
      { ...axis, grid: { show: false }, values: (_, ticks) => ticks.map((at) => new Date(at * 1000).toISOString().slice(11, 16)), space: 64, size: 28 },
      { ...axis, grid: { ...axis.grid, ...(scale.distr === 3 && { filter: tens }) }, values: (_, ticks) => ticks.map((tick) => (tick === null ? null : write(tick))), size: 64 },
    ],
    scales: { x: { range: (_, first, last) => [first - 40, last + 40] }, y: scale },
    series: [{}, ...series],
    hooks: { setCursor: [readOut(element, write)] },
  };
}

function readOut(element, write) {
  const legend = element.parentElement.querySelector(".legend");
  const swatches = [...legend.querySelectorAll(".swatch")];
  const names = swatches.map((each) => each.textContent);
  return (plot) => {
    const at = plot.cursor.idx;
    const row = at == null ? null : plot.data.slice(1).map((values) => values[at]);
    if (row && element.id === "chart-answers") row.splice(0, 2, row[1], row[0] - row[1]);
    swatches.forEach((each, index) => {
      each.textContent = row ? `${names[index]} ${row[index] == null ? "–" : write(row[index])}` : names[index];
    });
  };
}

function charts() {
  const answers = document.getElementById("chart-answers");
  const latency = document.getElementById("chart-latency");
  if (!answers || typeof uPlot === "undefined") return null;
  const bar = uPlot.paths.bars({ size: [0.72, 24], align: 0 });
  const bars = (selector) => ({ fill: () => colour(selector), stroke: "transparent", width: 0, paths: bar, points: { show: false } });
  const curve = (selector) => ({ stroke: () => colour(selector), width: 1.75, spanGaps: false, points: { show: true, size: 3, fill: () => colour(selector) } });
  const count = { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] };
  const log = { distr: 3, range: (_, low, high) => (low > 0 ? [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high * 1.01))] : [0.001, 1]) };
  const empty = columns(Date.now() / 1000);
  const found = [
    [answers, new uPlot(options(answers, number, count, [bars(".swatch.bad"), bars(".swatch.ok")]), empty.answers, answers), "answers"],
    [latency, new uPlot(options(latency, duration, log, [".p50", ".p95", ".p99"].map((each) => curve(`.swatch${each}`))), empty.latency, latency), "latency"],
  ];
  const sized = new ResizeObserver(() => found.forEach(([element, plot]) => plot.setSize({ width: element.clientWidth, height: element.clientHeight })));
  found.forEach(([element]) => sized.observe(element));
  return found;
}

const drawn = charts();
function draw(now) {
  const data = columns(now);
  drawn?.forEach(([, plot, name]) => plot.setData(data[name]));
}
document.addEventListener("theme", () => drawn?.forEach(([, plot]) => plot.redraw(false)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn?.forEach(([, plot]) => plot.redraw(false)));
