// An answer's text on the page, while it comes and after: blocks that are settled stay as they are, and only
// the last one is made anew, at most once a frame, and seldom where that takes long.

import { Blocks } from "./blocks.js";
import { codeBlock } from "./code.js";
import { h } from "./dom.js";
import { inFrames } from "./frames.js";
import { rendered } from "./markdown.js";
import { LongText } from "./longtext.js";

/** The last block is made anew so that this much of the time is left for everything else. */
const SHARE = 4;

export class AnswerText {
  #blocks = new Blocks();
  /** @type {{element: any, kind: string, put: (text: string, settled: boolean) => void}[]} */
  #shown = [];
  #settled = 0;
  #due = 0;

  constructor() {
    this.element = h("div", { class: "markdown" });
  }

  /** @param {string} piece */
  append(piece) {
    this.#blocks.feed(piece);
    inFrames(this);
  }

  finish() {
    this.#blocks.finish();
    this.#due = 0;
    inFrames(this);
  }

  /** @param {number} until @returns {boolean} whether there is more to do */
  work(until) {
    const { blocks } = this.#blocks;
    while (this.#settled < blocks.length && blocks[this.#settled].settled) {
      if (performance.now() >= until) return true;
      this.#put(this.#settled);
      this.#settled += 1;
    }
    if (this.#settled === blocks.length) return false;
    const began = performance.now();
    if (began < this.#due) return true;
    this.#put(this.#settled);
    const took = performance.now() - began;
    this.#due = took > 2 ? began + took * (SHARE + 1) : 0;
    return false;
  }

  /** @param {number} index */
  #put(index) {
    const block = this.#blocks.blocks[index];
    const kind = block.kind === "markdown" && block.plain ? "plain" : block.kind;
    let shown = this.#shown[index];
    if (!shown || shown.kind !== kind) {
      const made = this.#made(kind, block.language);
      if (shown) shown.element.replaceWith(made.element);
      else this.element.append(made.element);
      shown = this.#shown[index] = made;
    }
    shown.put(this.#blocks.shown(block), block.settled);
  }

  /** @param {string} kind @param {string} language */
  #made(kind, language) {
    if (kind === "code") return { kind, ...codeBlock(language) };
    if (kind === "plain") {
      const text = new LongText("block plain");
      return { kind, element: text.element, put: (/** @type {string} */ whole) => text.put(whole) };
    }
    const element = h("div", { class: "block" });
    let last = "";
    const put = (/** @type {string} */ text) => {
      if (text === last) return;
      last = text;
      element.replaceChildren(rendered(text));
      for (const code of element.querySelectorAll("pre > code")) nestedCode(code);
      for (const table of element.querySelectorAll("table")) {
        const frame = h("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" });
        table.replaceWith(frame);
        frame.append(table);
      }
    };
    return { kind, element, put };
  }
}

/** A code block in a list or a quotation. @param {HTMLElement} code */
function nestedCode(code) {
  const language = code.className.replace(/^language-/, "");
  const made = codeBlock(language);
  made.put(code.textContent ?? "", true);
  code.parentElement?.replaceWith(made.element);
}
