// Lines, drawn by Chart.js. Each chart has its figures as a table too.

import { h } from "./dom.js";

const charts = new Set();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** What is drawn of a line: where it ends dotted, its area apart, which would have a seam there. */
function dressed(line) {
  const drawn = looking(line);
  if (!line.open) return [drawn];
  const area = { data: line.values, fill: "origin", backgroundColor: drawn.backgroundColor,
    borderWidth: 0, pointRadius: 0, pointHoverRadius: 0 };
  return [{ ...drawn, fill: false }, area];
}

function looking(line) {
  const accent = colour("--accent");
  const strong = { borderColor: accent, backgroundColor: colour("--accent-wash"), borderWidth: 2.25 };
  const looks = {
    main: { ...strong, fill: "origin" },
    before: { borderColor: colour("--before"), borderWidth: 1.5, borderDash: [4, 4], fill: false },
    extra: { ...strong, borderWidth: 1.25, backgroundColor: colour("--accent-half"), fill: "origin" },
  };
  return {
    label: line.label,
    data: line.values,
    pointRadius: line.values.length === 1 ? 3 : 0,
    pointHoverRadius: 4,
    pointBackgroundColor: accent,
    pointHitRadius: 12,
    borderJoinStyle: "round",
    // A day that is not over yet is no fall.
    segment: line.open
      ? { borderDash: (part) => (part.p1DataIndex === line.values.length - 1 ? [2, 4] : undefined) }
      : undefined,
    ...looks[line.look],
  };
}

function options(spec) {
  const muted = colour("--muted");
  const font = { family: getComputedStyle(document.body).fontFamily, size: 12 };
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    layout: { padding: { top: 8 } },
    interaction: { mode: "index", intersect: false },
    scales: {
      x: {
        border: { display: false },
        grid: { display: false },
        ticks: {
          color: muted, font, maxRotation: 0, autoSkip: !spec.ticks, autoSkipPadding: 28,
          callback: (_, index) => (spec.ticks && !spec.ticks(index) ? null : spec.tick(index)),
        },
      },
      y: {
        beginAtZero: true,
        suggestedMax: spec.most ?? 4,
        border: { display: false },
        grid: { color: colour("--line"), drawTicks: false },
        ticks: { color: muted, font, padding: 10, maxTicksLimit: 5, precision: 0, callback: spec.unit },
      },
    },
    plugins: {
      legend: { display: false },
      tooltip: {
        backgroundColor: colour("--ink"),
        titleColor: colour("--surface"),
        bodyColor: colour("--surface"),
        titleFont: { ...font, weight: 600 },
        bodyFont: font,
        padding: 12,
        cornerRadius: 8,
        boxWidth: 8,
        boxHeight: 8,
        usePointStyle: true,
        filter: (item) => item.dataset.label !== undefined,
        callbacks: {
          title: ([item]) => spec.name(item.dataIndex),
          label: (item) => ` ${item.dataset.label}: ${spec.value(item.raw, item.dataIndex)}`,
          labelColor: (item) => ({
            borderColor: item.dataset.borderColor, backgroundColor: item.dataset.borderColor,
          }),
        },
      },
    },
  };
}

/**
 * A chart, and its table.
 *
 * @param spec label: what it shows, in words; lines: [{label, values, look}] with a look of "main",
 *   "before" or "extra", and open: whether its last value is still growing; count; tick, name: of
 *   a place along it; ticks: which places have a tick, instead of as many as there is room for; unit, value: of a figure;
 *   columns, row: of the table; most: up to where it goes at least.
 */
export function chart(spec) {
  const canvas = h("canvas", { role: "img", "aria-label": spec.label });
  const figure = h(
    "figure",
    { class: "chart" },
    h("div", { class: spec.low ? "plot low" : "plot" }, canvas),
    spec.lines.length > 1 ? legend(spec.lines) : null,
    asTable(spec),
  );
  // Its size is known when it is in the page.
  queueMicrotask(() => draw(canvas, spec));
  return figure;
}

function draw(canvas, spec) {
  if (!canvas.isConnected) return;
  const drawn = new window.Chart(canvas, {
    type: "line",
    data: {
      labels: Array.from({ length: spec.count }, (_, index) => index),
      datasets: spec.lines.flatMap(dressed),
    },
    options: options(spec),
  });
  charts.add({ canvas, drawn, spec });
}

function legend(lines) {
  return h(
    "p",
    { class: "legend", "aria-hidden": "true" },
    lines.map((line) => h("span", { class: `key ${line.look}` }, line.label)),
  );
}

function asTable(spec) {
  const details = h("details", { class: "as-table" }, h("summary", {}, "As a table"));
  // Made when it is wanted: a year has many rows.
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const rows = Array.from({ length: spec.count }, (_, index) => {
      const [head, ...cells] = spec.row(index);
      return h("tr", {}, h("th", { scope: "row" }, head), cells.map((cell) => h("td", {}, cell)));
    });
    const heads = spec.columns.map((name) => h("th", { scope: "col" }, name));
    details.append(
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": spec.label },
        h("table", {}, h("caption", { class: "unseen" }, spec.label),
          h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows)),
      ),
    );
  });
  return details;
}

/** Whether a table under this element is open: then it isn't replaced under its reader's eyes. */
export const isRead = (element) => element.querySelector("details[open]") !== null;

/** Let go of the charts that are no longer in the page. */
export function tidy() {
  for (const one of charts) {
    if (one.canvas.isConnected) continue;
    one.drawn.destroy();
    charts.delete(one);
  }
}

window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const one of charts) {
    one.drawn.data.datasets = one.spec.lines.flatMap(dressed);
    one.drawn.options = options(one.spec);
    one.drawn.update();
  }
});
