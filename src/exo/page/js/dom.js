// Elements without markup: nothing that was written elsewhere is ever read as HTML here.

/**
 * An element. Keys that begin with "on" are listeners, `class` and `text` are what they say, `data` are data
 * attributes, and true and false set or leave out an attribute. Other values are attributes as they stand.
 *
 * @param {string} tag
 * @param {Record<string, any>} [given]
 * @param {...(Node|string|null|undefined|false)} children
 * @returns {any}
 */
export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "value") element.value = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

/** The element with this id, which is in index.html. @param {string} id @returns {any} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no element called ${id}`);
  return found;
}

/**
 * A button with an icon, and with words or, where it has none, with a name for who cannot see it.
 *
 * @param {{icon?: string, text?: string, label?: string, class?: string, onclick: (event: MouseEvent) => void}} given
 * @returns {HTMLButtonElement}
 */
export function button({ icon: name, text, label, onclick, class: kind = "" }) {
  const made = h("button", { type: "button", class: kind, onclick, "aria-label": label, title: label });
  if (name) made.append(icon(name));
  if (text) made.append(h("span", { text }));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

// Paths in a square of 24, drawn by a line of 2.
const ICONS = {
  arrow: "M5 12h14M13 6l6 6-6 6",
  auto: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  box: "M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
  check: "M5 12.5l4.5 4.5L19 7.5",
  chevron: "M9 6l6 6-6 6",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  down: "M12 5v14M6 13l6 6 6-6",
  download: "M12 4v11M7 11l5 5 5-5M4 20h16",
  edit: "M4 20h4L19.5 8.5l-4-4L4 16zM13.5 6.5l4 4",
  help: "M9.5 9a2.6 2.6 0 1 1 3.6 2.5c-.8.4-1.1.9-1.1 2M12 17v.01M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z",
  light:
    "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M5 19l1.4-1.4M17.6 6.4L19 5",
  menu: "M4 7h16M4 12h16M4 17h16",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  nodes: "M5 5h5v5H5zM14 14h5v5h-5zM10 7.5h6.5V14M7.5 10v6.5H14",
  plus: "M12 5v14M5 12h14",
  retry: "M20 5v5h-5M4 19v-5h5M19.4 10A8 8 0 0 0 5.7 7.3M4.6 14a8 8 0 0 0 13.7 2.7",
  send: "M12 19V5M6 11l6-6 6 6",
  settings:
    "M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM12 3v3M12 18v3M3 12h3M18 12h3M5.6 5.6l2.1 2.1M16.3 16.3l2.1 2.1M5.6 18.4l2.1-2.1M16.3 7.7l2.1-2.1",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  stop: "M7 7h10v10H7z",
  tool: "M14.5 5.5a4 4 0 0 0 4.8 5.2L11 19a2.1 2.1 0 0 1-3-3l8.3-8.3z",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13",
  warn: "M12 4L2.5 20h19zM12 10v4M12 17v.01",
};

/** @param {keyof typeof ICONS | string} name */
export function icon(name) {
  const drawn = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  for (const [key, value] of [
    ["viewBox", "0 0 24 24"],
    ["class", "icon"],
    ["aria-hidden", "true"],
  ]) {
    drawn.setAttribute(key, value);
  }
  path.setAttribute("d", ICONS[name]);
  drawn.append(path);
  return drawn;
}

/** Puts the icons into the buttons of index.html that name one. */
export function drawIcons() {
  for (const each of document.querySelectorAll("[data-icon]")) each.prepend(icon(each.dataset.icon));
}
