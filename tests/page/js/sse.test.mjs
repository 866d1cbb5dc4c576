// The reader of server-sent events.

import assert from "node:assert/strict";
import { test } from "node:test";

import { EventReader } from "../../../src/exo/page/js/sse.js";

/** @param {string[]} pieces */
function read(...pieces) {
  const reader = new EventReader();
  return pieces.flatMap((piece) => reader.feed(piece));
}

const STREAM = [
  ": keep-alive\n\n",
  'data: {"a":"ü🙂"}\n\n',
  "event: progress\ndata: one\ndata:two\nid: 7\n\n",
  ":\r\ndata: with crlf\r\n\r\n",
  "data: two\r\ndata: lines\r\n\r\n",
  "data: with cr\r\r",
  "unknown: field\ndata\ndata: x\n\n",
  "data: [DONE]\n\n",
].join("");

const EVENTS = [
  { event: "message", data: '{"a":"ü🙂"}', id: "" },
  { event: "progress", data: "one\ntwo", id: "7" },
  { event: "message", data: "with crlf", id: "7" },
  { event: "message", data: "two\nlines", id: "7" },
  { event: "message", data: "with cr", id: "7" },
  { event: "message", data: "\nx", id: "7" },
  { event: "message", data: "[DONE]", id: "7" },
];

test("a stream is read whole", () => {
  assert.deepEqual(read(STREAM), EVENTS);
});

test("where a stream is cut makes no difference", () => {
  for (let first = 0; first <= STREAM.length; first += 1) {
    for (const second of [first, first + 1, first + 2, first + 9]) {
      const pieces = [STREAM.slice(0, first), STREAM.slice(first, second), STREAM.slice(second)];
      assert.deepEqual(read(...pieces), EVENTS, JSON.stringify(pieces.slice(0, 2)));
    }
  }
  assert.deepEqual(read(...STREAM), EVENTS);
});

test("an event that no blank line ends is none", () => {
  assert.deepEqual(read("data: whole\n\ndata: cut"), [{ event: "message", data: "whole", id: "" }]);
  assert.deepEqual(read("data: cut\n"), []);
});

test("a mark of byte order at the beginning is none of the data", () => {
  assert.deepEqual(
    read("\ufeffdata: x\n\n").map((each) => each.data),
    ["x"],
  );
});

test("a line of a megabyte in small pieces takes no time by its square", () => {
  const pieces = ["data: ", ...Array.from({ length: 20000 }, () => "x".repeat(50)), "\n\n"];
  const began = performance.now();
  const [event] = read(...pieces);
  assert.equal(event.data.length, 1_000_000);
  assert.ok(performance.now() - began < 1000);
});
