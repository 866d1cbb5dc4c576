// Downloads under way on the node: begun here or elsewhere, and looked at for as long as there are any.

import { button, h } from "./dom.js";
import { bar, Keyed, reason, say, sayOrHide } from "./panel-parts.js";
import { farOf, goings } from "./panel-shelf.js";

/** Milliseconds between two looks: at a download that is seen, at one that is not, and for one of others. */
const SEEN = 1000;
const UNSEEN = 5000;
const OTHERS = 10_000;

/** @typedef {import("./panel-shelf.js").Going & {here?: boolean}} Row `here` once it has ended well */

export class Downloads {
  element = h("section", { class: "downloads", hidden: true, "aria-label": "Downloads" });
  #app;
  #onChange;
  #list;
  /** @type {Row[]} */
  #rows = [];
  /** Failures that were put away: the node tells of them until it is asked again. @type {Set<string>} */
  #dismissed = new Set();
  #open = false;
  #timer = 0;
  #looking = false;

  /** @param {any} app see app.js @param {() => void} onChange other models are under way than before */
  constructor(app, onChange) {
    this.#app = app;
    this.#onChange = onChange;
    const rows = h("ul", { class: "rows" });
    this.#list = new Keyed(rows, (/** @type {Row} */ each) => each.model, () => downloadRow(app, this));
    this.element.append(h("h3", { text: "Downloads" }), rows);
    document.addEventListener("visibilitychange", () => this.#plan(0));
  }

  /** Ids of the models that are on their way. @returns {Set<string>} */
  get models() {
    return new Set(this.#rows.filter((each) => !each.error && !each.here).map((each) => each.model));
  }

  open() {
    this.#open = true;
    this.#plan(0);
  }

  close() {
    this.#open = false;
    this.#plan(UNSEEN);
  }

  /** Begins one, or goes on with one that failed. Raises `ApiError`. @param {string} name */
  async start(name) {
    await this.#app.api.post("/download", { model: name });
    // The same failure is another one the next time.
    this.#dismissed.clear();
    this.#app.announce(`The download of ${name} has begun`);
    await this.#look();
  }

  /** Puts a failure away, with what has come of the model. Raises `ApiError`. @param {Row} row */
  async discard(row) {
    try {
      await this.#app.api.del(`/models/${path(row.model)}`);
    } catch (/** @type {any} */ error) {
      // Nothing of it had come.
      if (error.status !== 404) throw error;
    }
    this.#dismissed.add(mark(row));
    this.#show(this.#rows);
  }

  /** Puts one away that has ended well. @param {string} model */
  dismiss(model) {
    this.#show(this.#rows.filter((each) => each.model !== model));
  }

  /** Looks again after so many milliseconds, if there is a reason to. @param {number} wait */
  #plan(wait) {
    clearTimeout(this.#timer);
    if (document.hidden || !(this.#open || this.models.size)) return;
    this.#timer = setTimeout(() => this.#look(), wait);
  }

  async #look() {
    if (this.#looking) return;
    this.#looking = true;
    try {
      const told = goings(await this.#app.api.get("/v1/download/progress"));
      const ended = [...this.models].filter((model) => !told.some((each) => each.model === model));
      const here = ended.length ? await this.#arrived(ended) : [];
      const kept = this.#rows.filter((each) => each.here && !told.some(({ model }) => model === each.model));
      this.#show([...told, ...kept, ...here]);
    } catch (/** @type {any} */ error) {
      // That the node does not answer, or wants a key, is said elsewhere; the next look tells what came of it.
      if (error.name !== "ApiError") throw error;
      if (error.status === 401) return;
    } finally {
      this.#looking = false;
    }
    this.#plan(!this.#open ? UNSEEN : this.models.size ? SEEN : OTHERS);
  }

  /** Those that have become models; the others were stopped. @param {string[]} ended @returns {Promise<Row[]>} */
  async #arrived(ended) {
    const pool = await this.#app.api.get("/initial_models");
    const here = this.#rows.filter((each) => ended.includes(each.model) && pool[each.model]?.downloaded);
    for (const { model } of here) this.#app.announce(`${model} is downloaded`);
    await this.#app.refreshModels();
    return here.map((each) => ({ ...each, here: true }));
  }

  /** @param {Row[]} rows */
  #show(rows) {
    const before = [...this.models].join();
    this.#rows = rows;
    const shown = rows.filter((each) => !this.#dismissed.has(mark(each)));
    this.#list.show(shown);
    this.element.hidden = !shown.length;
    if ([...this.models].join() !== before) this.#onChange();
  }
}

/** @param {Row} row */
function mark({ model, error }) {
  return `${model}\n${error}`;
}

/** A model's id in a path: its slashes stay. @param {string} model */
export function path(model) {
  return model.split("/").map(encodeURIComponent).join("/");
}

/** @param {any} app @param {Downloads} downloads */
function downloadRow(app, downloads) {
  /** @type {Row} */
  let row;
  const name = h("span", { class: "row-name" });
  const facts = h("p", { class: "row-facts muted" });
  const problem = h("p", { class: "note", "data-level": "danger", role: "alert" });
  const drawn = bar("progressbar", "");
  const retry = button({ text: "Retry", icon: "retry", onclick: act(() => downloads.start(row.model)) });
  const discard = button({ text: "Discard", onclick: act(() => downloads.discard(row)) });
  const use = button({ text: "Use", class: "accent", onclick: () => app.chooseModel(row.model) });
  const dismiss = button({ icon: "close", label: "Dismiss", class: "quiet", onclick: () => downloads.dismiss(row.model) });
  const actions = h("div", { class: "row-actions" }, retry, discard, use, dismiss);
  const element = h("li", { class: "row" }, name, drawn.element, facts, problem, actions);

  /** @param {() => Promise<void>} work */
  function act(work) {
    return async () => {
      retry.disabled = discard.disabled = true;
      try {
        await work();
      } catch (error) {
        sayOrHide(problem, reason(error));
      }
      retry.disabled = discard.disabled = false;
    };
  }

  function update(/** @type {Row} */ now) {
    const news = !row || row.error !== now.error;
    row = now;
    say(name, row.model);
    drawn.element.hidden = Boolean(row.error || row.here);
    drawn.element.setAttribute("aria-label", `Download of ${row.model}`);
    const far = farOf(row, app);
    drawn.set(row.total ? row.done / row.total : null, far);
    sayOrHide(facts, row.error ? "" : row.here ? `It is here: ${app.formatBytes(row.total)}` : far);
    if (news) sayOrHide(problem, row.error);
    for (const each of [retry, discard]) each.hidden = !row.error;
    for (const each of [use, dismiss]) each.hidden = !row.here;
    retry.setAttribute("aria-label", `Retry the download of ${row.model}`);
    discard.setAttribute("aria-label", `Discard the download of ${row.model}`);
    use.setAttribute("aria-label", `Use ${row.model}`);
    actions.hidden = !(row.error || row.here);
  }

  return { element, update };
}
