// Markdown to elements. What a model writes is hostile until proven otherwise: it may quote a page that wants
// to be run. So its markup is text like any other, but for a few tags that do nothing, and what Markdown makes of it
// goes through DOMPurify with a list of what may be there, and everything else is left out.
// This is the only file that makes elements of markup.

import "../vendor/dompurify.js";
import { Marked } from "../vendor/marked.js";

// Its small build is no module, and leaves what it has here.
const { DOMPurify } = /** @type {any} */ (globalThis);

const TAGS = [
  "a",
  "b",
  "blockquote",
  "br",
  "code",
  "del",
  "em",
  "h1",
  "h2",
  "h3",
  "h4",
  "h5",
  "h6",
  "hr",
  "i",
  "ins",
  "kbd",
  "li",
  "mark",
  "ol",
  "p",
  "pre",
  "s",
  "small",
  "strong",
  "sub",
  "sup",
  "table",
  "tbody",
  "td",
  "th",
  "thead",
  "tr",
  "u",
  "ul",
];
// No `class` but a code block's language, and no `id`: either could make an answer look like the page itself.
const ATTRIBUTES = ["align", "class", "href", "start", "title"];
const LINK = /^(?:https?:|mailto:)/i;
const LANGUAGE = /^language-[\w+#.-]{1,40}$/;
// Tags that models write within Markdown, as it has none for them.
const BARE = /^<\/?(?:b|br|code|del|em|i|ins|kbd|mark|s|small|strong|sub|sup|u)\s*\/?>$/i;

const marked = new Marked({
  gfm: true,
  // Verses and sums of small models have a line each, and not the two spaces that Markdown wants.
  breaks: true,
  renderer: {
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    // All other markup is shown as it was written: whoever reads it wants to know what the model said.
    html: ({ text, block }) => {
      const parts = text
        .trim()
        .split(/(<[^<>]*>)/)
        .map((part) => (BARE.test(part) ? part : escaped(part)));
      return block ? `<p>${parts.join("").replaceAll("\n", "<br>")}</p>` : parts.join("");
    },
    // An image would be asked for from wherever it is, which tells that machine who reads this.
    image: ({ href, text }) => {
      const words = escaped(text || "image");
      return LINK.test(href) ? `<a href="${escaped(href)}">${words} (image)</a>` : words;
    },
  },
});

/** @param {string} text */
function escaped(text) {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}

const answers = DOMPurify(window);
answers.setConfig({
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ATTRIBUTES,
  ALLOWED_URI_REGEXP: LINK,
  // Else they would have to be links themselves.
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
});
answers.addHook("uponSanitizeAttribute", (node, data) => {
  if (data.attrName === "class") data.keepAttr = node.nodeName === "CODE" && LANGUAGE.test(data.attrValue);
});
answers.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A" || !node.hasAttribute("href")) return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

const highlights = DOMPurify(window);
highlights.setConfig({ ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true });

/** @param {string} text @returns {DocumentFragment} */
export function rendered(text) {
  return /** @type {any} */ (answers.sanitize(/** @type {string} */ (marked.parse(text))));
}

/** What highlight.js made, which has spans with classes in it. @param {string} html @returns {DocumentFragment} */
export function renderedSpans(html) {
  return /** @type {any} */ (highlights.sanitize(html));
}
