// The two dialogs of settings: of the conversation that is open, and of the page.

import { asJson, fromJson, NOTHING_SET } from "./conversation.js";
import { confirm, openDialog, toast } from "./dialogs.js";
import { button, h } from "./dom.js";
import { openFile, saveFile } from "./files.js";
import { apiKey, isKeyRemembered, keep, keepKey, kept } from "./kept.js";

/** @typedef {import("./conversation.js").Settings} Settings */

/** What a new conversation begins with. @returns {Settings} */
export function defaults() {
  return { ...NOTHING_SET, ...kept("defaults", {}) };
}

const NUMBERS = [
  {
    name: "temperature",
    label: "Temperature",
    hint: "0 to 2: how freely words are drawn",
    min: 0,
    max: 2,
    step: "any",
  },
  { name: "top_p", label: "Top p", hint: "0 to 1: only the likeliest words", min: 0.01, max: 1, step: "any" },
  {
    name: "max_tokens",
    label: "Max tokens",
    hint: "where an answer ends at the latest",
    min: 1,
    max: 2 ** 31 - 1,
    step: 1,
  },
  {
    name: "seed",
    label: "Seed",
    hint: "the same number, the same answer",
    min: -(2 ** 53),
    max: 2 ** 53,
    step: 1,
  },
];
const THINKING = [
  ["", "As the model does"],
  ["true", "On"],
  ["false", "Off"],
];

/**
 * The settings of a conversation. What is changed holds from the next answer on.
 *
 * @param {Settings} settings are changed in place
 * @param {() => void} onChange
 */
export function openTuning(settings, onChange) {
  const system = h("textarea", { rows: "4", id: "set-system", placeholder: "None" });
  system.addEventListener("change", () => set("system", system.value.trim() || null));
  const thinking = h(
    "select",
    { id: "set-thinking" },
    ...THINKING.map(([value, text]) => h("option", { value, text })),
  );
  thinking.addEventListener("change", () =>
    set("enable_thinking", thinking.value ? thinking.value === "true" : null),
  );
  const numbers = NUMBERS.map(({ name, label, hint, min, max, step }) => {
    const input = h("input", {
      type: "number",
      id: `set-${name}`,
      min,
      max,
      step,
      placeholder: "Default",
      "aria-describedby": `hint-${name}`,
    });
    input.addEventListener("change", () => {
      if (input.reportValidity()) set(name, input.value === "" ? null : Number(input.value));
    });
    const note = h("small", { id: `hint-${name}`, class: "muted", text: hint });
    return { name, input, row: field(label, input, note) };
  });

  /** @param {string} name @param {any} value */
  function set(name, value) {
    Object.assign(settings, { [name]: value });
    onChange();
  }

  function show() {
    system.value = settings.system ?? "";
    thinking.value = settings.enable_thinking === null ? "" : String(settings.enable_thinking);
    for (const { name, input } of numbers) input.value = /** @type {any} */ (settings)[name] ?? "";
  }

  const reset = () => {
    Object.assign(settings, defaults());
    show();
    onChange();
  };
  const useAsDefaults = () => {
    const changed = Object.entries(settings).filter(([, value]) => value !== null);
    keep("defaults", changed.length ? Object.fromEntries(changed) : null);
    toast("New conversations begin with these settings.");
  };
  show();
  openDialog("Settings of this conversation", [
    field("System prompt", system),
    h("div", { class: "grid" }, ...numbers.map((each) => each.row), field("Thinking", thinking)),
    h("p", { class: "muted small-print", text: "What is left empty is up to the node and the model." }),
    h(
      "div",
      { class: "dialog-actions" },
      button({ text: "Reset to defaults", onclick: reset }),
      button({ text: "Use as defaults", onclick: useAsDefaults }),
    ),
  ]);
}

/** @param {string} label @param {HTMLElement} input @param {HTMLElement|null} [note] */
function field(label, input, note = null) {
  return h("div", { class: "field" }, h("label", { for: input.id, text: label }), input, note);
}

let keyIsOpen = false;

/**
 * The settings of the page.
 *
 * @param {object} given
 * @param {string} [given.wanted] why the key is asked for, where it is
 * @param {() => void} given.onKey a key was given
 * @param {() => void} given.onClose the dialog was closed, before that
 * @param {import("./store.js").Store} given.store
 * @param {() => void} given.onImport
 * @param {() => Promise<void>} given.onDeleteAll
 */
export function openSettings({ wanted = "", onKey, onClose, store, onImport, onDeleteAll }) {
  // Several requests may be refused at once.
  if (keyIsOpen) return;
  keyIsOpen = true;
  let saved = false;
  const key = h("input", {
    type: "password",
    id: "set-key",
    autocomplete: "off",
    spellcheck: "false",
    value: apiKey(),
  });
  const remember = h("input", { type: "checkbox", id: "set-remember" });
  remember.checked = isKeyRemembered();
  const save = () => {
    keepKey(key.value.trim(), remember.checked);
    saved = true;
    dialog.close();
  };
  const form = h(
    "form",
    { class: "section" },
    wanted && h("p", { class: "asked", role: "alert", text: wanted }),
    field(
      "API key",
      key,
      h("small", { class: "muted", text: "What EXO_API_KEY is on the node, or a key that `exo key add` has made; empty where it has none." }),
    ),
    h("label", { class: "check" }, remember, h("span", { text: "Remember it in this browser" })),
    h(
      "div",
      { class: "dialog-actions" },
      h("button", { type: "submit", class: "primary", text: "Save key" }),
    ),
  );
  form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    save();
  });
  const deleteAll = async () => {
    if (!(await confirm("All conversations in this browser will be deleted. This cannot be undone."))) return;
    await onDeleteAll();
    toast("All conversations are deleted.");
  };
  const data = h(
    "div",
    { class: "section" },
    h("h3", { text: "Conversations" }),
    h("p", { class: "muted small-print", text: "They are kept in this browser, and nowhere else." }),
    h(
      "div",
      { class: "dialog-actions start" },
      button({ icon: "download", text: "Export all", onclick: () => exportAll(store) }),
      button({ text: "Import", onclick: () => importSome(store, onImport) }),
      button({ icon: "trash", text: "Delete all", class: "danger", onclick: deleteAll }),
    ),
  );
  const closed = () => {
    keyIsOpen = false;
    onClose();
    if (saved) onKey();
  };
  const dialog = openDialog("Settings", [form, data], { onClose: closed });
  key.focus();
}

/** @param {import("./store.js").Store} store */
async function exportAll(store) {
  const day = new Date().toISOString().slice(0, 10);
  saveFile(`exo-conversations-${day}.json`, "application/json", asJson(await store.all()));
}

/** One that is here already is replaced by a newer one only.
 * @param {import("./store.js").Store} store @param {() => void} onImport */
async function importSome(store, onImport) {
  const text = await openFile(".json,application/json");
  if (text === null) return;
  let found;
  try {
    found = fromJson(text);
  } catch (error) {
    toast(`Nothing was imported: ${/** @type {Error} */ (error).message}.`);
    return;
  }
  let imported = 0;
  for (const conversation of found) {
    const here = await store.get(conversation.id);
    if (here && here.updated >= conversation.updated) continue;
    await store.put(conversation);
    imported += 1;
  }
  onImport();
  toast(
    `Imported ${imported} of ${found.length} conversations${imported < found.length ? "; the others are here already" : ""}.`,
  );
}
