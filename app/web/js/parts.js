// What the pages are made of: panels with their states, figures, tables, controls.

import { download } from "./api.js";
import { isRead, tidy } from "./charts.js";
import { h, styled } from "./dom.js";
import * as format from "./format.js";
import { RANGES, write, zones } from "./place.js";

/** A part of a page that has an answer of its own, and shows how it stands with it. */
export class Panel {
  /** @param size reserved for what is to come, so that nothing jumps: small, medium or large. */
  constructor(title, { actions = [], size = "medium", kind = "", level = "h2" } = {}) {
    this.title = h(level, {}, title);
    this.note = h("p", { class: "note" });
    this.body = h("div", { class: `body ${size}` }, h("div", { class: "waiting" }));
    this.element = h(
      "section",
      { class: `panel ${kind}`, "aria-label": title },
      h("header", {}, h("div", {}, this.title, this.note), h("div", { class: "actions" }, actions)),
      this.body,
    );
    this.body.setAttribute("aria-busy", "true");
    this.filled = false;
  }

  /**
   * Ask, and fill the body with what `draw` makes of the answer. What is there stays until then,
   * and when the question fails.
   *
   * @param ask a function of a signal; draw: from an answer to an element or several.
   */
  async show(ask, draw, signal) {
    if (isRead(this.body)) return;
    this.body.setAttribute("aria-busy", "true");
    try {
      const answer = await ask(signal);
      if (signal.aborted) return;
      this.body.replaceChildren(...[draw(answer)].flat());
      this.filled = true;
      this.body.classList.add("filled");
      this.element.classList.remove("stale");
      tidy();
    } catch (error) {
      if (signal.aborted) return;
      if (this.filled) {
        this.element.classList.add("stale");
      } else {
        const again = h("button", { class: "button", type: "button" }, "Try again");
        again.addEventListener("click", () => this.show(ask, draw, signal));
        this.body.replaceChildren(
          h("div", { class: "failed", role: "alert" },
            h("p", {}, h("strong", {}, "This can't be shown now."), " ", error.message), again),
        );
      }
    } finally {
      if (!signal.aborted) this.body.setAttribute("aria-busy", "false");
    }
  }
}

export const empty = (title, text) =>
  h("div", { class: "empty" }, h("p", {}, h("strong", {}, title)), h("p", {}, text));

/** Figures side by side. Of each: [name, label, value, text, change, unit for hearing]. */
export function figures(every) {
  return h("dl", { class: "figures" }, every.map((one) => figure(one)));
}

function figure({ name, label, value, text, change, hint }) {
  return h(
    "div",
    { title: hint },
    h("dt", {}, label),
    h("dd", {},
      h("span", { class: "value", "data-figure": name, "data-value": String(value) }, text),
      change ? h("span", { class: `change ${change.way}` }, change.text) : null),
  );
}

/** A table. Of columns: {label, number}; a row: cells, the first its head. */
export function table(label, columns, rows) {
  const head = columns.map(({ label: text, number, minor }) =>
    h("th", { scope: "col", class: cellClass(number, minor) }, text));
  const body = rows.map(({ cells, share }) => {
    const row = h("tr", {}, cells.map((cell, index) => {
      const { number, minor } = columns[index];
      return h(index ? "td" : "th", { scope: index ? null : "row", class: cellClass(number, minor) },
        cell);
    }));
    return share === undefined ? row : styled(row, "--share", String(share));
  });
  return h("table", { class: "list" }, h("caption", { class: "unseen" }, label),
    h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
}

const cellClass = (number, minor) =>
  [number ? "number" : "", minor ? "minor" : ""].join(" ").trim() || null;

export function film(movie, place) {
  const title = movie.title ?? null;
  return h(
    "a",
    {
      class: title ? "film" : "film untitled",
      href: write({ ...place, page: "film", id: movie.movie_id }),
      title: title ? null : movie.movie_id,
      "data-movie": movie.movie_id,
    },
    title ?? `Film ${format.shortId(movie.movie_id)}`,
  );
}

/** A button that saves a list as a file. `query` may be a function of the moment. */
export function csvButton(label, path, query, name) {
  const button = h("button", { class: "button quiet", type: "button", "aria-label": label }, "CSV");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await download(path, query, name);
      button.textContent = "CSV";
    } catch {
      button.textContent = "Failed";
    } finally {
      button.disabled = false;
    }
  });
  return button;
}

/** A choice of links, one of which is where we are. */
export function choice(label, options, current) {
  return h(
    "nav",
    { class: "choice", "aria-label": label },
    options.map(([name, text, href]) =>
      h("a", { href, "aria-current": name === current ? "true" : null, "data-stay": true }, text)),
  );
}

/** The window: its heading, and what chooses it. `period` gets the days when they are known. */
export function controls(place, go) {
  const named = RANGES.find(([days]) => days === place.days)?.[1];
  const text = place.days === 1 ? "Today" : place.days === 365 ? "Last year" : `Last ${place.days} days`;
  const period = h("p", { class: "note", "data-figure": "period" }, "\u00a0");
  const zone = h("select", { "aria-label": "Time zone" },
    [...new Set([place.tz, ...zones()])].map((name) =>
      h("option", { value: name, selected: name === place.tz }, name.replaceAll("_", " "))));
  zone.addEventListener("change", () => go({ ...place, tz: zone.value }));
  const ranges = named ? RANGES : [...RANGES, [place.days, `${place.days} days`]];
  return {
    period,
    element: h(
      "div",
      { class: "controls" },
      h("div", { class: "title" }, h("h2", {}, text), period),
      choice("Period", ranges.map(([days, label]) => [days, label, write({ ...place, days })]),
        place.days),
      h("label", { class: "zone" }, zone),
    ),
  };
}

// Of a longer period the one before is not kept as a whole.
const LONGEST_COMPARED = Number(
  document.querySelector("meta[name=longest-compared-days]").content,
);

export const window_ = (place) => ({ days: place.days, tz: place.tz });
export const compared = (place) =>
  place.days > LONGEST_COMPARED ? window_(place) : { ...window_(place), compare: "previous" };

/** The answer's period before, if there was anything in it: else there is nothing to compare. */
export function previous(answer) {
  const before = answer.previous;
  const rows = before?.items ?? [before ?? {}];
  const figures = rows.flatMap((row) => Object.values(row));
  return figures.some((value) => typeof value === "number" && value > 0) ? before : null;
}

/** What an answer compares with. */
export function against(answer) {
  const before = previous(answer);
  return before ? ` compared with ${format.days(before.period_start, before.period_end)}` : "";
}

/** The trend of an answer's days, with the days before dashed. */
export function trendSpec(answer, metric, name) {
  const values = answer.items.map((item) => item[metric]);
  const earlier = previous(answer)?.items;
  const before = earlier?.map((item) => item[metric]);
  const date = (index) => answer.items[index].date;
  return {
    label: `${name} a day, ${format.days(answer.period_start, answer.period_end)}`,
    count: values.length,
    lines: [
      { label: name, values, look: "main", open: true },
      ...(before ? [{ label: "Period before", values: before, look: "before" }] : []),
    ],
    tick: (index) => format.dayShort(date(index)),
    name: (index) => format.dayLong(date(index)),
    unit: (value) => format.countShort(value),
    value: (value) => format.count(value),
    columns: ["Day", name, ...(before ? ["Day before", name] : [])],
    row: (index) => [
      format.dayLong(date(index)),
      format.count(values[index]),
      ...(before
        ? [format.dayLong(earlier[index].date), format.count(before[index])]
        : []),
    ],
  };
}
