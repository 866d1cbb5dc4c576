// Conversations, and the answers that are on their way: in the one that is open, and in others behind it.

import { Answer } from "./answer.js";
import { ApiError } from "./api.js";
import { newConversation, newId, requestBody, titleOf } from "./conversation.js";
import { announce } from "./dialogs.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {import("./conversation.js").Message} Message */
/** @typedef {{conversation: Conversation, message: Message, answer: Answer, abort: AbortController}} Run */

/** Milliseconds between two times that an answer under way is kept. */
const KEEP = 3000;

/**
 * @typedef {object} Around
 * @property {import("./api.js").Api} api
 * @property {import("./store.js").Store} store
 * @property {import("./thread.js").Thread} thread
 * @property {(conversation: Conversation) => void} onOpen another conversation is open
 * @property {() => void} onChange the open one has more or fewer messages, or an answer began or ended
 * @property {(conversation: Conversation) => void} onKept a conversation has another title, or another time
 * @property {(error: any) => void} onNotKept the browser would not keep a conversation
 * @property {(route: string) => string} nodeOf which node a route names
 * @property {() => string} model the one that is chosen
 * @property {() => import("./conversation.js").Settings} defaults
 */

export class Chat {
  #around;
  /** @type {Conversation} */
  #open;
  /** @type {Map<string, Run>} */
  #runs = new Map();

  /** @param {Around} around */
  constructor(around) {
    this.#around = around;
    this.#open = newConversation("", around.defaults());
  }

  get conversation() {
    return this.#open;
  }

  /** Whether an answer of the open conversation is on its way. */
  get isAnswering() {
    return this.#runs.has(this.#open.id);
  }

  /** Ids of the conversations in which an answer is on its way. */
  get answering() {
    return new Set(this.#runs.keys());
  }

  openNew() {
    this.#show(newConversation(this.#around.model(), this.#around.defaults()));
  }

  /** Returns whether there is such a conversation. @param {string} id */
  async open(id) {
    const found = this.#runs.get(id)?.conversation ?? (await this.#around.store.get(id));
    if (!found) return false;
    for (const message of found.messages) {
      // The page was left while it came.
      if (message.state === "streaming" && !this.#runs.has(id)) message.state = "lost";
    }
    this.#show(found);
    return true;
  }

  /** @param {Conversation} conversation */
  #show(conversation) {
    this.#open = conversation;
    this.#around.thread.show(conversation.messages);
    this.#around.onOpen(conversation);
    this.#around.onChange();
  }

  /** Asks a question in the open conversation. @param {string} text */
  send(text) {
    const conversation = this.#open;
    /** @type {Message} */
    const question = { id: newId(), role: "user", content: text };
    conversation.messages.push(question);
    conversation.title ||= titleOf(text);
    this.#around.thread.add(question);
    this.#answer(conversation);
  }

  /** Asks another question in place of one, and forgets what came after it.
   * @param {Message} message @param {string} text */
  edit(message, text) {
    const conversation = this.#open;
    this.stop();
    conversation.messages.length = conversation.messages.indexOf(message);
    this.#around.thread.keep(conversation.messages);
    this.send(text);
  }

  /** Asks for an answer anew. @param {Message} message */
  retry(message) {
    const conversation = this.#open;
    this.stop();
    conversation.messages.length = conversation.messages.indexOf(message);
    this.#around.thread.keep(conversation.messages);
    this.#answer(conversation);
  }

  /** Asks for the rest of the last answer. @param {Message} message */
  goOn(message) {
    if (this.isAnswering || message !== this.#open.messages.at(-1)) return;
    this.#answer(this.#open, message);
  }

  /** Stops the answer; what has come of it stays. @param {string} [id] of another conversation */
  stop(id = this.#open.id) {
    const run = this.#runs.get(id);
    if (!run) return;
    run.abort.abort();
    // At once, and not when the stream has noticed: what comes next may take the message away.
    this.#finish(run, "stopped");
  }

  stopAll() {
    for (const id of this.answering) this.stop(id);
  }

  /** Keeps the open conversation, if anything was said in it. */
  async keep() {
    if (this.#open.messages.length) await this.#keep(this.#open);
  }

  /** @param {Conversation} conversation @param {Message|null} [begun] the answer to go on with */
  async #answer(conversation, begun = null) {
    const { api, thread } = this.#around;
    const body = requestBody(conversation, { goOn: begun !== null });
    const message = begun ?? {
      id: newId(),
      role: /** @type {const} */ ("assistant"),
      content: "",
      model: conversation.model,
    };
    Object.assign(message, { state: "streaming", error: null });
    const run = { conversation, message, answer: new Answer(message), abort: new AbortController() };
    this.#runs.set(conversation.id, run);
    if (!begun) {
      conversation.messages.push(message);
      thread.add(message);
    }
    thread.answer(message)?.show();
    if (conversation === this.#open) {
      thread.toEnd();
      this.#around.onChange();
    }
    this.#touch(conversation);
    const ticking = setInterval(() => this.#tick(run), 500);
    const keeping = setInterval(() => this.#keep(conversation), KEEP);
    let begins = true;
    try {
      await api.stream("/v1/chat/completions", body, {
        signal: run.abort.signal,
        onOpen: (headers) => {
          message.route = headers.get("x-exo-route") ?? "";
          message.node = this.#around.nodeOf(message.route);
        },
        onEvent: ({ data }) => {
          if (run.abort.signal.aborted) return;
          const fresh = run.answer.take(data);
          const view = thread.answer(message);
          view?.append(fresh);
          if (begins && (fresh.content || fresh.reasoning || fresh.calls)) {
            begins = false;
            view?.show(run.answer.isThinking ? run.answer.thought : null);
            if (conversation === this.#open) announce("The answer begins");
          } else if (fresh.content && message.content.length === fresh.content.length) {
            this.#tick(run);
          }
        },
      });
      this.#finish(run);
    } catch (error) {
      this.#failed(run, error);
    } finally {
      clearInterval(ticking);
      clearInterval(keeping);
    }
  }

  /** @param {Run} run @param {any} error */
  #failed(run, error) {
    const { message } = run;
    if (error.name === "AbortError") return this.#finish(run, "stopped");
    if (error.code === "connection_lost" && message.content) return this.#finish(run, "lost");
    const known = error instanceof ApiError;
    message.error = {
      message: known ? error.message : `The page could not read the answer: ${error.message}`,
      code: known ? error.code : "page",
      status: known ? error.status : 0,
      retryAt: error.retryAfter ? Date.now() + error.retryAfter * 1000 : null,
    };
    this.#finish(run, "failed");
    if (!known) reportError(error);
  }

  /** @param {Run} run @param {import("./conversation.js").State} [state] */
  #finish(run, state) {
    const { conversation, message } = run;
    if (this.#runs.get(conversation.id) !== run) return;
    this.#runs.delete(conversation.id);
    run.answer.end(state);
    this.#around.thread.answer(message)?.show();
    if (conversation === this.#open) {
      announce(ENDS[message.state ?? "done"]);
      this.#around.onChange();
    }
    this.#touch(conversation);
  }

  /** @param {Run} run */
  #tick(run) {
    this.#around.thread.answer(run.message)?.showThought(run.answer.isThinking ? run.answer.thought : null);
  }

  /** @param {Conversation} conversation */
  #touch(conversation) {
    conversation.updated = Date.now();
    this.#keep(conversation);
  }

  /** @param {Conversation} conversation */
  async #keep(conversation) {
    try {
      await this.#around.store.put(conversation);
    } catch (error) {
      return this.#around.onNotKept(error);
    }
    this.#around.onKept(conversation);
  }
}

/** @type {Record<import("./conversation.js").State, string>} */
const ENDS = {
  done: "The answer is there",
  length: "The answer ran into the limit of tokens",
  stopped: "The answer was stopped",
  lost: "The connection was lost",
  failed: "The answer failed",
  streaming: "",
};
