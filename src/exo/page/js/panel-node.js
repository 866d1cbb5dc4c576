// The card of one node in the panel of the cluster.

import { button, h } from "./dom.js";
import { counted, formatSpeed } from "./format.js";
import { running, steps } from "./panel-history.js";
import { bar, inLine, Keyed, LINE, say, sayOrHide, sparkline } from "./panel-parts.js";

/** °C from which a board is said to be hot: Rockchip's begin to slow down at 85. */
const HOT = 80;

/**
 * @typedef {object} Given
 * @property {import("./panel-history.js").Seen} seen
 * @property {number} at seconds, of the same clock as the samples
 * @property {number} since seconds since the node was told of
 * @property {string} version of this node
 * @property {boolean} stale nothing comes any more
 */

/**
 * @param {any} app see app.js
 * @param {(model: string) => Promise<void>} unload from this node's memory
 * @returns {import("./panel-parts.js").View<Given>}
 */
export function nodeCard(app, unload) {
  const name = h("h3", { class: "card-name" });
  const tag = h("span", { class: "tag" });
  const kind = h("span");
  const heat = h("span");
  const warning = h("p", { class: "note", "data-level": "warn" });
  const busy = h("span");
  const waiting = h("span", { class: "muted" });
  const line = sparkline();
  const memory = gauge("Model memory");
  const npu = gauge("NPU load");
  const none = h("p", { class: "card-line muted" });
  const residents = h("ul", { class: "residents", "aria-label": "Models in memory" });
  const list = new Keyed(
    residents,
    (/** @type {any} */ each) => each.residence.model,
    () => resident(app, unload),
  );
  const measured = h("p", { class: "card-line muted" });
  const body = h(
    "div",
    { class: "card-body" },
    h("div", { class: "card-requests" }, h("p", {}, busy, waiting), line.element),
    memory.element,
    npu.element,
    none,
    residents,
    measured,
  );
  const element = h(
    "article",
    { class: "card" },
    h("div", { class: "card-head" }, h("span", { class: "dot", "aria-hidden": "true" }), name, tag),
    h("p", { class: "card-line muted" }, kind, heat),
    warning,
    body,
  );

  function update(/** @type {Given} */ { seen, at, since, version, stale }) {
    const { node, me, goneFor, samples } = seen;
    const { device } = node;
    say(name, node.id);
    element.setAttribute("aria-label", `Node ${node.id}`);
    element.dataset.state = goneFor === null ? (node.leaving ? "leaving" : "here") : "gone";
    element.classList.toggle("stale", stale || goneFor !== null);
    sayOrHide(tag, stateOf(seen));
    say(kind, machine(device, app.formatBytes));
    const { temperature } = device;
    sayOrHide(heat, temperature === null ? "" : ` · ${Math.round(temperature)}\u00a0°C`);
    heat.classList.toggle("hot", temperature >= HOT);
    // Of one that is gone, its figures are of no use any more.
    body.hidden = goneFor !== null;
    const differs = goneFor === null && node.version !== version;
    sayOrHide(
      warning,
      differs ? `It runs version ${node.version}, this node ${version}. Update one of them, to be sure.` : "",
    );
    say(busy, `${running(node)} running`);
    say(waiting, `${node.waiting} of ${node.queue} waiting`);
    const most = Math.max(1, ...samples.map((each) => each.running));
    line.set(
      steps(samples, (each) => each.running, at, { ...LINE, most }),
      `Requests running on ${node.id} over the last two minutes, ${most} at most`,
    );
    const used = node.loaded.reduce((/** @type {number} */ sum, /** @type {any} */ each) => sum + each.bytes, 0);
    const fraction = node.budget ? used / node.budget : 0;
    memory.set(fraction, `${app.formatBytes(used)} of ${app.formatBytes(node.budget)}`, fraction > 1 ? "warn" : "");
    npu.element.hidden = device.npu_load === null;
    if (device.npu_load !== null) npu.set(device.npu_load, `${Math.round(100 * device.npu_load)} %`);
    sayOrHide(none, node.loaded.length ? "" : "No model in memory. The first question loads one.");
    list.show(node.loaded.map((/** @type {any} */ residence) => ({ residence, node, me, since })));
    residents.hidden = !node.loaded.length;
    sayOrHide(measured, others(node));
  }

  return { element, update };
}

/** @param {any} app @param {(model: string) => Promise<void>} unload */
function resident(app, unload) {
  const name = h("span", { class: "resident-name" });
  const facts = h("span", { class: "resident-facts muted" });
  const problem = h("p", { class: "note", "data-level": "danger", role: "alert", hidden: true });
  let model = "";
  const away = button({
    text: "Unload",
    onclick: async () => {
      away.disabled = true;
      sayOrHide(problem, "");
      try {
        await unload(model);
      } catch (/** @type {any} */ error) {
        sayOrHide(problem, error.message);
      }
      away.disabled = false;
    },
  });
  const element = h("li", { class: "resident" }, h("div", {}, name, facts), away, problem);
  return {
    element,
    update(/** @type {any} */ { residence, node, me, since }) {
      model = residence.model;
      const card = node.cards.find((/** @type {any} */ each) => each.id === model);
      say(name, model);
      say(facts, factsOf(residence, node, since, app));
      element.dataset.state = residence.state;
      away.setAttribute("aria-label", `Unload ${model}`);
      // Other nodes' models are theirs to unload, other servers' and parts of models for other nodes, too.
      away.hidden = !(me && card && residence.bytes && residence.state === "ready");
    },
  };
}

/** @param {string} label */
function gauge(label) {
  const drawn = bar("meter", label);
  const value = h("span", { class: "gauge-value" });
  const element = h("div", { class: "gauge" }, h("span", { class: "muted", text: label }), value, drawn.element);
  return {
    element,
    set(/** @type {number} */ fraction, /** @type {string} */ text, /** @type {""|"warn"} */ level = "") {
      say(value, text);
      drawn.set(fraction, text, level);
    },
  };
}

/** @param {import("./panel-history.js").Seen} seen */
function stateOf({ node, me, goneFor }) {
  if (goneFor !== null) {
    const seconds = `${Math.round(goneFor)} s`;
    return node.leaving ? `shut down ${seconds} ago` : `gone for ${seconds}`;
  }
  if (node.leaving) return "shutting down";
  return me ? "this node" : "";
}

/** @param {any} device @param {(bytes: number) => string} bytes */
function machine(device, bytes) {
  const chip = device.kind === "rockchip" ? `Rockchip ${device.chip}`.trim() : device.chip || NAMES[device.kind];
  const memory = device.memory && bytes(device.memory);
  return inLine([chip, counted(device.cores, "core"), device.free ? `${bytes(device.free)} of ${memory} free` : memory]);
}

/** @type {Record<string, string>} */
const NAMES = { rockchip: "Rockchip", apple: "Apple", nvidia: "NVIDIA", amd: "AMD", cpu: "CPU" };

/** @param {any} residence @param {any} node @param {number} since @param {any} app */
function factsOf(residence, node, since, app) {
  const { state, slots } = residence;
  const speed = node.speeds.find((/** @type {any} */ each) => each.model === residence.model)?.decode;
  const leaves = residence.expires_in === null ? null : Math.max(0, residence.expires_in - since);
  return inLine([
    residence.bytes ? app.formatBytes(residence.bytes) : "on another server",
    state === "ready" ? "" : state,
    residence.running ? `${residence.running} of ${slots} answering` : "",
    residence.waiting ? `${residence.waiting} waiting` : "",
    speed ? formatSpeed(speed) : "",
    // Whole minutes: what changes every second draws the eye for nothing.
    leaves === null ? "" : `leaves in ${app.formatDuration(leaves < 60 ? Math.ceil(leaves) : 60 * Math.ceil(leaves / 60))}`,
  ]);
}

/** Speeds of models that are not in memory now. @param {any} node */
function others(node) {
  const loaded = new Set(node.loaded.map((/** @type {any} */ each) => each.model));
  const known = node.speeds.filter((/** @type {any} */ each) => each.decode && !loaded.has(each.model));
  if (!known.length) return "";
  return `Measured: ${known.map((/** @type {any} */ each) => `${each.model} ${formatSpeed(each.decode)}`).join(", ")}`;
}
