// What is shown, as the address says it: a link shows the same to whoever opens it.

export const RANGES = [
  [1, "Today"],
  [7, "7 days"],
  [28, "28 days"],
  [90, "90 days"],
  [365, "Year"],
];
export const METRICS = {
  starts: "Views",
  unique_users: "Viewers",
  finishes: "Finishes",
  unique_movies: "Films",
};
const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
export const isId = (text) => ID.test(text);

/** The zones that this browser knows, its own and UTC first. */
export function zones() {
  const every = Intl.supportedValuesOf ? Intl.supportedValuesOf("timeZone") : [];
  return [...new Set([ownZone(), "UTC", ...every])];
}

export const ownZone = () => Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

function isZone(name) {
  try {
    return Boolean(name && Intl.DateTimeFormat("en", { timeZone: name }));
  } catch {
    return false;
  }
}

/** Of an address: the page, what it is about, and the window. What can't be is the default. */
export function read(location) {
  const [, kind = "", id = ""] = location.pathname.split("/");
  const query = new URLSearchParams(location.search);
  const days = Number(query.get("days"));
  const metric = query.get("metric");
  return {
    page: { "": "overview", films: "film", viewers: "viewer" }[kind] ?? kind,
    id: decodeURIComponent(id).toLowerCase(),
    days: Number.isInteger(days) && days >= 1 && days <= 365 ? days : 7,
    tz: isZone(query.get("tz")) ? query.get("tz") : ownZone(),
    metric: Object.hasOwn(METRICS, metric ?? "") ? metric : "starts",
  };
}

/** The address of a place. Window and zone are always in it. */
export function write(place) {
  const path = {
    overview: "/",
    film: `/films/${place.id}`,
    viewer: `/viewers/${place.id}`,
    definitions: "/definitions",
  }[place.page];
  const query = new URLSearchParams({ days: place.days, tz: place.tz });
  if (place.metric !== "starts") query.set("metric", place.metric);
  return `${path}?${query}`.replaceAll("%2F", "/");
}
