// Files: given to the reader to keep, and read from them.

import { h } from "./dom.js";

/** @param {string} name @param {string} type @param {string} text */
export function saveFile(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  h("a", { href: url, download: name }).click();
  // The browser has begun with it by then.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** The text of a file that the reader chooses; null where none is. @param {string} accept
 * @returns {Promise<string|null>} */
export function openFile(accept) {
  return new Promise((resolve) => {
    const input = h("input", { type: "file", accept });
    input.addEventListener("cancel", () => resolve(null));
    input.addEventListener("change", () => resolve(input.files?.[0]?.text() ?? null));
    input.click();
  });
}
