// An answer as it comes: the events of a stream put into a message. Pure.

import { said } from "./api.js";

/** @typedef {import("./conversation.js").Message} Message */

export class Answer {
  /** Whether the node said that it is whole. */
  done = false;
  #message;
  #now;
  #began;
  /** @type {number|null} */
  #first = null;
  /** @type {number|null} */
  #thinking = null;
  #thought = 0;
  #finish = "";

  /**
   * @param {Message} message gets all that comes, behind what is in it
   * @param {() => number} now a clock, in milliseconds
   */
  constructor(message, now = () => performance.now()) {
    this.#message = message;
    this.#now = now;
    this.#began = now();
    this.#thought = message.figures?.thought ?? 0;
    // Of an answer that is gone on with, the first part's figures say nothing of the second.
    message.figures = this.#thought ? { thought: this.#thought } : {};
  }

  /** Seconds of thinking so far. */
  get thought() {
    return this.#thought + (this.#thinking === null ? 0 : (this.#now() - this.#thinking) / 1000);
  }

  get isThinking() {
    return this.#thinking !== null;
  }

  /**
   * Takes the data of an event. Raises `ApiError` for one that tells of a failure.
   *
   * @param {string} data
   * @returns {{content: string, reasoning: string, calls: boolean}} what is new
   */
  take(data) {
    const fresh = { content: "", reasoning: "", calls: false };
    if (data === "[DONE]") {
      this.done = true;
      return fresh;
    }
    const chunk = JSON.parse(data);
    // It is too late for a status by then; what stands there is the nearest.
    if (chunk.error) throw said(chunk, 502, null);
    if (chunk.model) this.#message.model = chunk.model;
    if (chunk.timings) this.#measure(chunk.timings);
    if (chunk.usage) this.#count(chunk.usage);
    const choice = chunk.choices?.[0];
    if (!choice) return fresh;
    if (choice.finish_reason) this.#finish = choice.finish_reason;
    const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
    if (reasoning) {
      this.#come();
      this.#thinking ??= this.#now();
      this.#message.reasoning = (this.#message.reasoning ?? "") + reasoning;
      fresh.reasoning = reasoning;
    }
    if (content || calls?.length) {
      this.#come();
      this.#endThought();
    }
    if (content) {
      this.#message.content += content;
      fresh.content = content;
    }
    for (const call of calls ?? []) this.#call(call);
    fresh.calls = Boolean(calls?.length);
    return fresh;
  }

  /** Nothing more comes. @param {import("./conversation.js").State} [state] why, where it is not whole */
  end(state) {
    this.#endThought();
    const whole = this.#finish === "length" ? "length" : "done";
    this.#message.state = state ?? (this.done ? whole : "lost");
    const figures = this.#message.figures ?? {};
    if (figures.speed === undefined && figures.tokens && this.#first !== null) {
      const seconds = (this.#now() - this.#first) / 1000;
      if (seconds > 0) figures.speed = figures.tokens / seconds;
    }
  }

  #come() {
    if (this.#first !== null) return;
    this.#first = this.#now();
    this.#figures.ttft = (this.#first - this.#began) / 1000;
  }

  #endThought() {
    if (this.#thinking === null) return;
    this.#thought = this.thought;
    this.#thinking = null;
    this.#figures.thought = this.#thought;
  }

  /** llama.cpp's figures of the engine itself, where the node has them: no network is in them.
   * @param {any} timings */
  #measure({ predicted_n: tokens, predicted_ms: ms }) {
    if (tokens && ms) this.#figures.speed = (tokens * 1000) / ms;
  }

  /** @param {any} usage */
  #count(usage) {
    this.#figures.promptTokens = usage.prompt_tokens;
    this.#figures.tokens = usage.completion_tokens;
  }

  /** The name comes first, then the arguments in pieces. @param {any} given */
  #call(given) {
    const calls = (this.#message.calls ??= []);
    const call = (calls[given.index] ??= { name: "", arguments: "" });
    call.name += given.function?.name ?? "";
    call.arguments += given.function?.arguments ?? "";
  }

  get #figures() {
    return (this.#message.figures ??= {});
  }
}
