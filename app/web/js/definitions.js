// What the figures mean, in the words of the README.

import { h } from "./dom.js";

export function definitions({ signal }) {
  const text = h("div", { class: "words", "aria-busy": "true" });

  async function refresh() {
    if (text.childElementCount) return;
    const answer = await fetch(new URL("../definitions.md", import.meta.url), { signal });
    text.replaceChildren(...blocks(await answer.text()));
    text.setAttribute("aria-busy", "false");
  }

  return {
    title: "Definitions",
    element: [
      h("div", { class: "head" }, h("h1", {}, "Definitions"),
        h("p", { class: "note" }, "What every figure of this page and of the API means.")),
      h("section", { class: "panel" }, text),
    ],
    refresh,
  };
}

/** Paragraphs and lists of Markdown; a block ends at an empty line, an item at the next one. */
function blocks(markdown) {
  return markdown.trim().split(/\n{2,}/).map((block) => {
    if (block.startsWith("### ")) return h("h2", {}, inline(block.slice(4)));
    if (!block.startsWith("- ")) return h("p", {}, inline(block));
    return h("ul", {}, block.slice(2).split(/\n- /).map((item) => h("li", {}, inline(item))));
  });
}

const MARKS = /\*\*(.+?)\*\*|`([^`]+)`|\[([^\]]+)\]\(([^)]+)\)/s;

/** Bold, code and links within a text. Links lead out of the README's folder: only their words. */
function inline(text) {
  const joined = text.replace(/\s*\n\s*/g, " ");
  const found = MARKS.exec(joined);
  if (!found) return [joined];
  const [all, bold, code, link] = found;
  const element = bold ? h("strong", {}, inline(bold)) : code ? h("code", {}, code) : link;
  return [
    joined.slice(0, found.index), element, ...inline(joined.slice(found.index + all.length)),
  ];
}
