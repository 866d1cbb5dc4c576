// What is shown where nothing has been said yet: what this is, whether a model is there, and what to ask.

import { button, byId, h } from "./dom.js";

const QUESTIONS = ["What is 145 + 278?", "What is Python in one sentence?", "Write a haiku about AI."];
/** The model that is in the package: it shows that everything works, and knows little. */
const BUNDLED = "exo-demo";

/**
 * @param {import("./picker.js").Picker} picker
 * @param {{onAsk: (question: string) => void, onModels: () => void}} given
 */
export function drawEmpty(picker, { onAsk, onModels }) {
  const own = picker.models.filter((id) => id !== "auto");
  const asks = QUESTIONS.map((each) => button({ text: each, class: "example", onclick: () => onAsk(each) }));
  const onlyBundled = own.length === 1 && own[0] === BUNDLED;
  const content = [
    h("h1", { text: "Ask your own machines" }),
    h("p", {
      class: "muted",
      text: "Answers come from the models of this node and of the nodes around it.",
    }),
    h("p", { class: "model-state", text: stateOf(picker, own) }),
    h("div", { class: "examples" }, ...asks),
  ];
  if (onlyBundled || (picker.me && !own.length)) {
    const words = onlyBundled
      ? `Only ${BUNDLED} is here, which does sums and small talk, to show that everything works.`
      : "There is no model here yet.";
    content.push(
      h(
        "p",
        { class: "tip" },
        h("span", { text: words }),
        button({ icon: "box", text: onlyBundled ? "Get a larger model" : "Get a model", onclick: onModels }),
      ),
    );
  }
  byId("empty").replaceChildren(...content);
}

/** @param {import("./picker.js").Picker} picker @param {string[]} own */
function stateOf(picker, own) {
  const { model, me } = picker;
  if (!me) return "Asking the node for its models…";
  if (!own.length) return "No model is here.";
  if (model === "auto" && own.length === 1) return `${own[0]} ${readiness(picker, own[0])}`;
  if (model === "auto") return `auto picks the model that suits the question, out of ${own.length}.`;
  if (!own.includes(model)) return `${model} is not here any more: choose another model above.`;
  return `${model} ${readiness(picker, model)}`;
}

/** @param {import("./picker.js").Picker} picker @param {string} model */
function readiness(picker, model) {
  const places = picker.inMemory.filter((each) => each.model === model).map((each) => each.node);
  return places.length
    ? `is in memory on ${places.join(" and ")}.`
    : "is loaded when the first question comes.";
}
