// The panel of models: those of all nodes, downloads under way, and models that could be downloaded.

import { button, h } from "./dom.js";
import { Downloads } from "./panel-downloads.js";
import { feedOf } from "./panel-feed.js";
import { modelRow } from "./panel-model.js";
import { Keyed, reason, say, sayOrHide } from "./panel-parts.js";
import { entries, suggestions } from "./panel-shelf.js";

const PANEL = "panel-models";
/** Suggestions that are shown at once. */
const SHOWN = 5;

/** @param {HTMLElement} element @param {any} app see app.js */
export function mountModels(element, app) {
  const feed = feedOf(app);
  const downloads = new Downloads(app, () => suggest());
  const trouble = h("p", { class: "note", "data-level": "warn", hidden: true });
  const again = button({ text: "Try again", icon: "retry", onclick: () => feed.retry() });
  const rows = h("ul", { class: "rows", "aria-label": "Models" });
  const list = new Keyed(rows, (/** @type {any} */ each) => each.id, () => modelRow(app, used));
  const hint = h("p", { class: "panel-hint", hidden: true });
  hint.textContent =
    "exo-demo is a toy that came with exo, for trying things out. Download a model below for real answers.";
  const field = h("input", {
    type: "text",
    id: "download-name",
    autocomplete: "off",
    spellcheck: "false",
    autocapitalize: "off",
    placeholder: "qwen3-0.6b or USER/REPO",
    oninput: () => suggest(),
  });
  const begin = h("button", { type: "submit", class: "primary", text: "Download" });
  const problem = h("p", { class: "note", "data-level": "danger", role: "alert", hidden: true });
  const offered = h("ul", { class: "offers", "aria-label": "Models to download" });
  const offers = new Keyed(offered, (/** @type {any} */ each) => each.id, () => offer((id) => download(id)));
  const more = h("p", { class: "muted more" });
  const form = h(
    "form",
    { class: "download-form", onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), download(field.value.trim())) },
    h("label", { for: "download-name", class: "hidden-label", text: "Model to download" }),
    field,
    begin,
  );
  const get = h("section", { class: "get", "aria-label": "Get a model" }, h("h3", { text: "Get a model" }), form, problem, offered, more);
  element.append(trouble, again, downloads.element, rows, hint, get);
  let open = false;
  /** @type {Record<string, any>} */
  let pool = {};

  function used() {
    // Where the panel covers the conversation, it is in the way now.
    if (matchMedia("(max-width: 48rem)").matches) element.closest(".panel")?.querySelector("[data-closes]")?.click();
  }

  /** @param {string} name */
  async function download(name) {
    if (!name) return field.focus();
    begin.disabled = true;
    sayOrHide(problem, "");
    try {
      await downloads.start(name);
      field.value = "";
    } catch (error) {
      sayOrHide(problem, reason(error));
    }
    begin.disabled = false;
    suggest();
  }

  function suggest() {
    const here = new Set(entries(feed.told.cluster ?? { me: { cards: [], loaded: [] }, peers: [] }).map((each) => each.id));
    const apple = feed.told.cluster?.me.device.kind === "apple";
    const found = suggestions(pool, new Set([...here, ...downloads.models]), field.value.trim(), apple);
    offers.show(found.slice(0, SHOWN));
    const left = found.length - SHOWN;
    sayOrHide(more, left > 0 ? `${left} more: type a part of a name to find them.` : "");
  }

  function draw() {
    const { cluster, state, error } = feed.told;
    const lost = state === "lost" || state === "refused";
    sayOrHide(trouble, lost ? (error?.message ?? "The node says nothing any more. Trying again.") : "");
    again.hidden = !lost;
    element.classList.toggle("stale", lost);
    if (!cluster) return;
    const found = entries(cluster);
    list.show(found);
    hint.hidden = found.some((each) => each.id !== "exo-demo");
    suggest();
  }

  feed.subscribe(() => {
    if (open) draw();
  });
  async function lookUp() {
    try {
      pool = await app.api.get("/initial_models");
    } catch (/** @type {any} */ error) {
      // The feed meets the same failure, and says so; without the pool there are no suggestions.
      if (error.name !== "ApiError") throw error;
    }
    suggest();
  }

  app.onOpen(PANEL, () => {
    open = true;
    feed.want(PANEL);
    downloads.open();
    draw();
    lookUp();
  });
  app.onReturn(() => {
    if (!open) return;
    downloads.open();
    lookUp();
  });
  app.onClose(PANEL, () => {
    open = false;
    feed.leave(PANEL);
    downloads.close();
  });
}

/** A model that could be downloaded. @param {(id: string) => void} onGet */
function offer(onGet) {
  let id = "";
  const name = h("span", { class: "offer-name" });
  const short = h("span", { class: "muted offer-id" });
  const get = button({ icon: "download", label: "Download", class: "quiet", onclick: () => onGet(id) });
  const element = h("li", { class: "offer" }, h("div", {}, name, short), get);
  return {
    element,
    update(/** @type {{id: string, name: string}} */ now) {
      id = now.id;
      say(name, now.name);
      say(short, id);
      get.setAttribute("aria-label", `Download ${id}`);
    },
  };
}
