// What is shown above the page: questions to be answered, and notes that go away by themselves.

import { button, byId, h } from "./dom.js";

/** Says something to who hears the page instead of seeing it. @param {string} text */
export function announce(text) {
  const announcer = byId("announcer");
  // The same words twice in a row are heard twice only if the element was empty between them.
  announcer.textContent = "";
  requestAnimationFrame(() => {
    announcer.textContent = text;
  });
}

/**
 * A modal dialog with a heading. It is closed by Esc, by a click beside it, and by `close`, and is gone then.
 *
 * @param {string} title
 * @param {(HTMLElement|null|false)[]} content
 * @param {{onClose?: () => void, class?: string}} [options]
 * @returns {{element: HTMLDialogElement, close: () => void}}
 */
export function openDialog(title, content, { onClose = () => {}, class: kind = "" } = {}) {
  const id = `dialog-${title.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;
  const element = h(
    "dialog",
    { class: `dialog ${kind}`, "aria-labelledby": id },
    h(
      "div",
      { class: "dialog-head" },
      h("h2", { id, text: title }),
      button({ icon: "close", label: "Close", class: "quiet", onclick: () => element.close() }),
    ),
    h("div", { class: "dialog-body" }, ...content),
  );
  element.addEventListener("close", () => {
    element.remove();
    onClose();
  });
  element.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    if (event.target === element) element.close();
  });
  document.body.append(element);
  element.showModal();
  return { element, close: () => element.close() };
}

/**
 * Asks whether to go on.
 *
 * @param {string} text
 * @param {string} [yes] what the button says that goes on
 * @returns {Promise<boolean>}
 */
export function confirm(text, yes = "Delete") {
  return new Promise((resolve) => {
    let answer = false;
    const decided = (/** @type {boolean} */ value) => () => {
      answer = value;
      dialog.close();
    };
    const buttons = h(
      "div",
      { class: "dialog-actions" },
      button({ text: "Cancel", onclick: decided(false) }),
      button({ text: yes, class: "danger", onclick: decided(true) }),
    );
    const dialog = openDialog("Are you sure?", [h("p", { text }), buttons], {
      onClose: () => resolve(answer),
    });
    buttons.querySelector("button").focus();
  });
}

const STAYS = 8000;

/**
 * A note at the bottom, with something to do about it or none.
 *
 * @param {string} text
 * @param {{action?: string, onAction?: () => void}} [options]
 */
export function toast(text, { action = "", onAction = () => {} } = {}) {
  const note = h("div", { class: "toast", role: "status" }, h("span", { text }));
  const gone = setTimeout(() => note.remove(), STAYS);
  const dismiss = () => {
    clearTimeout(gone);
    note.remove();
  };
  if (action) {
    note.append(
      button({
        text: action,
        class: "quiet",
        onclick: () => {
          dismiss();
          onAction();
        },
      }),
    );
  }
  note.append(button({ icon: "close", label: "Dismiss", class: "quiet", onclick: dismiss }));
  byId("toasts").replaceChildren(note);
}
