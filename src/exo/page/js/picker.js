// Which models there are, as far as the page has been told, and the one that is chosen.

import { byId, h } from "./dom.js";
import { keep, kept } from "./kept.js";

/** @typedef {{id: string, cards: any[], loaded: any[]}} Node */

export class Picker {
  #select = byId("model");
  #api;
  /** @type {string[]} */
  #models = [];
  /** @type {Node|null} */
  #me = null;
  /** @type {Node[]} */
  #peers = [];
  #wanted = kept("model", "");
  #onChange;

  /**
   * @param {import("./api.js").Api} api
   * @param {() => void} onChange another model is chosen, or other models are there
   */
  constructor(api, onChange) {
    this.#api = api;
    this.#onChange = onChange;
    this.#select.addEventListener("change", () => this.choose(this.#select.value));
  }

  /** Asks what is there. Raises `ApiError`. */
  async refresh() {
    const [models, cluster] = await Promise.all([this.#api.get("/v1/models"), this.#api.get("/v1/cluster")]);
    this.#models = models.data
      .map((/** @type {any} */ each) => each.id)
      .filter((/** @type {string} */ id) => this.#chats(id, cluster));
    this.#me = cluster.me;
    this.#peers = cluster.peers;
    this.#draw();
    this.#onChange();
  }

  /** Embeddings are no conversation. @param {string} id @param {any} cluster */
  #chats(id, cluster) {
    const nodes = [cluster.me, ...cluster.peers];
    const cards = nodes.flatMap((node) => node.cards).filter((card) => card.id === id);
    return !cards.length || cards.some((card) => card.capabilities.includes("completion"));
  }

  /** The model that the next question goes to; "" where there is none. */
  get model() {
    if (this.#wanted) return this.#wanted;
    return this.#models.includes("auto") ? "auto" : (this.#models[0] ?? "");
  }

  get models() {
    return this.#models;
  }

  get me() {
    return this.#me;
  }

  /** The models that are in memory, and the node on which they are. */
  get inMemory() {
    const nodes = this.#me ? [this.#me, ...this.#peers] : [];
    return nodes.flatMap((node) => node.loaded.map((each) => ({ model: each.model, node: node.id })));
  }

  /** The node that a route names, which is this one where it names none. @param {string} route */
  nodeOf(route) {
    const nodes = [...this.#peers.map((each) => each.id), this.#me?.id ?? ""];
    return (
      nodes.find((id) => id && route.split("; ").some((part) => part.startsWith(`${id}: `))) ??
      this.#me?.id ??
      ""
    );
  }

  /** Goes on with this model, here and in new conversations. @param {string} id */
  choose(id) {
    this.#wanted = id;
    keep("model", id);
    this.#draw();
    this.#onChange();
  }

  /** Shows the model of the conversation that was opened. @param {string} id "" for the usual one */
  show(id) {
    const usual = kept("model", "");
    this.#wanted = id || (this.#models.includes(usual) || !this.#models.length ? usual : "");
    this.#draw();
  }

  #draw() {
    const { model } = this;
    const options = this.#models.map((id) => {
      return h("option", { value: id, text: id === "auto" ? "auto · picks the model" : id });
    });
    // One that has left is still what the conversation would ask; the node then says what is wrong with it.
    if (model && !this.#models.includes(model)) {
      options.push(h("option", { value: model, text: this.#models.length ? `${model} (not here)` : model }));
    }
    this.#select.disabled = !options.length;
    this.#select.replaceChildren(...(options.length ? options : [h("option", { text: "no model" })]));
    this.#select.value = model;
  }
}
