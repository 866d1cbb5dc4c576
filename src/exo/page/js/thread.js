// The messages of the conversation that is open, and where its reader is in them.

import { byId } from "./dom.js";
import { afterFrames } from "./frames.js";
import { AnswerView, Question } from "./messages.js";

/** @typedef {import("./conversation.js").Message} Message */

/** Pixels from the end within which a reader is at the end. */
const NEAR = 48;

export class Thread {
  #element = byId("messages");
  #scroll = byId("scroll");
  #jump = byId("jump");
  /** @type {Map<string, Question|AnswerView>} */
  #views = new Map();
  #actions;
  #follows = true;
  #top = 0;

  /** @param {import("./messages.js").Actions} actions */
  constructor(actions) {
    this.#actions = actions;
    this.#scroll.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#jump.addEventListener("click", () => {
      this.toEnd();
      byId("composer-text").focus();
    });
    // What grows after a frame, as an unfolded thought, is seen by the observer.
    afterFrames(() => this.#follow());
    const watching = new ResizeObserver(() => this.#follow());
    watching.observe(this.#element);
    watching.observe(this.#scroll);
  }

  /** @param {Message[]} messages */
  show(messages) {
    this.#views.clear();
    this.#element.replaceChildren();
    for (const message of messages) this.add(message);
    this.toEnd();
  }

  /** @param {Message} message */
  add(message) {
    const kind = message.role === "user" ? Question : AnswerView;
    const view = new kind(message, this.#actions);
    this.#views.set(message.id, view);
    this.#element.append(view.element);
  }

  /** Takes away all but these. @param {Message[]} messages */
  keep(messages) {
    const ids = new Set(messages.map((each) => each.id));
    for (const [id, view] of this.#views) {
      if (ids.has(id)) continue;
      view.element.remove();
      this.#views.delete(id);
    }
  }

  /** The view of an answer, if it is on the page. @param {Message} message @returns {AnswerView|null} */
  answer(message) {
    const view = this.#views.get(message.id);
    return view instanceof AnswerView && view.message === message ? view : null;
  }

  toEnd() {
    this.#follows = true;
    this.#follow();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroll;
    const left = scrollHeight - clientHeight - scrollTop;
    // Only who scrolls up leaves the end: an answer that grows does not move its reader away.
    if (left <= NEAR) this.#follows = true;
    else if (scrollTop < this.#top) this.#follows = false;
    this.#top = scrollTop;
    this.#showJump(left);
  }

  #follow() {
    if (this.#follows) this.#scroll.scrollTop = this.#scroll.scrollHeight;
    this.#top = this.#scroll.scrollTop;
    this.#showJump(this.#scroll.scrollHeight - this.#scroll.clientHeight - this.#top);
  }

  /** @param {number} left */
  #showJump(left) {
    this.#jump.hidden = this.#follows || left <= NEAR;
  }
}
