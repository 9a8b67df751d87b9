// The connection to what is happening now, and its coming back.

import { openLive } from "./api.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
// A connection may be dead without a word, after a laptop has slept, say: a new one tells.
const SILENCE_MS = 60_000;

/**
 * Calls `told` with each snapshot, and `turned` with "live", "stale" (the store doesn't answer) or
 * "away" when it changes. Returns a function that ends it.
 */
export function listen(tz, told, turned) {
  let socket = null;
  let timer = 0;
  let wait = FIRST_WAIT_MS;
  let ended = false;

  function connect() {
    clearTimeout(timer);
    const mine = openLive(tz);
    const before = socket;
    socket = mine;
    mine.onmessage = (event) => {
      if (socket !== mine) return;
      before?.close();
      wait = FIRST_WAIT_MS;
      clearTimeout(timer);
      timer = setTimeout(connect, SILENCE_MS);
      const message = JSON.parse(event.data);
      if (message.type === "snapshot") {
        turned("live");
        told(message);
      } else if (message.type === "unavailable") {
        turned("stale");
      }
    };
    mine.onclose = () => {
      if (ended || socket !== mine) return;
      turned("away");
      clearTimeout(timer);
      // Not all at once, when a service with many listeners has come back.
      timer = setTimeout(connect, wait * (0.5 + Math.random()));
      wait = Math.min(2 * wait, LONGEST_WAIT_MS);
    };
  }

  function again() {
    wait = FIRST_WAIT_MS;
    connect();
  }

  connect();
  window.addEventListener("online", again);
  window.addEventListener("key", again);
  return () => {
    ended = true;
    clearTimeout(timer);
    window.removeEventListener("online", again);
    window.removeEventListener("key", again);
    socket.close();
  };
}
