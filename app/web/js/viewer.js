// The page of a viewer: figures and films.

import { get } from "./api.js";
import { h } from "./dom.js";
import * as format from "./format.js";
import { Panel, controls, csvButton, empty, figures, film, table, window_ } from "./parts.js";

export function viewerPage({ place, go, signal }) {
  const path = `/user/${place.id}`;
  const control = controls(place, go);
  const summary = new Panel("Summary", { size: "small", kind: "plain" });
  const films = new Panel("Films", {
    size: "large",
    actions: [
      csvButton("The viewer's films as CSV", `${path}/movies`, window_(place),
        `viewer-${format.shortId(place.id)}-films.csv`),
    ],
  });

  function refresh() {
    return Promise.all([
      summary.show((s) => get(`${path}/stats`, window_(place), s), (answer) => {
        control.period.textContent = format.days(answer.period_start, answer.period_end);
        return viewerFigures(answer);
      }, signal),
      films.show((s) => get(`${path}/movies`, window_(place), s),
        (answer) => viewerFilms(answer, place), signal),
    ]);
  }

  return {
    title: `Viewer ${format.shortId(place.id)}`,
    element: [
      h("div", { class: "head" }, h("h1", {}, `Viewer ${format.shortId(place.id)}`),
        h("p", { class: "note" }, place.id)),
      control.element, summary.element, films.element,
    ],
    refresh,
  };
}

function viewerFigures(answer) {
  const one = (name, label, text) => ({
    name, label, value: answer[name], text: text(answer[name]),
  });
  return figures([
    one("total_watch_time_seconds", "Watch time", format.duration),
    one("unique_movies_watched", "Films", format.count),
    one("movies_started", "Views", format.count),
    one("movies_finished", "Finishes", format.count),
    one("completion_rate", "Completion", format.percent),
  ]);
}

function viewerFilms(answer, place) {
  if (!answer.items.length) {
    return empty("This viewer watched nothing in these days",
      "Choose a longer period, or check the id.");
  }
  const most = answer.items[0].watch_time_seconds || 1;
  return table(
    "Films of this viewer",
    [
      { label: "Film" }, { label: "Watch time", number: true },
      { label: "Views", number: true, minor: true }, { label: "Finishes", number: true, minor: true },
      { label: "Last watched", number: true },
    ],
    answer.items.map((item) => ({
      share: item.watch_time_seconds / most,
      cells: [
        film(item, place),
        format.duration(item.watch_time_seconds),
        format.count(item.starts),
        format.count(item.finishes),
        format.clock(item.last_watched, place.tz, true),
      ],
    })),
  );
}
