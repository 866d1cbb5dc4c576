// Downloads under way on the node: begun here or elsewhere, and looked at for as long as there are any.

import { button, h } from "./dom.js";
import { bar, Keyed, reason, say, sayOrHide } from "./panel-parts.js";
import { farOf, goings } from "./panel-shelf.js";

/** Milliseconds between two looks: at a download that is seen, at one that is not, and for one of others. */
const SEEN = 1000;
const UNSEEN = 5000;
const OTHERS = 10_000;

const STOPPED = "Stopped; what has come is kept";

/**
 * @typedef {import("./panel-shelf.js").Going & {here?: boolean, stopped?: boolean}} Row
 *   `here` once it has ended well, `stopped` where that was asked for on this page
 */

export class Downloads {
  element = h("section", { class: "downloads", hidden: true, "aria-label": "Downloads" });
  #app;
  #onChange;
  #list;
  /** @type {Row[]} */
  #rows = [];
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
    return new Set(this.#rows.filter(onItsWay).map((each) => each.model));
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
    this.#app.announce(`The download of ${name} has begun`);
    await this.#look();
  }

  /** Stops one, so that it can be gone on with. Raises `ApiError`. @param {Row} row */
  async stop(row) {
    await this.#app.api.del(`/download/${path(row.model)}`);
    this.#app.announce(`The download of ${row.model} is stopped`);
    this.#show(this.#rows.map((each) => (each.model === row.model ? { ...each, stopped: true } : each)));
  }

  /** Puts away one that failed or was stopped, with what has come of it. Raises `ApiError`. @param {Row} row */
  async discard(row) {
    // Neither has to be there: who has stopped it is forgotten by the node, and nothing may have come.
    for (const there of [`/download/${path(row.model)}`, `/models/${path(row.model)}`]) {
      try {
        await this.#app.api.del(there);
      } catch (/** @type {any} */ error) {
        if (error.status !== 404) throw error;
      }
    }
    this.dismiss(row.model);
  }

  /** Puts one away that has ended. @param {string} model */
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
      const kept = this.#rows.filter((each) => (each.here || each.stopped) && !told.some(({ model }) => model === each.model));
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
    this.#list.show(rows);
    this.element.hidden = !rows.length;
    if ([...this.models].join() !== before) this.#onChange();
  }
}

/** @param {Row} row */
function onItsWay({ error, here, stopped }) {
  return !(error || here || stopped);
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
  const stop = button({ text: "Stop", onclick: act(() => downloads.stop(row)) });
  const retry = button({ text: "Retry", icon: "retry", onclick: act(() => downloads.start(row.model)) });
  const discard = button({ text: "Discard", onclick: act(() => downloads.discard(row)) });
  const use = button({ text: "Use", class: "accent", onclick: () => app.chooseModel(row.model) });
  const dismiss = button({ icon: "close", label: "Dismiss", class: "quiet", onclick: () => downloads.dismiss(row.model) });
  const actions = h("div", { class: "row-actions" }, stop, retry, discard, use, dismiss);
  const element = h("li", { class: "row" }, name, drawn.element, facts, problem, actions);

  /** @param {() => Promise<void>} work */
  function act(work) {
    return async () => {
      stop.disabled = retry.disabled = discard.disabled = true;
      try {
        await work();
      } catch (error) {
        sayOrHide(problem, reason(error));
      }
      stop.disabled = retry.disabled = discard.disabled = false;
    };
  }

  function update(/** @type {Row} */ now) {
    const news = !row || row.error !== now.error;
    row = now;
    say(name, row.model);
    drawn.element.hidden = !onItsWay(row);
    drawn.element.setAttribute("aria-label", `Download of ${row.model}`);
    const far = farOf(row, app);
    drawn.set(row.total ? row.done / row.total : null, far);
    sayOrHide(facts, row.error ? "" : row.here ? `It is here: ${app.formatBytes(row.total)}` : row.stopped ? STOPPED : far);
    if (news) sayOrHide(problem, row.error);
    stop.hidden = !onItsWay(row);
    say(/** @type {HTMLElement} */ (retry.lastElementChild), row.stopped ? "Go on" : "Retry");
    for (const each of [retry, discard]) each.hidden = !(row.error || row.stopped);
    for (const each of [use, dismiss]) each.hidden = !row.here;
    stop.setAttribute("aria-label", `Stop the download of ${row.model}`);
    retry.setAttribute("aria-label", `${row.stopped ? "Go on with" : "Retry"} the download of ${row.model}`);
    discard.setAttribute("aria-label", `Discard the download of ${row.model}`);
    use.setAttribute("aria-label", `Use ${row.model}`);
  }

  return { element, update };
}
