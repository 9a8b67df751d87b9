// Figures and times as people read them.

const LANGUAGE = "en-GB";
const whole = new Intl.NumberFormat(LANGUAGE);
const oneDigit = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 1 });
const twoDigits = new Intl.NumberFormat(LANGUAGE, {
  minimumFractionDigits: 2, maximumFractionDigits: 2,
});
const short = new Intl.NumberFormat(LANGUAGE, { notation: "compact", maximumFractionDigits: 1 });

const NARROW = "\u202f";

export const count = (value) => whole.format(value);
export const countShort = (value) => short.format(value);
export const decimal = (value) => oneDigit.format(value);
export const percent = (value) => `${twoDigits.format(value)}${NARROW}%`;
export const percentShort = (value) => `${oneDigit.format(value)}${NARROW}%`;

/** Seconds as hours and minutes. */
export function duration(seconds) {
  const hours = Math.floor(seconds / 3600);
  if (hours >= 100) return `${whole.format(Math.round(seconds / 3600))}${NARROW}h`;
  const minutes = Math.floor((seconds % 3600) / 60);
  if (hours) return `${hours}${NARROW}h ${minutes}${NARROW}min`;
  if (minutes) return `${minutes}${NARROW}min`;
  return `${Math.floor(seconds)}${NARROW}s`;
}

/** A place in a film: 1:05:00. */
export function place(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const minutes = Math.floor(seconds / 60);
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`;
}

/** The same to the minute: 1:05. */
export const placeShort = (seconds) => place(seconds).slice(0, -3);

/** Of a value and the one before: a text, and which way it went. Rates differ in points. */
export function change(value, before, inPoints = false) {
  const difference = value - before;
  const way = difference > 0 ? "up" : difference < 0 ? "down" : "same";
  if (way === "same") return { way, text: "no change" };
  const sign = way === "up" ? "+" : "\u2212";
  if (inPoints) return { way, text: `${sign}${decimal(Math.abs(difference))} points` };
  if (!before) return { way, text: "new" };
  const share = (100 * Math.abs(difference)) / before;
  const text = share >= 1000 ? `×${decimal(value / before)}` : `${sign}${percentShort(share)}`;
  return { way, text };
}

// Dates of the service are days, whatever zone they are in.
const day = (options) => {
  const format = new Intl.DateTimeFormat(LANGUAGE, { ...options, timeZone: "UTC" });
  return (date) => format.format(new Date(`${date}T00:00:00Z`));
};
export const dayShort = day({ day: "numeric", month: "short" });
export const dayLong = day({ weekday: "short", day: "numeric", month: "short", year: "numeric" });
const dayOfYear = day({ day: "numeric", month: "short", year: "numeric" });

/** Days from one to another: "20 – 26 Nov 2026". */
export function days(first, last) {
  if (first === last) return dayLong(last);
  const [year, month] = last.split("-");
  const from = first.startsWith(`${year}-${month}`)
    ? String(Number(first.slice(8)))
    : first.startsWith(year) ? dayShort(first) : dayOfYear(first);
  return `${from} – ${dayOfYear(last)}`;
}

/** An instant, on the clock of a zone. */
export function clock(instant, timeZone, withDay = false) {
  const options = withDay
    ? { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" }
    : { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  return new Intl.DateTimeFormat(LANGUAGE, { ...options, timeZone }).format(new Date(instant));
}

export const shortId = (id) => id.slice(0, 8);
export const hour = (number) => `${String(number).padStart(2, "0")}:00`;
