// What the keyboard does wherever the focus is, and the list of it.

import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";

const KEYS = [
  ["Enter", "Send"],
  ["Shift + Enter", "New line"],
  ["Esc", "Stop the answer"],
  ["Ctrl or ⌘ + K", "Search conversations"],
  ["Ctrl or ⌘ + Shift + O", "New chat"],
  ["?", "This list"],
];

export function openHelp() {
  const rows = KEYS.flatMap(([keys, what]) => [
    h("dt", {}, h("kbd", { text: keys })),
    h("dd", { text: what }),
  ]);
  openDialog("Keyboard", [h("dl", { class: "keys" }, ...rows)]);
}

/** @param {{onSearch: () => void, onNew: () => void, onStop: () => boolean}} given `onStop` says whether there was
 * anything to stop */
export function mountShortcuts({ onSearch, onNew, onStop }) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const command = event.ctrlKey || event.metaKey;
    if (command && !event.shiftKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      onSearch();
    } else if (command && event.shiftKey && event.key.toLowerCase() === "o") {
      event.preventDefault();
      onNew();
    } else if (event.key === "Escape") {
      if (onStop()) event.preventDefault();
    } else if (event.key === "?" && !command && !isWriting(event.target)) {
      event.preventDefault();
      openHelp();
    }
  });
}

/** @param {EventTarget|null} target */
function isWriting(target) {
  return target instanceof HTMLElement && target.matches("input, textarea, select");
}
