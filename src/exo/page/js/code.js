// Code blocks: their language, a button that copies, and colours once they are whole. highlight.js is asked for
// when the first one needs it.

import { copyButton } from "./copy.js";
import { h } from "./dom.js";
import { LongText } from "./longtext.js";
import { renderedSpans } from "./markdown.js";

/** Characters that are given colours: more takes too long. */
const MOST = 50_000;

/** @param {string} language */
export function codeBlock(language) {
  const text = new LongText("", "code");
  let code = "";
  const element = h(
    "div",
    { class: "block code" },
    h(
      "div",
      { class: "code-head" },
      h("span", { text: language || "text" }),
      copyButton("Copy code", () => code),
    ),
    h("pre", { tabindex: "0", "aria-label": language ? `Code, ${language}` : "Code" }, text.element),
  );
  const put = (/** @type {string} */ whole, /** @type {boolean} */ settled) => {
    if (whole === code && !settled) return;
    code = whole;
    text.put(whole);
    if (settled && language && whole.length <= MOST) colour(text.element, language, whole);
  };
  return { element, put };
}

/** @param {HTMLElement} element @param {string} language @param {string} code */
async function colour(element, language, code) {
  const { default: highlighter } = await import("../vendor/highlight.js");
  if (!highlighter.getLanguage(language)) return;
  const made = highlighter.highlight(code, { language, ignoreIllegals: true });
  element.replaceChildren(renderedSpans(made.value));
}
