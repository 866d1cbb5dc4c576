// The pure parts of the panels: nodes of the last minutes, and which models there are and could be.

import assert from "node:assert/strict";
import { test } from "node:test";

import { History, SPAN, STAYS, running, steps } from "../../../src/exo/page/js/panel-history.js";
import {
  entries,
  factsOf,
  farOf,
  goings,
  suggestions,
  tagsOf,
  whereOf,
} from "../../../src/exo/page/js/panel-shelf.js";

const bytes = (count) => `${count} B`;
const card = (id, more = {}) => ({
  id,
  format: "gguf",
  context: 4096,
  bytes: 7,
  parameters: 0,
  quantization: "",
  capabilities: ["completion"],
  ...more,
});
const node = (id, more = {}) => ({ id, cards: [], loaded: [], device: { npu_load: null }, ...more });
const cluster = (me, ...peers) => ({ me, peers });
const ids = (history, at) => history.nodes(at).map((each) => each.node.id);

test("this node comes first, the others by name", () => {
  const history = new History();
  history.add(cluster(node("m"), node("z"), node("a")), 0);
  assert.deepEqual(ids(history, 0), ["m", "a", "z"]);
});

test("a node that is gone stays for a minute, says for how long, and is forgotten", () => {
  const history = new History();
  history.add(cluster(node("a"), node("b")), 0);
  history.add(cluster(node("a")), 10);
  const [, b] = history.nodes(12);
  assert.deepEqual([b.node.id, b.goneFor], ["b", 12]);
  assert.deepEqual(ids(history, STAYS), ["a", "b"]);
  assert.deepEqual(ids(history, STAYS + 1), ["a"]);
  history.add(cluster(node("a")), STAYS + 1);
  assert.equal(history.nodes(0).length, 1);
});

test("a node that comes back is not gone, and has its past", () => {
  const history = new History();
  history.add(cluster(node("a"), node("b")), 0);
  history.add(cluster(node("a")), 1);
  history.add(cluster(node("a"), node("b")), 2);
  const [, b] = history.nodes(2);
  assert.equal(b.goneFor, null);
  assert.deepEqual(
    b.samples.map((each) => each.at),
    [0, 2],
  );
});

test("while nothing is told, nobody is gone", () => {
  const history = new History();
  history.add(cluster(node("a"), node("b")), 0);
  assert.deepEqual(
    history.nodes(500).map((each) => each.goneFor),
    [null, null],
  );
});

test("a node under another name is the one at hand, and the old one a node that is gone", () => {
  const history = new History();
  history.add(cluster(node("old")), 0);
  history.add(cluster(node("new")), 1);
  assert.deepEqual(
    history.nodes(1).map((each) => [each.node.id, each.me]),
    [
      ["new", true],
      ["old", false],
    ],
  );
});

test("samples older than the window are dropped", () => {
  const history = new History();
  for (let at = 0; at < 10 * SPAN; at += 1) history.add(cluster(node("a")), at);
  const [{ samples }] = history.nodes(10 * SPAN);
  assert.ok(samples.length < SPAN + 30, String(samples.length));
});

test("requests of all models are added up", () => {
  assert.equal(running(node("a", { loaded: [{ running: 2 }, { running: 1 }] })), 3);
});

const box = { width: SPAN, height: 10, most: 2 };
const at = (time, value) => ({ at: time, running: value, npu: null });

test("values are steps up to now, from the left edge at the earliest", () => {
  const { line, area } = steps([at(0, 2), at(5, 1)], (each) => each.running, 10, box);
  assert.equal(line, `M${SPAN - 10} 0H${SPAN - 5}L${SPAN - 5} 5H${SPAN}`);
  assert.equal(area, `M${SPAN - 10} 10V0H${SPAN - 5}V10ZM${SPAN - 5} 10V5H${SPAN}V10Z`);
  const late = steps([at(0, 2), at(SPAN + 5, 1)], (each) => each.running, SPAN + 10, box);
  assert.equal(late.line, `M0 0H2M${SPAN - 5} 5H${SPAN}`);
});

test("where nothing was told there is no line", () => {
  const { line } = steps([at(0, 1), at(50, 1)], (each) => each.running, 60, box);
  assert.equal(line, `M${SPAN - 60} 5H${SPAN - 48}M${SPAN - 10} 5H${SPAN}`);
  assert.deepEqual(
    steps([at(0, 1)], (each) => each.running, 1000, box),
    { line: "", area: "" },
  );
  assert.deepEqual(
    steps([at(0, 1)], (each) => each.npu, 1, box),
    { line: "", area: "" },
  );
  assert.deepEqual(
    steps([], (each) => each.running, 1, box),
    { line: "", area: "" },
  );
});

test("models are one entry an id, with where they are and where they are in memory", () => {
  const here = node("a", {
    cards: [card("both"), card("mine")],
    loaded: [{ model: "mine", state: "ready" }],
  });
  const there = node("b", {
    cards: [card("both"), card("far")],
    loaded: [{ model: "far" }, { model: "both" }],
  });
  const found = entries(cluster(here, there));
  assert.deepEqual(
    found.map((each) => each.id),
    ["both", "mine", "far"],
  );
  const [both, mine, far] = found;
  assert.deepEqual([both.here, both.elsewhere, both.loadedOn, both.residence], [true, ["b"], ["b"], null]);
  assert.deepEqual([mine.here, mine.residence.state], [true, "ready"]);
  assert.deepEqual([far.here, far.own, far.loadedOn], [false, false, ["b"]]);
  assert.equal(whereOf(both), "also on b");
  assert.equal(whereOf(mine), "");
  assert.equal(whereOf(far), "on b");
});

test("only files that their owner put there are his to delete", () => {
  const cards = [
    card("exo-demo"),
    card("m"),
    card("npu", { format: "rkllm" }),
    card("far", { format: "remote" }),
  ];
  const own = entries(cluster(node("a", { cards }))).filter((each) => each.own);
  assert.deepEqual(
    own.map((each) => each.id),
    ["m"],
  );
});

test("what is not known of a model is left out", () => {
  const plain = (text) => text.replaceAll("\u00a0", " ");
  assert.equal(
    plain(factsOf(card("m", { parameters: 1.5e9, quantization: "Q8_0" }), bytes)),
    "7 B · 1.5 B parameters · GGUF Q8_0 · context 4,096",
  );
  assert.equal(plain(factsOf(card("m", { format: "rkllm", bytes: 0, context: 0 }), bytes)), "NPU");
  assert.deepEqual(tagsOf(card("m", { capabilities: ["completion", "thinking", "embedding"] })), [
    "thinking",
    "embeddings",
  ]);
});

const pool = Object.fromEntries(
  ["qwen3-8b", "qwen3-0.6b", "qwen3-0.6b-4bit", "phi-4", "gemma3-1b"].map((id) => [
    id,
    { name: id.toUpperCase(), downloaded: id === "phi-4" },
  ]),
);
const offered = (text, { without = [], apple = false } = {}) =>
  suggestions(pool, new Set(without), text, apple).map((each) => each.id);

test("small models are offered first, and those that only a Mac loads last", () => {
  assert.deepEqual(offered(""), ["qwen3-0.6b", "gemma3-1b", "qwen3-8b", "qwen3-0.6b-4bit"]);
  assert.deepEqual(offered("", { apple: true }).slice(0, 2), ["qwen3-0.6b", "qwen3-0.6b-4bit"]);
  assert.deepEqual(offered("QWEN 8b"), ["qwen3-8b"]);
  assert.deepEqual(offered("gemma", { without: ["gemma3-1b"] }), []);
});

test("downloads are told by their models, and failures with their reasons", () => {
  const told = { downloaded_bytes: 1, total_bytes: 4, overall_speed: 2, overall_eta: 1.5, repo_id: "u/r" };
  const [first, second] = goings({
    n: { ...told, model: "m", status: "in_progress" },
    "n x": { ...told, model: "x", status: "failed", error: "no" },
  });
  assert.deepEqual(first, { model: "m", source: "u/r", done: 1, total: 4, speed: 2, left: 1.5, error: "" });
  assert.equal(second.error, "no");
  const app = { formatBytes: bytes, formatDuration: (seconds) => `${seconds} s` };
  assert.equal(farOf(first, app).replaceAll("\u00a0", " "), "1 B of 4 B · 2 B/s · 1.5 s left");
  assert.match(farOf({ ...first, total: 0 }, app), /Asking/);
});
