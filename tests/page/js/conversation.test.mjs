// Conversations as values, and answers as they come.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Answer } from "../../../src/exo/page/js/answer.js";
import {
  asJson,
  asMarkdown,
  fileName,
  fromJson,
  matches,
  newConversation,
  NOTHING_SET,
  requestBody,
  titleOf,
} from "../../../src/exo/page/js/conversation.js";

const user = (/** @type {string} */ content) => ({
  id: `q-${content}`,
  role: /** @type {const} */ ("user"),
  content,
});

function answer(content = "", more = {}) {
  return {
    id: `a-${content}`,
    role: /** @type {const} */ ("assistant"),
    content,
    state: /** @type {const} */ ("done"),
    ...more,
  };
}

function talk(/** @type {any[]} */ ...messages) {
  return { ...newConversation("m", NOTHING_SET, 5), title: "A talk", messages };
}

test("a title is the first line of the question, cut at a word", () => {
  assert.equal(titleOf("  What is\t145 + 278?\nTell me."), "What is 145 + 278?");
  assert.equal(titleOf("word ".repeat(40)), `${"word ".repeat(12).trim()}…`);
  assert.equal(titleOf("🙂".repeat(80)), `${"🙂".repeat(60)}…`);
  assert.equal(titleOf(" \n"), "New chat");
});

test("a request holds what was said, and only the settings that are set", () => {
  const conversation = talk(user("hi"), answer("hello"), user("more"));
  assert.deepEqual(requestBody(conversation), {
    model: "m",
    messages: [
      { role: "user", content: "hi" },
      { role: "assistant", content: "hello" },
      { role: "user", content: "more" },
    ],
    stream: true,
    stream_options: { include_usage: true },
  });
  conversation.settings = { ...NOTHING_SET, system: "Be brief.", temperature: 0, enable_thinking: false };
  const body = requestBody(conversation);
  assert.deepEqual(body.messages[0], { role: "system", content: "Be brief." });
  assert.equal(body.temperature, 0);
  assert.equal(body.enable_thinking, false);
  assert.ok(!("seed" in body) && !("system" in body));
});

test("an answer that had said nothing is left out, and questions in a row are one", () => {
  const conversation = talk(user("a"), answer("", { state: "failed" }), user("b"));
  assert.deepEqual(requestBody(conversation).messages, [{ role: "user", content: "a\n\nb" }]);
});

test("the rest of an answer is asked for with its beginning and its thoughts", () => {
  const conversation = talk(user("a"), answer("It be", { reasoning: "Hm." }));
  const body = requestBody(conversation, { goOn: true });
  assert.equal(body.continue_final_message, true);
  assert.deepEqual(body.messages.at(-1), { role: "assistant", content: "It be", reasoning_content: "Hm." });
  assert.ok(!("reasoning_content" in requestBody(conversation).messages.at(-1)));
});

test("all words that are looked for have to be there", () => {
  const conversation = talk(user("Über Äpfel"), answer("and pears"));
  assert.ok(matches(conversation, "äpfel PEARS"));
  assert.ok(matches(conversation, "talk"));
  assert.ok(!matches(conversation, "äpfel plums"));
});

test("what is exported comes back the same", () => {
  const said = answer("hello", {
    reasoning: "Hm.",
    model: "m",
    route: "",
    node: "n",
    calls: [],
    error: null,
  });
  const conversation = talk(user("hi"), { ...said, figures: { ttft: 0.5, tokens: 3 } });
  const [read] = fromJson(asJson([conversation]));
  assert.deepEqual(JSON.parse(JSON.stringify(read)), JSON.parse(JSON.stringify(conversation)));
});

test("what cannot be read says where", () => {
  const broken = (/** @type {any} */ change) => {
    const file = JSON.parse(asJson([talk(user("hi"), answer("hello"))]));
    change(file);
    return JSON.stringify(file);
  };
  assert.throws(() => fromJson("{"), /not JSON/);
  assert.throws(() => fromJson('{"a":1}'), /"format" is missing/);
  assert.throws(() => fromJson(broken((f) => (f.version = 9))), /version 9/);
  assert.throws(
    () => fromJson(broken((f) => (f.conversations[0].title = 1))),
    /conversations\[0\]\.title is not a string/,
  );
  assert.throws(
    () => fromJson(broken((f) => (f.conversations[0].messages[1].role = "x"))),
    /messages\[1\]\.role/,
  );
  assert.throws(() => fromJson(broken((f) => (f.conversations[0].id = "../x"))), /is no id/);
  assert.throws(() => fromJson(broken((f) => (f.conversations[0].settings.seed = "1"))), /settings\.seed/);
});

test("Markdown has the questions, the answers and the thoughts", () => {
  const text = asMarkdown(talk(user("hi"), answer("hello", { reasoning: "Hm.", model: "m" })));
  assert.match(text, /^# A talk\n\n## You\n\nhi\n\n## m\n\n<details>.*Hm\..*<\/details>\n\nhello\n$/s);
  assert.equal(fileName({ ...talk(), title: "What is 1/2? ü" }, "md"), "what-is-1-2-ü.md");
});

// Answers

function chunk(/** @type {any} */ delta, finish = null, more = {}) {
  return JSON.stringify({ model: "real", choices: [{ index: 0, delta, finish_reason: finish }], ...more });
}

function clock() {
  let now = 0;
  return Object.assign(() => now, { on: (/** @type {number} */ ms) => (now += ms) });
}

test("an answer is put together from its pieces, with its figures", () => {
  const now = clock();
  const message = answer("", { state: "streaming" });
  const coming = new Answer(message, now);
  coming.take(chunk({ role: "assistant", content: "" }));
  now.on(500);
  assert.equal(coming.take(chunk({ reasoning_content: "Hm" })).reasoning, "Hm");
  now.on(2000);
  assert.ok(coming.isThinking);
  assert.equal(coming.thought, 2);
  coming.take(chunk({ content: "4" }));
  now.on(1000);
  coming.take(chunk({ content: "2" }));
  coming.take(chunk({}, "stop", { timings: { predicted_n: 30, predicted_ms: 1500 } }));
  coming.take(JSON.stringify({ choices: [], usage: { prompt_tokens: 9, completion_tokens: 30 } }));
  coming.take("[DONE]");
  coming.end();
  assert.equal(message.content, "42");
  assert.equal(message.reasoning, "Hm");
  assert.equal(message.model, "real");
  assert.equal(message.state, "done");
  assert.deepEqual(message.figures, { ttft: 0.5, thought: 2, speed: 20, promptTokens: 9, tokens: 30 });
});

test("without the engine's figures the speed is what was seen", () => {
  const now = clock();
  const message = answer();
  const coming = new Answer(message, now);
  coming.take(chunk({ content: "a" }));
  now.on(2000);
  coming.take(JSON.stringify({ choices: [], usage: { prompt_tokens: 1, completion_tokens: 10 } }));
  coming.take("[DONE]");
  coming.end();
  assert.equal(message.figures.speed, 5);
});

test("a stream that ends without its end is a lost connection", () => {
  const message = answer();
  const coming = new Answer(message);
  coming.take(chunk({ content: "half" }));
  coming.end();
  assert.equal(message.state, "lost");
});

test("an answer that ran into the limit says so", () => {
  const message = answer();
  const coming = new Answer(message);
  coming.take(chunk({ content: "half" }, "length"));
  coming.take("[DONE]");
  coming.end();
  assert.equal(message.state, "length");
});

test("an error in a stream is raised as what it is", () => {
  const coming = new Answer(answer());
  const data = JSON.stringify({ error: { message: "the wheel came off", code: "engine_failed" } });
  assert.throws(() => coming.take(data), {
    name: "ApiError",
    code: "engine_failed",
    message: "the wheel came off",
  });
});

test("tool calls come in pieces", () => {
  const message = answer();
  const coming = new Answer(message);
  coming.take(chunk({ tool_calls: [{ index: 0, id: "c", function: { name: "add", arguments: "" } }] }));
  coming.take(chunk({ tool_calls: [{ index: 0, function: { arguments: '{"a":' } }] }));
  coming.take(chunk({ tool_calls: [{ index: 0, function: { arguments: "2}" } }] }));
  assert.deepEqual(message.calls, [{ name: "add", arguments: '{"a":2}' }]);
});
