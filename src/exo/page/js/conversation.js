// Conversations as plain values: what is said in them, what a node is asked for, and how they look in a file.
// Pure.

/**
 * @typedef {object} Failure
 * @property {string} message
 * @property {string} code
 * @property {number} status
 * @property {number|null} retryAt when to ask again, in milliseconds since the epoch
 *
 * @typedef {object} Call a tool that the model called
 * @property {string} name
 * @property {string} arguments
 *
 * @typedef {object} Figures of an answer; what is not known is left out
 * @property {number} [ttft] seconds to the first piece
 * @property {number} [thought] seconds of thinking
 * @property {number} [speed] tokens per second
 * @property {number} [promptTokens]
 * @property {number} [tokens] of the answer, thoughts included
 *
 * "streaming" while it comes, "stopped" by the reader, "lost" with the connection, "length" where it ran into
 * the limit of tokens.
 * @typedef {"done"|"streaming"|"stopped"|"lost"|"failed"|"length"} State
 *
 * @typedef {object} Message
 * @property {string} id
 * @property {"user"|"assistant"} role
 * @property {string} content
 * @property {State} [state]
 * @property {string} [reasoning]
 * @property {Call[]} [calls]
 * @property {Failure|null} [error]
 * @property {string} [model] the one that answered
 * @property {string} [route] which node answered, and why, as it said
 * @property {string} [node]
 * @property {Figures} [figures]
 *
 * @typedef {object} Settings null leaves it to the node
 * @property {string|null} system
 * @property {number|null} temperature
 * @property {number|null} top_p
 * @property {number|null} max_tokens
 * @property {number|null} seed
 * @property {boolean|null} enable_thinking
 *
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {number} created in milliseconds since the epoch
 * @property {number} updated
 * @property {string} model
 * @property {Settings} settings
 * @property {Message[]} messages
 */

/** @type {Readonly<Settings>} */
export const NOTHING_SET = Object.freeze({
  system: null,
  temperature: null,
  top_p: null,
  max_tokens: null,
  seed: null,
  enable_thinking: null,
});

/** @param {string} model @param {Settings} settings @param {number} now @returns {Conversation} */
export function newConversation(model, settings, now = Date.now()) {
  return {
    id: newId(),
    title: "",
    created: now,
    updated: now,
    model,
    settings: { ...settings },
    messages: [],
  };
}

/** Pages that came over plain HTTP from another machine have no `crypto.randomUUID`. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

const TITLE = 60;

/** What a conversation is called after its first question. @param {string} question */
export function titleOf(question) {
  const line = question.trim().split("\n")[0].replaceAll(/\s+/g, " ").trim();
  const characters = [...line];
  if (characters.length <= TITLE) return line || "New chat";
  const cut = characters.slice(0, TITLE).join("");
  const space = cut.lastIndexOf(" ");
  return `${space > TITLE / 2 ? cut.slice(0, space) : cut}…`;
}

/**
 * The body of a request for the next answer, or with `goOn` for the rest of the last one.
 *
 * Answers that failed before they had said anything are left out. Questions in a row are then one, as many
 * models' templates refuse two.
 *
 * @param {Conversation} conversation
 * @param {{goOn?: boolean}} [options]
 */
export function requestBody(conversation, { goOn = false } = {}) {
  /** @type {any[]} */
  const messages = [];
  for (const { role, content } of conversation.messages) {
    if (role === "assistant" && !content) continue;
    const last = messages.at(-1);
    if (last?.role === role) last.content += `\n\n${content}`;
    else messages.push({ role, content });
  }
  if (goOn) {
    const thoughts = conversation.messages.at(-1)?.reasoning;
    if (thoughts) messages.at(-1).reasoning_content = thoughts;
  }
  const { system, ...sampling } = conversation.settings;
  if (system) messages.unshift({ role: "system", content: system });
  const set = Object.fromEntries(Object.entries(sampling).filter(([, value]) => value !== null));
  return {
    model: conversation.model,
    messages,
    ...set,
    ...(goOn ? { continue_final_message: true } : {}),
    stream: true,
    stream_options: { include_usage: true },
  };
}

/** Whether all words of `query` are in the title or in what was said. @param {Conversation} conversation
 * @param {string} query */
export function matches(conversation, query) {
  const words = query.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const texts = [conversation.title, ...conversation.messages.map((each) => each.content)];
  const all = texts.join("\n").toLocaleLowerCase();
  return words.every((word) => all.includes(word));
}

/** @param {Conversation} conversation */
export function asMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  if (conversation.settings.system) parts.push(`> ${conversation.settings.system.replaceAll("\n", "\n> ")}`);
  for (const message of conversation.messages) {
    parts.push(message.role === "user" ? "## You" : `## ${message.model || conversation.model}`);
    if (message.reasoning) {
      parts.push(`<details><summary>Thoughts</summary>\n\n${message.reasoning.trim()}\n\n</details>`);
    }
    for (const call of message.calls ?? []) parts.push(`\`${call.name}(${call.arguments})\``);
    if (message.content) parts.push(message.content.trim());
    if (message.error) parts.push(`*Failed: ${message.error.message}*`);
  }
  return `${parts.join("\n\n")}\n`;
}

/** A name for a file. @param {Conversation} conversation @param {string} extension */
export function fileName(conversation, extension) {
  const name = conversation.title.replaceAll(/[^\p{L}\p{N}]+/gu, "-").replaceAll(/^-+|-+$/g, "");
  return `${name.slice(0, 60).toLowerCase() || "chat"}.${extension}`;
}

const FORMAT = "exo-conversations";
const VERSION = 1;

/** @param {Conversation[]} conversations */
export function asJson(conversations) {
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1);
}

/**
 * The conversations of a file that `asJson` made, each field checked, as it may have been written by anyone.
 * Throws an error that says what is wrong with it.
 *
 * @param {string} text
 * @returns {Conversation[]}
 */
export function fromJson(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("the file is not JSON");
  }
  if (file?.format !== FORMAT) throw new Error('the file is not an export of this page: "format" is missing');
  if (file.version !== VERSION)
    throw new Error(`version ${file.version} of the format is not known to this page`);
  if (!Array.isArray(file.conversations)) throw new Error('"conversations" is not a list');
  return file.conversations.map(readConversation);
}

/** @param {any} given @param {number} index @returns {Conversation} */
function readConversation(given, index) {
  const at = `conversations[${index}]`;
  const settings = fields(given?.settings ?? {}, `${at}.settings`, {
    system: ["string", null],
    temperature: ["number", null],
    top_p: ["number", null],
    max_tokens: ["number", null],
    seed: ["number", null],
    enable_thinking: ["boolean", null],
  });
  const read = fields(given, at, {
    id: ["string"],
    title: ["string"],
    created: ["number"],
    updated: ["number"],
    model: ["string"],
  });
  if (!/^[\w-]{1,64}$/.test(read.id)) throw new Error(`${at}.id is no id`);
  if (!Array.isArray(given.messages)) throw new Error(`${at}.messages is not a list`);
  const messages = given.messages.map((/** @type {any} */ each, /** @type {number} */ i) => {
    return readMessage(each, `${at}.messages[${i}]`);
  });
  return { ...read, settings, messages };
}

const STATES = ["done", "stopped", "lost", "failed", "length"];

/** @param {any} given @param {string} at @returns {Message} */
function readMessage(given, at) {
  const read = fields(given, at, { id: ["string"], role: ["string"], content: ["string"] });
  if (read.role !== "user" && read.role !== "assistant")
    throw new Error(`${at}.role is neither user nor assistant`);
  if (read.role === "user") return read;
  const state = given.state === "streaming" ? "lost" : given.state;
  if (!STATES.includes(state)) throw new Error(`${at}.state is none of ${STATES.join(", ")}`);
  const said = fields(given, at, {
    reasoning: ["string", ""],
    model: ["string", ""],
    route: ["string", ""],
    node: ["string", ""],
  });
  const calls = (given.calls ?? []).map((/** @type {any} */ call, /** @type {number} */ i) => {
    return fields(call, `${at}.calls[${i}]`, { name: ["string"], arguments: ["string"] });
  });
  const none = ["number", undefined];
  const figures = fields(given.figures ?? {}, `${at}.figures`, {
    ttft: none,
    thought: none,
    speed: none,
    promptTokens: none,
    tokens: none,
  });
  const error = given.error
    ? fields(given.error, `${at}.error`, { message: ["string"], code: ["string"], status: ["number"] })
    : null;
  return { ...read, ...said, state, calls, figures, error: error && { ...error, retryAt: null } };
}

/**
 * The fields of an object that are of the types they have to be, and no others.
 *
 * @param {any} given
 * @param {string} at
 * @param {Record<string, any[]>} types a name of a type, and behind it what stands for a field that is missing
 */
function fields(given, at, types) {
  if (given === null || typeof given !== "object") throw new Error(`${at} is not an object`);
  /** @type {any} */
  const read = {};
  for (const [name, [type, ...rest]] of Object.entries(types)) {
    const value = given[name] ?? null;
    if (value === null && rest.length) read[name] = rest[0];
    else if (typeof value === type && !Number.isNaN(value)) read[name] = value;
    else throw new Error(`${at}.${name} is not a ${type}`);
  }
  return read;
}
