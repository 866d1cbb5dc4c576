// The panel of the cluster: a card for each node, as the node at hand sees them, while the panel is open.

import { button, h } from "./dom.js";
import { counted } from "./format.js";
import { feedOf } from "./panel-feed.js";
import { History, running } from "./panel-history.js";
import { nodeCard } from "./panel-node.js";
import { Keyed, reason, sayOrHide } from "./panel-parts.js";

const PANEL = "panel-cluster";
/** Milliseconds between two looks at the clock, while the panel is open. */
const TICK = 1000;

/** @param {HTMLElement} element @param {any} app see app.js */
export function mountCluster(element, app) {
  const feed = feedOf(app);
  const history = new History();
  const summary = h("p", { class: "panel-summary" });
  const trouble = h("p", { class: "note", "data-level": "warn" });
  const again = button({ text: "Try again", icon: "retry", onclick: () => feed.retry() });
  const cards = h("div", { class: "cards" });
  const only = h("p");
  const how = h("p", {
    text:
      "Install exo there, and start exo on the same network: it shows up here by itself. From another network, " +
      "start it with --peer and an address of this machine. Nodes share each other's models.",
  });
  const title = h("h3", { text: "Add a machine" });
  const alone = h("section", { class: "panel-hint", hidden: true, "aria-label": "Add a machine" }, title, how, only);
  element.append(summary, trouble, again, cards, alone);
  const list = new Keyed(
    cards,
    (/** @type {import("./panel-node.js").Given} */ each) => each.seen.node.id,
    () => nodeCard(app, unload),
  );
  let noted = 0;
  let timer = 0;

  /** @param {string} model */
  async function unload(model) {
    try {
      // Answers under way are ended first.
      await app.api.post("/api/generate", { model, keep_alive: 0, stream: false });
    } catch (error) {
      throw new Error(reason(error));
    }
    app.announce(`${model} leaves memory`);
  }

  function draw() {
    const { cluster, at, state, error } = feed.told;
    const now = performance.now() / 1000;
    const lost = state === "lost" || state === "refused";
    sayOrHide(trouble, lost ? troubleOf(state, error, cluster ? now - at / 1000 : null, app) : "");
    again.hidden = !lost;
    if (!cluster) {
      sayOrHide(summary, lost ? "" : "Asking the node…");
      return;
    }
    if (at !== noted) history.add(cluster, at / 1000);
    noted = at;
    const seen = history.nodes(now);
    const here = seen.filter((each) => each.goneFor === null).map((each) => each.node);
    sayOrHide(summary, summaryOf(here));
    const { version } = cluster.me;
    const since = now - at / 1000;
    list.show(seen.map((each) => ({ seen: each, at: now, since, version, stale: lost })));
    alone.hidden = lost || here.length > 1;
    sayOrHide(only, isOnly(cluster.me) ? "This node listens on this machine only. Start it without --host." : "");
  }

  feed.subscribe(() => {
    if (timer) draw();
  });
  app.onOpen(PANEL, () => {
    timer = setInterval(draw, TICK);
    feed.want(PANEL);
    draw();
  });
  app.onClose(PANEL, () => {
    clearInterval(timer);
    timer = 0;
    feed.leave(PANEL);
  });
}

/** @param {any[]} nodes */
function summaryOf(nodes) {
  const sum = (/** @type {(node: any) => number} */ of) => nodes.reduce((all, node) => all + of(node), 0);
  return [
    counted(nodes.length, "node"),
    `${sum(running)} running`,
    `${sum((node) => node.waiting)} waiting`,
  ].join(" · ");
}

/** @param {string} state @param {any} error @param {number|null} old seconds @param {any} app */
function troubleOf(state, error, old, app) {
  const why = error ? error.message : "The node says nothing any more.";
  const shown = old === null || old < 10 ? "" : ` What is shown is ${app.formatDuration(old)} old.`;
  return `${why}${shown}${state === "lost" ? " Trying again." : ""}`;
}

/** Whether others cannot reach the node. @param {any} me */
function isOnly(me) {
  return ["127.0.0.1", "localhost", "[::1]"].includes(new URL(me.url).hostname);
}
