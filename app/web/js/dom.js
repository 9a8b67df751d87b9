// Elements without markup in strings: nothing that comes from the service is ever read as HTML.

/** An element. Attributes that are null or false are left out; `on…` are listeners. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** The same element with a custom property, which the style sheet makes use of. */
export function styled(element, property, value) {
  element.style.setProperty(property, value);
  return element;
}

/** Text for those who hear the page. */
export const unseen = (text) => h("span", { class: "unseen" }, text);
