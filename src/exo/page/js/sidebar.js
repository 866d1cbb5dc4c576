// The list of conversations: found, renamed, exported, deleted.

import { asMarkdown, fileName } from "./conversation.js";
import { toast } from "./dialogs.js";
import { button, byId, h } from "./dom.js";
import { saveFile } from "./files.js";

/** @typedef {import("./store.js").Summary} Summary */

/** Milliseconds after the last key before conversations are looked through. */
const CALM = 150;

/**
 * @typedef {object} Around
 * @property {import("./store.js").Store} store
 * @property {() => string} open the id of the conversation that is open
 * @property {() => Set<string>} answering ids of those in which an answer is on its way
 * @property {(id: string) => Promise<void>} onDelete before a conversation is deleted
 * @property {(id: string, title: string) => Promise<void>} onRename
 */

export class Sidebar {
  #around;
  #list = byId("conversations");
  #search = byId("search");
  #timer = 0;
  #turn = 0;

  /** @param {Around} around */
  constructor(around) {
    this.#around = around;
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.draw(), CALM);
    });
    this.#search.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "ArrowDown") {
        event.preventDefault();
        this.#list.querySelector("a")?.focus();
      }
    });
    this.#list.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#move(event));
    byId("sidebar-open").addEventListener("click", () => this.unfold());
    byId("sidebar-close").addEventListener("click", () => this.fold());
    byId("scrim").addEventListener("click", () => this.fold());
    byId("sidebar").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape" && !event.defaultPrevented) this.fold();
    });
  }

  // On narrow screens it is a drawer

  unfold() {
    byId("sidebar").classList.add("open");
    byId("scrim").hidden = false;
    byId("sidebar-open").setAttribute("aria-expanded", "true");
    byId("new-chat").focus();
  }

  fold() {
    if (!byId("sidebar").classList.contains("open")) return;
    byId("sidebar").classList.remove("open");
    byId("scrim").hidden = true;
    byId("sidebar-open").setAttribute("aria-expanded", "false");
    byId("sidebar-open").focus();
  }

  search() {
    if (getComputedStyle(byId("sidebar-open")).display !== "none") this.unfold();
    this.#search.focus();
    this.#search.select();
  }

  /** Shows what is kept, or what of it is looked for. */
  async draw() {
    const turn = ++this.#turn;
    const query = this.#search.value.trim();
    const { store } = this.#around;
    const [all, found] = await Promise.all([store.list(), query ? store.find(query) : null]);
    // An earlier search that took longer is not what was asked last; and a name is being written.
    if (turn !== this.#turn || this.#list.querySelector("input")) return;
    const shown = found ? all.filter((each) => found.has(each.id)) : all;
    const focused = document.activeElement?.closest("li")?.dataset.id;
    const answering = this.#around.answering();
    this.#list.replaceChildren(...shown.map((each) => this.#item(each, answering.has(each.id))));
    if (!shown.length) {
      const words = query ? "Nothing has these words in it." : "Conversations are kept in this browser only.";
      this.#list.append(h("li", { class: "none", text: words }));
    }
    if (focused) this.#list.querySelector(`li[data-id="${focused}"] a`)?.focus();
  }

  /** @param {Summary} summary @param {boolean} answering */
  #item({ id, title }, answering) {
    const name = title || "New chat";
    const current = id === this.#around.open();
    const link = h("a", {
      href: `#/${id}`,
      title: name,
      "aria-current": current ? "page" : undefined,
      text: name,
    });
    const item = h(
      "li",
      { class: `${current ? "current" : ""} ${answering ? "answering" : ""}`, data: { id } },
      link,
      h(
        "div",
        { class: "item-actions" },
        button({
          icon: "edit",
          label: `Rename ${name}`,
          class: "quiet small",
          onclick: () => this.#rename(item, id, name),
        }),
        button({
          icon: "download",
          label: `Export ${name}`,
          class: "quiet small",
          onclick: () => this.#export(id),
        }),
        button({
          icon: "trash",
          label: `Delete ${name}`,
          class: "quiet small",
          onclick: () => this.#delete(id, name),
        }),
      ),
    );
    return item;
  }

  /** @param {HTMLElement} item @param {string} id @param {string} title */
  #rename(item, id, title) {
    const input = h("input", { value: title, "aria-label": "New name", maxlength: "200" });
    let over = false;
    const end = async (/** @type {boolean} */ keeps) => {
      if (over) return;
      over = true;
      const name = input.value.trim();
      input.remove();
      if (keeps && name && name !== title) await this.#around.onRename(id, name);
      await this.draw();
    };
    input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter");
    });
    input.addEventListener("blur", () => end(true));
    item.replaceChildren(input);
    input.select();
  }

  /** @param {string} id */
  async #export(id) {
    const conversation = await this.#around.store.get(id);
    if (conversation) saveFile(fileName(conversation, "md"), "text/markdown", asMarkdown(conversation));
  }

  /** @param {string} id @param {string} title */
  async #delete(id, title) {
    const { store } = this.#around;
    await this.#around.onDelete(id);
    const conversation = await store.get(id);
    await store.delete(id);
    await this.draw();
    const onAction = async () => {
      if (conversation) await store.put(conversation);
      await this.draw();
    };
    toast(`Deleted “${title}”`, { action: "Undo", onAction });
  }

  /** @param {KeyboardEvent} event */
  #move(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const links = [...this.#list.querySelectorAll("a")];
    const at = links.findIndex((each) => each.closest("li").contains(document.activeElement));
    const next = links[at + (event.key === "ArrowDown" ? 1 : -1)];
    if (at < 0) return;
    event.preventDefault();
    (next ?? (event.key === "ArrowUp" ? this.#search : links[at])).focus();
  }
}
