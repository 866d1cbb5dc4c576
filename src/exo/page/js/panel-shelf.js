// Which models there are, where, and which there could be. Pure.

import { inLine } from "./panel-parts.js";

/**
 * @typedef {object} Entry a model of some node
 * @property {string} id
 * @property {any} card this node's, where it has one
 * @property {boolean} here this node has it
 * @property {boolean} own its files are on this node's disk, and came there by their owner
 * @property {string[]} elsewhere other nodes that have it
 * @property {any} residence in this node's memory, or null
 * @property {string[]} loadedOn other nodes that have it in memory
 */

/** The model that comes with the program, and cannot be deleted. */
const BUNDLED = "exo-demo";
const FILES = new Set(["gguf", "safetensors", "script"]);

/**
 * The models of all nodes by id, this node's first.
 *
 * @param {any} cluster as of GET /v1/cluster
 * @returns {Entry[]}
 */
export function entries(cluster) {
  const { me, peers } = cluster;
  /** @type {Map<string, Entry>} */
  const found = new Map();
  for (const node of [me, ...peers]) {
    for (const card of node.cards) {
      const entry = found.get(card.id) ?? blank(card);
      found.set(card.id, entry);
      const residence = node.loaded.find((/** @type {any} */ each) => each.model === card.id) ?? null;
      if (node === me) {
        entry.here = true;
        entry.own = FILES.has(card.format) && card.id !== BUNDLED;
        entry.residence = residence;
      } else {
        entry.elsewhere.push(node.id);
        if (residence) entry.loadedOn.push(node.id);
      }
    }
  }
  return [...found.values()].sort((a, b) => Number(b.here) - Number(a.here) || a.id.localeCompare(b.id));
}

/** @param {any} card @returns {Entry} */
function blank(card) {
  return { id: card.id, card, here: false, own: false, elsewhere: [], residence: null, loadedOn: [] };
}

/** @type {Record<string, string>} */
const FORMATS = { gguf: "GGUF", rkllm: "NPU", remote: "another server", script: "script" };

/**
 * What is known of a model, in a line.
 *
 * @param {any} card
 * @param {(bytes: number) => string} bytes
 */
export function factsOf(card, bytes) {
  return inLine([
    card.bytes && bytes(card.bytes),
    card.parameters && parameters(card.parameters),
    [FORMATS[card.format] ?? card.format, card.quantization].filter(Boolean).join(" "),
    card.context && `context ${card.context.toLocaleString("en")}`,
  ]);
}

/** @param {number} count */
function parameters(count) {
  const [value, unit] = count >= 1e9 ? [count / 1e9, "B"] : [count / 1e6, "M"];
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit} parameters`;
}

/** What it is made for, besides answering. @param {any} card @returns {string[]} */
export function tagsOf(card) {
  return card.capabilities
    .filter((/** @type {string} */ each) => each !== "completion")
    .map((/** @type {string} */ each) => (each === "embedding" ? "embeddings" : each));
}

/** Where a model is. @param {Entry} entry */
export function whereOf({ here, elsewhere }) {
  if (!elsewhere.length) return "";
  return `${here ? "also on" : "on"} ${elsewhere.join(", ")}`;
}

/**
 * Known models that are not here, those that `text` fits, the best fit first.
 *
 * @param {Record<string, {name: string, downloaded: boolean}>} pool as of GET /initial_models
 * @param {Set<string>} without ids that are not to be offered
 * @param {string} text
 * @param {boolean} apple this node is a Mac, whose engine alone loads models of 4 bit
 * @returns {{id: string, name: string}[]}
 */
export function suggestions(pool, without, text, apple) {
  const words = text.toLowerCase().split(/[^a-z0-9.]+/).filter(Boolean);
  const fits = (/** @type {string} */ each) => words.every((word) => each.includes(word));
  return Object.entries(pool)
    .filter(([id, { name, downloaded }]) => !downloaded && !without.has(id) && fits(`${id} ${name}`.toLowerCase()))
    .map(([id, { name }]) => ({ id, name }))
    .sort((a, b) => rank(a.id, text, apple) - rank(b.id, text, apple) || bySize(a, b));
}

/** @param {string} id @param {string} text @param {boolean} apple */
function rank(id, text, apple) {
  return (id.startsWith(text) ? 0 : 1) + (id.endsWith("-4bit") && !apple ? 2 : 0);
}

/** @param {{id: string}} a @param {{id: string}} b */
function bySize(a, b) {
  return sizeOf(a.id) - sizeOf(b.id) || a.id.localeCompare(b.id, "en", { numeric: true });
}

/** The billions in a name ("qwen3-0.6b"); those that have none in theirs come last. @param {string} id */
function sizeOf(id) {
  const found = /(?:^|-)([\d.]+)b(?:-|$)/.exec(id);
  return found ? Number(found[1]) : 1e6;
}

/**
 * @typedef {object} Going a download
 * @property {string} model id of what it makes
 * @property {string} source
 * @property {number} done bytes
 * @property {number} total bytes, 0 before they are known
 * @property {number} speed bytes a second
 * @property {number} left seconds, 0 where that is not known
 * @property {string} error why it failed, "" else
 */

/** The downloads of GET /v1/download/progress. @param {Record<string, any>} progress @returns {Going[]} */
export function goings(progress) {
  return Object.values(progress).map((each) => ({
    model: each.model,
    source: each.repo_id,
    done: each.downloaded_bytes,
    total: each.total_bytes,
    speed: each.overall_speed,
    left: each.overall_eta,
    error: each.status === "failed" ? each.error : "",
  }));
}

/** How far a download is, in a line. @param {Going} going @param {any} app */
export function farOf({ done, total, speed, left }, { formatBytes, formatDuration }) {
  if (!total) return "Asking what there is to download…";
  return inLine([
    `${formatBytes(done)} of ${formatBytes(total)}`,
    speed && `${formatBytes(speed)}/s`,
    left && `${formatDuration(left)} left`,
  ]);
}
