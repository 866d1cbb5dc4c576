// What is said, on the page: one view a message.

import { copyButton } from "./copy.js";
import { button, h, icon } from "./dom.js";
import { counted, formatDuration, formatSpeed } from "./format.js";
import { LongText } from "./longtext.js";
import { AnswerText } from "./text.js";

/** @typedef {import("./conversation.js").Message} Message */

/**
 * @typedef {object} Actions
 * @property {(message: Message) => void} retry asks for this answer anew
 * @property {(message: Message) => void} goOn asks for the rest of it
 * @property {(message: Message, text: string) => void} edit asks another question in place of this one
 * @property {() => void} openKey
 */

export class Question {
  /** @param {Message} message @param {Actions} actions */
  constructor(message, actions) {
    this.message = message;
    this.#actions = actions;
    const said = new LongText("said");
    said.put(message.content);
    this.#said = said.element;
    this.#buttons = h(
      "div",
      { class: "actions" },
      button({
        icon: "edit",
        label: "Edit and ask again",
        class: "quiet small",
        onclick: () => this.#edit(),
      }),
      copyButton("Copy question", () => message.content),
    );
    this.element = h(
      "article",
      { class: "message question", "aria-label": "You" },
      this.#said,
      this.#buttons,
    );
  }

  #actions;
  #said;
  #buttons;

  #edit() {
    const text = h("textarea", { "aria-label": "Edit the question", rows: "3", value: this.message.content });
    const leave = () => {
      box.replaceWith(this.#said, this.#buttons);
      this.#buttons.querySelector("button")?.focus();
    };
    const send = () => {
      const asked = text.value.trim();
      if (asked) this.#actions.edit(this.message, asked);
    };
    const box = h(
      "div",
      { class: "edit" },
      text,
      h(
        "div",
        { class: "edit-actions" },
        button({ text: "Cancel", onclick: leave }),
        button({ text: "Ask again", class: "primary", onclick: send }),
      ),
    );
    text.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") {
        event.preventDefault();
        leave();
      } else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        send();
      }
    });
    this.#said.replaceWith(box);
    this.#buttons.remove();
    text.focus();
    text.setSelectionRange(text.value.length, text.value.length);
  }
}

export class AnswerView {
  #actions;
  #text = new AnswerText();
  /** @type {AnswerText|null} */
  #thoughts = null;
  #fold = h("summary", {});
  #details = h("details", { class: "thoughts" }, this.#fold);
  #calls = h("div", { class: "calls" });
  #note = h("div", { class: "after" });
  #foot = h("div", { class: "foot" });

  /** @param {Message} message @param {Actions} actions */
  constructor(message, actions) {
    this.message = message;
    this.#actions = actions;
    this.element = h(
      "article",
      { class: "message answer", "aria-label": "Answer" },
      this.#details,
      this.#text.element,
      this.#calls,
      this.#note,
      this.#foot,
    );
    this.#details.addEventListener("toggle", () => this.#unfold());
    this.#text.append(message.content);
    this.#showCalls();
    this.show();
  }

  /** @param {{content: string, reasoning: string, calls: boolean}} fresh */
  append(fresh) {
    if (fresh.content) this.#text.append(fresh.content);
    if (fresh.reasoning) this.#thoughts?.append(fresh.reasoning);
    if (fresh.calls) this.#showCalls();
  }

  /** What is around the text, as the message is now. `thought` are the seconds that an answer that still comes
   * has taken for its thoughts, null if it is past them. @param {number|null} [thought] */
  show(thought = null) {
    const { message } = this;
    const coming = message.state === "streaming";
    const waiting = coming && !message.content && !message.reasoning && !message.calls?.length;
    this.element.classList.toggle("coming", coming);
    this.element.classList.toggle("waiting", waiting);
    this.element.setAttribute("aria-busy", String(coming));
    this.showThought(thought);
    if (coming) {
      this.#note.replaceChildren();
      this.#foot.replaceChildren();
      return;
    }
    this.#text.finish();
    this.#thoughts?.finish();
    this.#note.replaceChildren(...this.#notes());
    this.#foot.replaceChildren(...this.#footing());
  }

  /** @param {number|null} thought as for `show` */
  showThought(thought) {
    this.#details.hidden = !this.message.reasoning;
    this.#details.classList.toggle("live", thought !== null);
    const line = thoughtLine(thought, this.message.figures?.thought);
    if (this.#fold.textContent !== line) this.#fold.textContent = line;
    this.#text.element.hidden = !this.message.content && !this.element.classList.contains("waiting");
  }

  /** Thoughts cost nothing before somebody wants to read them. */
  #unfold() {
    if (!this.#details.open || this.#thoughts) return;
    this.#thoughts = new AnswerText();
    this.#thoughts.append(this.message.reasoning ?? "");
    if (this.message.state !== "streaming") this.#thoughts.finish();
    this.#details.append(this.#thoughts.element);
  }

  #showCalls() {
    const shown = (this.message.calls ?? []).filter(Boolean).map((call) => {
      const given = h("pre", { tabindex: "0", "aria-label": "Arguments", text: pretty(call.arguments) });
      return h(
        "div",
        { class: "call" },
        h("div", {}, icon("tool"), "Calls ", h("code", { text: call.name })),
        given,
      );
    });
    this.#calls.replaceChildren(...shown);
  }

  #notes() {
    const { message } = this;
    const goOn = () => this.#actions.goOn(message);
    const retry = () => this.#actions.retry(message);
    const more = message.content && !message.calls?.length;
    const ask = more ? [button({ icon: "arrow", text: "Continue", onclick: goOn })] : [];
    switch (message.state) {
      case "stopped":
        return [h("p", { class: "state" }, h("span", { text: "Stopped" }), ...ask)];
      case "length":
        return [h("p", { class: "state" }, h("span", { text: "The limit of tokens was reached" }), ...ask)];
      case "lost": {
        const words = "The connection was lost before the answer was whole.";
        return [failureBox(words, ...ask, button({ icon: "retry", text: "Retry", onclick: retry }))];
      }
      case "failed": {
        const {
          message: words,
          status,
          retryAt,
        } = message.error ?? { message: "It failed.", status: 0, retryAt: 0 };
        const again = retryAt
          ? countdown(retryAt, retry)
          : button({ icon: "retry", text: "Retry", onclick: retry });
        const key = status === 401 ? [button({ text: "Enter the key", onclick: this.#actions.openKey })] : [];
        return [failureBox(words, ...key, ...ask, again)];
      }
      default:
        return [];
    }
  }

  #footing() {
    const { message } = this;
    const buttons = h("div", { class: "actions" });
    if (message.content) buttons.append(copyButton("Copy answer", () => message.content));
    if (message.state !== "failed" && message.state !== "lost") {
      const again = button({
        icon: "retry",
        label: "Answer again",
        class: "quiet small only-last",
        onclick: () => this.#actions.retry(message),
      });
      buttons.append(again);
    }
    return [buttons, ...figures(message)];
  }
}

/** @param {number|null} now @param {number} [whole] */
function thoughtLine(now, whole) {
  if (now !== null) return `Thinking… ${formatDuration(now)}`;
  return whole === undefined ? "Thoughts" : `Thought for ${formatDuration(whole)}`;
}

/** What is known of how an answer was made. @param {Message} message */
function figures(message) {
  const { ttft, speed, tokens, promptTokens } = message.figures ?? {};
  const parts = [message.model];
  if (tokens !== undefined) parts.push(counted(tokens, "token"));
  if (speed !== undefined) parts.push(formatSpeed(speed));
  if (ttft !== undefined) parts.push(`first after ${formatDuration(ttft)}`);
  if (message.node) parts.push(`on ${message.node}`);
  const line = parts.filter(Boolean).join(" · ");
  const more = [];
  if (promptTokens !== undefined) more.push(`${counted(promptTokens, "token")} of conversation before it`);
  if (message.route) more.push(...message.route.split("; "));
  if (!more.length) return [h("span", { class: "figures", text: line })];
  const reasons = h("ul", {}, ...more.map((each) => h("li", { text: each })));
  return [
    h(
      "details",
      { class: "figures" },
      h("summary", { text: line, title: "Why this model and this node" }),
      reasons,
    ),
  ];
}

/** @param {string} words @param {...HTMLElement} buttons */
function failureBox(words, ...buttons) {
  return h(
    "div",
    { class: "failure", role: "alert" },
    h("p", {}, icon("warn"), h("span", { text: words })),
    h("div", { class: "failure-actions" }, ...buttons),
  );
}

/** A button that says how long it is better to wait; it may be pressed before.
 * @param {number} at @param {() => void} retry */
function countdown(at, retry) {
  const words = h("span", {});
  const made = button({ icon: "retry", onclick: retry });
  made.append(words);
  const tick = () => {
    const left = Math.ceil((at - Date.now()) / 1000);
    words.textContent = left > 0 ? `Retry (better in ${left} s)` : "Retry";
    if (left > 0) setTimeout(() => made.isConnected && tick(), 1000);
  };
  tick();
  return made;
}

/** @param {string} text JSON, as far as it has come */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
