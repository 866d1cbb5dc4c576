// The row of one model in the panel of models.

import { button, h } from "./dom.js";
import { path } from "./panel-downloads.js";
import { reason, say, sayOrHide } from "./panel-parts.js";
import { factsOf, tagsOf, whereOf } from "./panel-shelf.js";

/**
 * @param {any} app see app.js
 * @param {() => void} onUse the model has been chosen
 * @returns {import("./panel-parts.js").View<import("./panel-shelf.js").Entry>}
 */
export function modelRow(app, onUse) {
  /** @type {import("./panel-shelf.js").Entry} */
  let entry;
  let busy = "";
  const name = h("span", { class: "row-name" });
  const state = h("span", { class: "tag" });
  const facts = h("p", { class: "row-facts muted" });
  const tags = h("p", { class: "tags" });
  const problem = h("p", { class: "note", "data-level": "danger", role: "alert", hidden: true });
  const use = button({ text: "Use", class: "accent", onclick: () => (app.chooseModel(entry.id), onUse()) });
  const load = button({ text: "Load", onclick: () => act("Loading", loaded) });
  const unload = button({ text: "Unload", onclick: () => act("Unloading", unloaded) });
  const del = button({ icon: "trash", class: "quiet last", label: "Delete", onclick: deleted });
  const actions = h("div", { class: "row-actions" }, use, load, unload, del);
  const element = h("li", { class: "row" }, h("div", { class: "row-head" }, name, state), facts, tags, problem, actions);

  /** @param {string} what @param {() => Promise<void>} work */
  async function act(what, work) {
    busy = what;
    sayOrHide(problem, "");
    update(entry);
    try {
      await work();
    } catch (error) {
      sayOrHide(problem, reason(error));
    }
    busy = "";
    update(entry);
  }

  async function loaded() {
    const { id, here } = entry;
    // One that is only elsewhere is loaded on the node where it would be asked for.
    const answer = await (here
      ? app.api.post("/v1/load", { model: id })
      : app.api.post("/v1/spread", { model: id, nodes: 1 }));
    app.announce(`${id} is in memory${answer.placements ? "" : " here"}`);
  }

  async function unloaded() {
    await app.api.post("/api/generate", { model: entry.id, keep_alive: 0, stream: false });
    app.announce(`${entry.id} leaves memory`);
  }

  async function deleted() {
    const { id, card } = entry;
    const size = app.formatBytes(card.bytes);
    if (!(await app.confirm(`${id} is deleted from this machine's disk, which frees ${size}.`, "Delete"))) return;
    await act("Deleting", async () => {
      await app.api.del(`/models/${path(id)}`);
      app.announce(`${id} is deleted`);
      await app.refreshModels();
    });
  }

  function update(/** @type {import("./panel-shelf.js").Entry} */ now) {
    entry = now;
    const { id, card, here, own, residence } = now;
    const ready = residence?.state === "ready" && residence.bytes > 0;
    say(name, id);
    sayOrHide(state, stateOf(now, busy));
    state.dataset.state = busy ? "busy" : residence || now.loadedOn.length ? "memory" : "";
    say(facts, [factsOf(card, app.formatBytes), whereOf(now)].filter(Boolean).join(" · "));
    const kinds = tagsOf(card);
    if (tags.textContent !== kinds.join("")) {
      tags.replaceChildren(...kinds.map((each) => h("span", { class: "tag", text: each })));
    }
    tags.hidden = !kinds.length;
    const loadable = here ? card.format !== "remote" && card.format !== "rkllm" : true;
    load.hidden = Boolean(residence) || !loadable || (!here && now.loadedOn.length > 0);
    unload.hidden = !ready;
    del.hidden = !own;
    for (const each of [load, unload, del]) each.disabled = Boolean(busy);
    for (const [each, verb] of /** @type {[HTMLElement, string][]} */ ([[use, "Use"], [load, "Load"], [unload, "Unload"], [del, "Delete"]])) {
      each.setAttribute("aria-label", `${verb} ${id}`);
    }
    element.setAttribute("aria-busy", String(Boolean(busy)));
  }

  return { element, update };
}

/** @param {import("./panel-shelf.js").Entry} entry @param {string} busy */
function stateOf({ residence, loadedOn }, busy) {
  if (busy) return `${busy}…`;
  if (residence?.state === "ready") return residence.bytes ? "in memory" : "";
  if (residence) return `${residence.state}…`;
  return loadedOn.length ? `in memory on ${loadedOn.join(", ")}` : "";
}
