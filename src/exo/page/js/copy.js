// Buttons that copy.

import { announce, toast } from "./dialogs.js";
import { button, icon } from "./dom.js";

/** @param {string} label @param {() => string} text what is copied, asked for when it is */
export function copyButton(label, text) {
  const made = button({
    icon: "copy",
    label,
    class: "quiet small",
    onclick: async () => {
      if (!(await copied(text()))) {
        toast("The browser did not let this page copy. Select the text and copy it yourself.");
        return;
      }
      announce("Copied");
      made.replaceChildren(icon("check"));
      setTimeout(() => made.replaceChildren(icon("copy")), 1500);
    },
  });
  return made;
}

/** @param {string} text */
async function copied(text) {
  // Pages that came over plain HTTP from another machine have no clipboard.
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Not allowed: the old way may be.
    }
  }
  const area = document.createElement("textarea");
  area.className = "hidden-label";
  area.value = text;
  // In a dialog that is open, nothing outside it can be selected.
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  const before = document.activeElement;
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (before instanceof HTMLElement) before.focus();
  return done;
}
