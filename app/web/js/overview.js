// The first page: what is watched now, and how the days have been.

import { get } from "./api.js";
import { chart } from "./charts.js";
import { h, styled, unseen } from "./dom.js";
import * as format from "./format.js";
import {
  Panel, against, choice, compared, controls, csvButton, empty, figures, film, previous, table, trendSpec, window_,
} from "./parts.js";
import { METRICS, write } from "./place.js";

const FILMS_NOW = 6;
const HOURS_WITH_TICKS = ["00:00", "06:00", "12:00", "18:00"];
const WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

export function overview({ place, go, signal }) {
  const now = nowBand(place);
  const control = controls(place, go);
  const summary = new Panel("Summary", { size: "small", kind: "plain" });
  const metrics = Object.entries(METRICS).map(([name, text]) =>
    [name, text, write({ ...place, metric: name })]);
  const trend = new Panel("Day by day", {
    size: "large",
    actions: [
      choice("Figure", metrics, place.metric),
      csvButton("Days as CSV", "/trends", window_(place), "days.csv"),
    ],
  });
  const popular = new Panel("Popular films", {
    size: "large",
    actions: [
      csvButton("Popular films as CSV", "/content/popular", { ...window_(place), limit: 100 },
        "popular-films.csv"),
    ],
  });
  const heat = { days: Math.max(28, place.days), tz: place.tz };
  const heatmap = new Panel("When people watch", {
    actions: [csvButton("Hours of the week as CSV", "/heatmap", heat, "hours-of-the-week.csv")],
  });
  const concurrency = new Panel("Last 24 hours", { size: "low", kind: "inner", level: "h3" });
  concurrency.note.textContent = "sessions in the busiest minute of each quarter of an hour";
  now.element.append(concurrency.element);
  summary.body.replaceChildren(skeleton());

  // The watch time takes longer than the rest, which is not kept waiting for it.
  let counts = null;
  let watched = null;
  const drawSummary = () => summaryFigures(counts, watched);

  function refresh({ slow }) {
    const window = compared(place);
    const work = [
      summary.show((s) => get("/overview", window, s), (answer) => {
        counts = answer;
        control.period.textContent =
          `${format.days(answer.period_start, answer.period_end)}${against(answer)}`;
        return drawSummary();
      }, signal),
      trend.show((s) => get("/trends", window, s),
        (answer) => chart(trendSpec(answer, place.metric, METRICS[place.metric])), signal),
      popular.show((s) => get("/content/popular", { ...window, limit: 10 }, s),
        (answer) => popularFilms(answer, place), signal),
    ];
    if (slow) {
      work.push(
        heatmap.show((s) => get("/heatmap", heat, s), (answer) => {
          heatmap.note.textContent = format.days(answer.period_start, answer.period_end);
          return hoursOfTheWeek(answer);
        }, signal),
        concurrency.show((s) => get("/concurrency", { hours: 24, bucket_minutes: 15 }, s),
          (answer) => atTheSameTime(answer, place), signal),
        get("/watch-time", window, signal).then((answer) => {
          watched = answer;
          if (counts && !signal.aborted) summary.body.replaceChildren(drawSummary());
        }).catch(() => {}),
      );
    }
    return Promise.all(work);
  }

  return {
    title: "Overview",
    element: [
      h("h1", { class: "unseen" }, "Overview"),
      now.element,
      control.element,
      summary.element,
      trend.element,
      popular.element,
      heatmap.element,
    ],
    refresh,
    live: now.show,
    turned: now.turned,
  };
}

const skeleton = () => figures(
  ["Views", "Viewers", "Watch time", "Completion"].map((label) =>
    ({ name: "waiting", label, value: "", text: "–" })));

function nowBand(place) {
  const sessions = h("p", { class: "big", "data-figure": "sessions" }, "–");
  const about = h("p", { class: "sub" }, "\u00a0");
  const films = h("div", { class: "now-films" });
  const today = h("div", { class: "today" });
  const element = h(
    "section",
    { class: "panel now", "aria-label": "Watching now" },
    h("div", { class: "now-figure" },
      h("h2", {}, h("span", { class: "pulse", "aria-hidden": "true" }), "Watching now"),
      sessions, about),
    films,
    today,
  );

  function show({ now, today: day, events_per_second: rate }) {
    sessions.textContent = format.count(now.sessions);
    sessions.dataset.value = now.sessions;
    about.replaceChildren(
      h("span", { "data-figure": "viewers", "data-value": now.viewers },
        `${format.count(now.viewers)} ${now.viewers === 1 ? "viewer" : "viewers"}`),
      " · ",
      h("span", { "data-figure": "events_per_second", "data-value": rate },
        `${format.decimal(rate)} events a second`),
    );
    films.replaceChildren(nowFilms(now.movies, place));
    today.replaceChildren(
      h("h3", {}, "Today so far"),
      figures([
        { name: "today.total_views", label: "Views", value: day.total_views,
          text: format.count(day.total_views) },
        { name: "today.unique_viewers", label: "Viewers", value: day.unique_viewers,
          text: format.count(day.unique_viewers) },
        { name: "today.finishes", label: "Finishes", value: day.finishes,
          text: format.count(day.finishes) },
        { name: "today.completion_rate", label: "Completion", value: day.completion_rate,
          text: format.percent(day.completion_rate) },
      ]),
    );
  }

  return { element, show, turned: (state) => element.setAttribute("data-state", state) };
}

function nowFilms(movies, place) {
  if (!movies.length) {
    return empty("All quiet", "A film appears here as soon as somebody starts it.");
  }
  const most = movies[0].sessions;
  const rest = movies.length - FILMS_NOW;
  return h(
    "ol",
    {},
    movies.slice(0, FILMS_NOW).map((movie) =>
      styled(
        h("li", {}, film(movie, place),
          h("span", { class: "value", "data-figure": "now.sessions" }, format.count(movie.sessions),
            unseen(" watching"))),
        "--share", String(movie.sessions / most))),
    rest > 0
      ? h("li", { class: "rest" }, `and ${format.count(rest)} more ${rest === 1 ? "film" : "films"}`)
      : null,
  );
}

function summaryFigures(counts, watched) {
  const before = previous(counts);
  const number = (name, label) => ({
    name, label, value: counts[name], text: format.count(counts[name]),
    change: before && format.change(counts[name], before[name]),
  });
  const seconds = watched?.total_watch_time_seconds;
  return figures([
    number("total_views", "Views"),
    number("unique_viewers", "Viewers"),
    {
      name: "total_watch_time_seconds", label: "Watch time", value: seconds ?? "",
      text: watched ? format.duration(seconds) : "…",
      hint: watched ? `${format.count(seconds)} seconds` : null,
      change: watched && previous(watched) &&
        format.change(seconds, watched.previous.total_watch_time_seconds),
    },
    {
      name: "completion_rate", label: "Completion", value: counts.completion_rate,
      text: format.percent(counts.completion_rate),
      change: before && format.change(counts.completion_rate, before.completion_rate, true),
    },
  ]);
}

function popularFilms(answer, place) {
  if (!answer.items.length) {
    return empty("Nothing was watched in these days", "Choose a longer period to look further back.");
  }
  const most = answer.items[0].total_views || 1;
  const before = previous(answer)?.items;
  return table(
    "Popular films",
    [
      { label: "Film" }, { label: "Views", number: true },
      ...(before ? [{ label: "Change", number: true, minor: true }] : []),
      { label: "Viewers", number: true, minor: true },
      { label: "Completion", number: true },
    ],
    answer.items.map((item, index) => {
      const change = before && format.change(item.total_views, before[index].total_views);
      return {
        share: item.total_views / most,
        cells: [
          film(item, place),
          format.count(item.total_views),
          ...(before ? [h("span", { class: `change ${change.way}` }, change.text)] : []),
          format.count(item.unique_viewers),
          format.percent(item.completion_rate),
        ],
      };
    }),
  );
}

function hoursOfTheWeek(answer) {
  const most = Math.max(...answer.items.map((item) => item.events_count));
  if (!most) return empty("Nothing was watched in these days", "The week fills as people watch.");
  const hours = Array.from({ length: 24 }, (_, hour) =>
    h("th", { scope: "col", class: hour % 6 ? "unlabelled" : null },
      h("span", {}, hour % 6 ? unseen(format.hour(hour)) : String(hour).padStart(2, "0"))));
  const rows = WEEKDAYS.map((name, index) => {
    const cells = answer.items
      .filter((item) => item.weekday === index + 1)
      .map((item) => {
        const text = `${name} ${format.hour(item.hour)}: ${format.count(item.events_count)} events, ` +
          `${format.count(item.unique_users)} viewers`;
        return styled(
          h("td", { title: text, "data-value": item.events_count },
            unseen(format.count(item.events_count))),
          "--heat", String(item.events_count / most));
      });
    return h("tr", {}, h("th", { scope: "row" }, name), cells);
  });
  const scale = h("p", { class: "scale", "aria-hidden": "true" }, "Fewer",
    [0, 0.25, 0.5, 0.75, 1].map((heat) => styled(h("i"), "--heat", String(heat))), "More events");
  return [
    h("table", { class: "heat" },
      h("caption", { class: "unseen" }, "Events in each hour of the week"),
      h("thead", {}, h("tr", {}, h("td"), hours)), h("tbody", {}, rows)),
    scale,
  ];
}

function atTheSameTime(answer, place) {
  const values = answer.items.map((item) => item.sessions);
  const time = (index) => format.clock(answer.items[index].time, place.tz).slice(0, 5);
  return chart({
    label: "Sessions in the busiest minute of each quarter of an hour, the last 24 hours",
    low: true,
    count: values.length,
    lines: [{ label: "Sessions", values, look: "main" }],
    ticks: (index) => HOURS_WITH_TICKS.includes(time(index)),
    tick: time,
    name: time,
    unit: (value) => format.countShort(value),
    value: (value) => format.count(value),
    columns: ["From", "Sessions"],
    row: (index) => [time(index), format.count(values[index])],
  });
}
