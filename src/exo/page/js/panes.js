// The panels at the right: one open at a time, known by the id of its element.

import { byId } from "./dom.js";

/** @typedef {(id: string) => void} Listener */

export class Panes {
  /** @type {Map<string, {open: (() => void)[], close: (() => void)[], opener: HTMLButtonElement}>} */
  #panes = new Map();
  #open = "";

  /** @param {Record<string, string>} openers ids of panels, and of the buttons that open them */
  constructor(openers) {
    for (const [id, opener] of Object.entries(openers)) {
      const pane = { open: [], close: [], opener: byId(opener) };
      this.#panes.set(id, pane);
      pane.opener.addEventListener("click", () => (this.#open === id ? this.close() : this.open(id)));
    }
    for (const each of document.querySelectorAll("[data-closes]")) {
      each.addEventListener("click", () => this.close());
    }
    document.addEventListener("keydown", (event) => {
      const within = this.#open && byId(this.#open).contains(document.activeElement);
      if (event.key !== "Escape" || !within || event.defaultPrevented) return;
      event.preventDefault();
      this.close();
    });
  }

  /** @param {string} id @param {() => void} listener */
  onOpen(id, listener) {
    this.#of(id).open.push(listener);
  }

  /** @param {string} id @param {() => void} listener */
  onClose(id, listener) {
    this.#of(id).close.push(listener);
  }

  /** @param {string} id */
  open(id) {
    if (this.#open === id) return;
    this.#shut();
    const pane = this.#of(id);
    this.#open = id;
    byId(id).hidden = false;
    pane.opener.setAttribute("aria-expanded", "true");
    byId(id).querySelector("[data-closes]").focus();
    for (const listener of pane.open) listener();
  }

  close() {
    const opener = this.#open && this.#of(this.#open).opener;
    this.#shut();
    if (opener) opener.focus();
  }

  #shut() {
    if (!this.#open) return;
    const pane = this.#of(this.#open);
    byId(this.#open).hidden = true;
    pane.opener.setAttribute("aria-expanded", "false");
    this.#open = "";
    for (const listener of pane.close) listener();
  }

  /** @param {string} id */
  #of(id) {
    const pane = this.#panes.get(id);
    if (!pane) throw new Error(`there is no panel called ${id}`);
    return pane;
  }
}
