// What both panels are made of: lists that keep their elements, bars and lines without inline styles.

import { h } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * @template T
 * @typedef {{element: HTMLElement, update: (item: T) => void}} View
 */

/**
 * A list that keeps an element for each item for as long as the item is there, so that focus, selections and
 * open menus outlive what is told every second.
 *
 * @template T
 */
export class Keyed {
  /** @type {Map<string, View<T>>} */
  #views = new Map();
  #parent;
  #key;
  #make;

  /** @param {HTMLElement} parent @param {(item: T) => string} key @param {(item: T) => View<T>} make */
  constructor(parent, key, make) {
    this.#parent = parent;
    this.#key = key;
    this.#make = make;
  }

  /** @param {T[]} items */
  show(items) {
    const keys = new Set(items.map(this.#key));
    for (const [key, view] of this.#views) {
      if (keys.has(key)) continue;
      this.#views.delete(key);
      view.element.remove();
    }
    let next = this.#parent.firstElementChild;
    for (const item of items) {
      const key = this.#key(item);
      const view = this.#views.get(key) ?? this.#make(item);
      this.#views.set(key, view);
      if (view.element === next) next = next.nextElementSibling;
      else this.#parent.insertBefore(view.element, next);
      view.update(item);
    }
  }
}

/** Sets a text, and leaves alone what says so already. @param {Element} element @param {string} text */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Says a text, and hides the element where there is none. @param {HTMLElement} element @param {string} text */
export function sayOrHide(element, text) {
  say(element, text);
  element.hidden = !text;
}

/**
 * Facts in a line, which breaks between them only.
 *
 * @param {(string|number|false|null|undefined)[]} facts those that are empty are left out
 */
export function inLine(facts) {
  return facts
    .filter(Boolean)
    .map((each) => String(each).replaceAll(" ", "\u00a0"))
    .join(" · ");
}

/** @param {string} tag @param {Record<string, string|number>} given @param {...Element} children */
function svg(tag, given, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(given)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/**
 * A bar: how full something is ("meter"), or how far ("progressbar").
 *
 * @param {"meter"|"progressbar"} role
 * @param {string} label
 * @returns {{element: HTMLElement, set: (fraction: number|null, text: string, level?: ""|"warn"|"danger") => void}}
 *   `set` takes null for a progress that is not known yet
 */
export function bar(role, label) {
  const fill = svg("rect", { class: "bar-fill", x: 0, y: 0, width: 0, height: 1 });
  const drawn = svg("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" }, fill);
  const element = h("div", { class: "bar", role, "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 });
  element.append(drawn);
  return {
    element,
    set(fraction, text, level = "") {
      const percent = fraction === null ? null : Math.round(1000 * Math.min(1, Math.max(0, fraction))) / 10;
      fill.setAttribute("width", String(percent ?? 100));
      if (percent === null) element.removeAttribute("aria-valuenow");
      else element.setAttribute("aria-valuenow", String(Math.round(percent)));
      element.setAttribute("aria-valuetext", text);
      element.dataset.level = percent === null ? "unknown" : level;
    },
  };
}

export const LINE = { width: 120, height: 28 };

/**
 * A small line of values over time.
 *
 * @returns {{element: SVGElement, set: (paths: {line: string, area: string}, label: string) => void}}
 */
export function sparkline() {
  const area = svg("path", { class: "spark-area" });
  const line = svg("path", { class: "spark-line" });
  // A margin, as the line is half outside where it is at the top or the bottom.
  const viewBox = `0 -1 ${LINE.width} ${LINE.height + 2}`;
  const element = svg("svg", { class: "spark", role: "img", viewBox, preserveAspectRatio: "none" }, area, line);
  return {
    element: /** @type {SVGElement} */ (element),
    set(paths, label) {
      area.setAttribute("d", paths.area);
      line.setAttribute("d", paths.line);
      element.setAttribute("aria-label", label);
    },
  };
}

/** What a request to the node failed with, in words that say what to do. @param {any} error @returns {string} */
export function reason(error) {
  if (error.name !== "ApiError") throw error;
  if (error.status === 403 && !error.message.includes("EXO_API_KEY")) {
    return `${error.message} (From another machine this takes a key: set EXO_API_KEY where exo runs.)`;
  }
  return error.message;
}
