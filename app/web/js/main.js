// Puts the page together: the place in the address, the view for it, and what comes live.

import { tidy } from "./charts.js";
import { definitions } from "./definitions.js";
import { h } from "./dom.js";
import { filmPage } from "./film.js";
import { clock, count } from "./format.js";
import { listen } from "./live.js";
import { overview } from "./overview.js";
import { empty } from "./parts.js";
import { isId, read, write } from "./place.js";
import { search } from "./search.js";
import { viewerPage } from "./viewer.js";

const VIEWS = { overview, film: filmPage, viewer: viewerPage, definitions };
// While events come in, figures are asked for so often; what takes the service longer, less often.
const REFRESH_MS = 5_000;
const SLOW_REFRESH_MS = 60_000;

const main = document.getElementById("main");
const status = document.getElementById("status");

let place = read(location);
let view = null;
let leaving = new AbortController();
let stopListening = null;
let listeningTo = null;
let snapshot = null;
let state = "connecting";
let shownEvents = null;
let shownDay = null;
let refreshedAt = 0;
let slowAt = 0;

function go(next) {
  history.pushState(null, "", write(next));
  arrive();
}

/** Show what the address says. */
function arrive({ scroll = false } = {}) {
  const left = place;
  const before = panels();
  const focused = nameOf(document.activeElement);
  place = read(location);
  leaving.abort();
  leaving = new AbortController();
  const known = VIEWS[place.page] && (!["film", "viewer"].includes(place.page) || isId(place.id));
  if (known && location.pathname + location.search !== write(place)) {
    history.replaceState(null, "", write(place));
  }
  view = known
    ? VIEWS[place.page]({ place, go, signal: leaving.signal, entitle })
    : { title: "Not found", element: [empty("There is no such page", "The id may be incomplete.")] };
  main.replaceChildren(...view.element);
  const stays = left.page === place.page && left.id === place.id;
  if (stays) keepFigures(before);
  if (scroll) {
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  tidy();
  entitle(view.title);
  for (const link of document.querySelectorAll(".top [data-keep]")) {
    const page = link.pathname === "/definitions" ? "definitions" : "overview";
    link.href = write({ ...place, page });
    const here = page === place.page && !link.classList.contains("brand");
    link.toggleAttribute("aria-current", false);
    if (here) link.setAttribute("aria-current", "page");
  }
  hear();
  view?.turned?.(state);
  if (snapshot) view.live?.(snapshot);
  if (stays && focused) {
    [...main.querySelectorAll("a, button, select, summary")]
      .find((element) => nameOf(element) === focused)
      ?.focus({ preventScroll: true });
  }
  refresh(true);
}

const panels = () => [...main.querySelectorAll("section.panel")];

/** What is on the page stays until its new figures come. */
function keepFigures(before) {
  for (const panel of panels()) {
    const label = panel.getAttribute("aria-label");
    const old = before.find((one) => one.getAttribute("aria-label") === label);
    const body = old?.querySelector(":scope > .body.filled");
    if (!body) continue;
    const ours = panel.querySelector(":scope > .body");
    ours.replaceChildren(...body.childNodes);
    ours.classList.add("filled");
  }
}

/** What tells a control of the page from the others, also after it was made anew. */
function nameOf(element) {
  if (!main.contains(element) || element === main) return null;
  const within = element.closest("[aria-label]")?.getAttribute("aria-label");
  const text = element.tagName === "SELECT" ? "" : element.textContent;
  return [element.tagName, within, text].join("|");
}

function entitle(title) {
  view.title = title;
  const watching = snapshot?.now.sessions;
  document.title = `${watching ? `${count(watching)} watching · ` : ""}${title} · Cinema`;
}

function refresh(slow) {
  refreshedAt = performance.now();
  if (slow) slowAt = refreshedAt;
  shownEvents = snapshot?.today.events_count ?? null;
  shownDay = snapshot?.today.date ?? null;
  view.refresh?.({ slow })?.catch?.(() => {});
}

/** Ask again what may have changed, if somebody looks. */
function keepFresh() {
  if (document.hidden || !snapshot || state !== "live") return;
  if (shownEvents === null) {
    shownEvents = snapshot.today.events_count;
    shownDay = snapshot.today.date;
    return;
  }
  const newDay = snapshot.today.date !== shownDay;
  if (snapshot.today.events_count === shownEvents && !newDay) return;
  const now = performance.now();
  if (newDay || now >= slowAt + SLOW_REFRESH_MS) refresh(true);
  else if (now >= refreshedAt + REFRESH_MS) refresh(false);
}

function hear() {
  if (listeningTo === place.tz) return;
  stopListening?.();
  listeningTo = place.tz;
  stopListening = listen(
    place.tz,
    (message) => {
      snapshot = message;
      view.live?.(message);
      entitle(view.title);
      keepFresh();
    },
    turn,
  );
}

function turn(next) {
  const came = next === "live" && state !== "live" && state !== "connecting";
  state = next;
  document.body.dataset.state = next;
  view?.turned?.(next);
  const since = snapshot ? ` Figures of ${clock(snapshot.as_of, place.tz)}.` : "";
  const text = {
    live: "Live",
    stale: `The store doesn't answer.${since}`,
    away: `Connection lost, trying again.${since}`,
    connecting: "Connecting",
  }[next];
  if (status.dataset.text !== text) {
    status.dataset.text = text;
    status.replaceChildren(h("span", { class: "pulse", "aria-hidden": "true" }), text);
  }
  if (came) refresh(true);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey ||
      event.shiftKey || event.altKey || link.hasAttribute("download")) return;
  const known = VIEWS[read(link).page] !== undefined;
  if (link.origin !== location.origin || !known || link.hash) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  arrive({ scroll: link.dataset.stay === undefined });
});
window.addEventListener("popstate", () => {
  // Not for another spot on the same page, where the skip link leads.
  if (write(read(location)) !== write(place)) arrive();
});
window.addEventListener("key", () => snapshot || refresh(true));
document.addEventListener("visibilitychange", keepFresh);
setInterval(keepFresh, 1000);

document.getElementById("search").append(search(() => place));
turn("connecting");
arrive();
