/** Elements of the page. Every text enters as text, never as HTML. */

export const element = (id) => document.getElementById(id);

/** Sets the text of an element if it differs. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** A new element with a class and a text. */
export function make(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** Shows an icon of templates/icons.svg in an `<svg>` element. */
export function setIcon(svg, name) {
  svg.firstElementChild.setAttribute("href", `#icon-${name}`);
}
