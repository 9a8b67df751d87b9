// The page of a film: its figures, how far people watch it, and its days.

import { get } from "./api.js";
import { chart } from "./charts.js";
import { h } from "./dom.js";
import * as format from "./format.js";
import {
  Panel, against, choice, compared, controls, csvButton, empty, figures, previous, trendSpec, window_,
} from "./parts.js";
import { write } from "./place.js";

const METRICS = { starts: "Views", unique_users: "Viewers", finishes: "Finishes" };
const STEP_SECONDS = 60;
const TICK_SECONDS = [60, 300, 600, 900, 1800, 3600, 7200, 14_400];
const MOST_TICKS = 6;

export function filmPage({ place, go, signal, entitle }) {
  const path = `/content/${place.id}`;
  const heading = h("h1", {}, `Film ${format.shortId(place.id)}`);
  const about = h("p", { class: "note" }, place.id);
  const nowHere = h("p", { class: "now-here", hidden: true });
  const control = controls(place, go);
  const summary = new Panel("Summary", { size: "small", kind: "plain" });
  const retention = new Panel("How far people watch", {
    size: "large",
    actions: [
      csvButton("How far people watch as CSV", `${path}/retention`,
        { ...window_(place), step: STEP_SECONDS }, `film-${format.shortId(place.id)}-retention.csv`),
    ],
  });
  const metric = Object.hasOwn(METRICS, place.metric) ? place.metric : "starts";
  const metrics = Object.entries(METRICS).map(([name, text]) =>
    [name, text, write({ ...place, metric: name })]);
  const trend = new Panel("Day by day", {
    size: "large",
    actions: [
      choice("Figure", metrics, metric),
      csvButton("The film's days as CSV", `${path}/trends`, window_(place),
        `film-${format.shortId(place.id)}-days.csv`),
    ],
  });

  function refresh({ slow }) {
    const work = [
      summary.show((s) => get(`${path}/stats`, compared(place), s), (answer) => {
        if (answer.title) {
          heading.textContent = answer.title;
          entitle(answer.title);
        }
        about.textContent = [
          answer.duration_seconds ? format.duration(answer.duration_seconds) : null, place.id,
        ].filter(Boolean).join(" · ");
        control.period.textContent =
          `${format.days(answer.period_start, answer.period_end)}${against(answer)}`;
        return filmFigures(answer);
      }, signal),
      trend.show((s) => get(`${path}/trends`, window_(place), s),
        (answer) => chart(trendSpec(answer, metric, METRICS[metric])), signal),
    ];
    if (slow) {
      work.push(retention.show(
        (s) => get(`${path}/retention`, { ...window_(place), step: STEP_SECONDS }, s), curve, signal));
    }
    return Promise.all(work);
  }

  return {
    title: `Film ${format.shortId(place.id)}`,
    element: [
      h("div", { class: "head" }, heading, about, nowHere),
      control.element, summary.element, retention.element, trend.element,
    ],
    refresh,
    live({ now }) {
      const here = now.movies.find((movie) => movie.movie_id === place.id)?.sessions ?? 0;
      nowHere.hidden = !here;
      nowHere.replaceChildren(h("span", { class: "pulse", "aria-hidden": "true" }),
        `${format.count(here)} watching now`);
    },
    turned: (state) => nowHere.setAttribute("data-state", state),
  };
}

function filmFigures(answer) {
  const before = previous(answer);
  const one = (name, label, text, inPoints = false) => ({
    name, label, value: answer[name] ?? "", text: answer[name] === null ? "–" : text(answer[name]),
    change: before && answer[name] !== null && before[name] !== null
      ? format.change(answer[name], before[name], inPoints) : null,
  });
  return figures([
    one("total_views", "Views", format.count),
    one("unique_viewers", "Viewers", format.count),
    one("total_watch_time_seconds", "Watch time", format.duration),
    one("mean_watch_time_seconds", "Per view", format.duration),
    one("completion_rate", "Completion", format.percent, true),
    one("mean_share_watched", "Share watched", format.percent, true),
  ]);
}

function curve(answer) {
  const { items } = answer;
  if (!answer.viewers || !items.length) {
    return empty("Nobody watched this film in these days",
      "Choose a longer period to look further back.");
  }
  const again = items.map((item) =>
    Math.round((10_000 * item.rewatchers) / answer.viewers) / 100);
  const length = items.at(-1).to_seconds;
  const between = TICK_SECONDS.find((seconds) => length <= MOST_TICKS * seconds) ?? length;
  const span = (index) =>
    `${format.place(items[index].from_seconds)} – ${format.place(items[index].to_seconds)}`;
  return chart({
    label: "Viewers of each minute of the film, in percent of all its viewers",
    count: items.length,
    most: 100,
    lines: [
      { label: "Watched", values: items.map((item) => item.share), look: "main" },
      { label: "Watched again", values: again, look: "extra" },
    ],
    ticks: (index) => items[index].from_seconds % between === 0,
    tick: (index) => format.placeShort(items[index].from_seconds),
    name: span,
    unit: (value) => format.percentShort(value),
    value: (value, index) => {
      const viewers = value === again[index] && value !== items[index].share
        ? items[index].rewatchers : items[index].viewers;
      return `${format.percent(value)} (${format.count(viewers)})`;
    },
    columns: ["Part", "Viewers", "Share", "Watched again"],
    row: (index) => [
      span(index), format.count(items[index].viewers), format.percent(items[index].share),
      format.count(items[index].rewatchers),
    ],
  });
}
