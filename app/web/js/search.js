// Finding a film by its title, or a film or a viewer by an id.

import { get } from "./api.js";
import { h } from "./dom.js";
import { shortId } from "./format.js";
import { isId, write } from "./place.js";

const PAUSE_MS = 150;

/** The field. `where` gives the place that we are at. */
export function search(where) {
  const input = h("input", {
    type: "search", placeholder: "Find a film or an id", "aria-label": "Find a film or an id",
    autocomplete: "off", spellcheck: "false", maxlength: "100",
  });
  const found = h("div", { class: "found", hidden: true, role: "region", "aria-label": "Found" });
  const box = h("div", { class: "finder" }, input, found);
  let timer = 0;
  let asked = null;

  function show(links) {
    found.replaceChildren(...links);
    found.hidden = false;
  }

  function hide() {
    clearTimeout(timer);
    asked?.abort();
    found.hidden = true;
  }

  const link = (page, id, text, kind) =>
    h("a", { href: write({ ...where(), page, id }) }, h("span", {}, text), h("small", {}, kind));

  async function look(text) {
    asked?.abort();
    asked = new AbortController();
    const { signal } = asked;
    if (isId(text)) {
      const id = text.toLowerCase();
      show([link("film", id, shortId(id), "Film"), link("viewer", id, shortId(id), "Viewer")]);
      return;
    }
    try {
      const answer = await get("/catalog/movies", { q: text, limit: 8 }, signal);
      show(answer.items.length
        ? answer.items.map((movie) =>
            link("film", movie.movie_id, movie.title, movie.released ?? ""))
        : [h("p", {}, "No film has these words in its title.")]);
    } catch (error) {
      if (!signal.aborted) show([h("p", {}, error.message)]);
    }
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    const text = input.value.trim();
    if (text) timer = setTimeout(look, PAUSE_MS, text);
    else hide();
  });
  box.addEventListener("keydown", (event) => {
    const links = [...found.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    if (event.key === "Escape") {
      hide();
      input.value = "";
      input.focus();
    } else if (event.key === "ArrowDown" && links.length && !found.hidden) {
      event.preventDefault();
      links[Math.min(at + 1, links.length - 1)].focus();
    } else if (event.key === "ArrowUp" && at >= 0) {
      event.preventDefault();
      (at ? links[at - 1] : input).focus();
    } else if (event.key === "Enter" && event.target === input && links.length && !found.hidden) {
      links[0].click();
    }
  });
  box.addEventListener("focusout", (event) => {
    if (!box.contains(event.relatedTarget)) setTimeout(hide, 100);
  });
  found.addEventListener("click", () => {
    hide();
    input.value = "";
  });
  return box;
}
