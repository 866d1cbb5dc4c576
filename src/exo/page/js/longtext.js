// Text of any length that grows at its end, in pieces that are laid out by themselves: so adding to a megabyte
// costs no more than adding to a page.

import { h } from "./dom.js";

const PIECE = 16384;

export class LongText {
  #length = 0;
  /** @type {Text|null} */
  #last = null;

  /** @param {string} kind @param {string} [tag] */
  constructor(kind, tag = "div") {
    this.element = h(tag, { class: kind });
  }

  /** @param {string} whole what is shown from now on; it begins with what was shown before */
  put(whole) {
    while (this.#length < whole.length) {
      if (!this.#last) {
        this.#last = document.createTextNode("");
        this.element.append(h("span", { class: "piece" }, this.#last));
      }
      const end = pieceEnd(whole, this.#length, this.#length + PIECE - this.#last.length);
      const full = end < whole.length || this.#last.length + end - this.#length >= PIECE;
      // The end of a piece is the end of a line already, for the eye and for who selects and copies.
      this.#last.appendData(whole.slice(this.#length, full && whole[end - 1] === "\n" ? end - 1 : end));
      this.#length = end;
      if (full) this.#last = null;
    }
  }
}

/** Where a piece ends that may reach to `most`: behind the last line that fits, if there is one, and never
 * within a character. @param {string} text @param {number} from @param {number} most */
function pieceEnd(text, from, most) {
  if (text.length <= most) return text.length;
  const line = text.lastIndexOf("\n", most - 1) + 1;
  if (line > from) return line;
  const pair = text.charCodeAt(most - 1);
  return pair >= 0xd800 && pair < 0xdc00 ? most + 1 : most;
}
