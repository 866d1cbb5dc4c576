// Whether the node is there. When it is not, a banner says so, and the node is asked again: after 1, 2, 4 and so
// on up to 30 seconds, and at once when the machine is online again or the page is looked at. A page that
// nobody looks at asks nothing.

import { byId } from "./dom.js";

const LONGEST = 30;
/** Seconds between two looks at a node that is there. */
const USUAL = 20;
const PATIENCE = 5000;

export class Connection {
  #banner = byId("banner");
  #lost = false;
  #wait = 1;
  #timer = 0;
  #asking = false;
  #onReturn;

  /** @param {() => void} onReturn the node is there again */
  constructor(onReturn) {
    this.#onReturn = onReturn;
    const now = () => {
      this.#wait = 1;
      this.#ask();
    };
    window.addEventListener("online", now);
    document.addEventListener("visibilitychange", () =>
      document.hidden ? clearTimeout(this.#timer) : now(),
    );
    this.#later(USUAL);
  }

  /** Something came from the node. */
  there() {
    if (this.#lost) this.#found();
  }

  /** A request came to nothing: is it the node, or that request alone? */
  suspect() {
    if (!this.#lost) this.#ask();
  }

  async #ask() {
    if (this.#asking || document.hidden) return;
    this.#asking = true;
    clearTimeout(this.#timer);
    try {
      const answer = await fetch("/healthcheck", {
        cache: "no-store",
        signal: AbortSignal.timeout(PATIENCE),
      });
      if (answer.ok) this.#found();
      else this.#missed();
    } catch {
      this.#missed();
    } finally {
      this.#asking = false;
    }
  }

  #missed() {
    this.#lost = true;
    this.#banner.textContent = "Node does not answer; trying again";
    this.#banner.hidden = false;
    this.#later(this.#wait);
    this.#wait = Math.min(LONGEST, this.#wait * 2);
  }

  #found() {
    const returned = this.#lost;
    this.#lost = false;
    this.#wait = 1;
    this.#banner.hidden = true;
    this.#later(USUAL);
    if (returned) this.#onReturn();
  }

  /** @param {number} seconds */
  #later(seconds) {
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.#ask(), seconds * 1000);
  }
}
