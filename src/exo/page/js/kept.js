// Small things that the browser keeps between visits: choices, drafts, and the node's key.

const PREFIX = "exo.";

/** @param {string} name @param {any} otherwise */
export function kept(name, otherwise) {
  const text = localStorage.getItem(PREFIX + name);
  if (text === null) return otherwise;
  try {
    return JSON.parse(text);
  } catch {
    return otherwise;
  }
}

/** @param {string} name @param {any} value null forgets it */
export function keep(name, value) {
  if (value === null) localStorage.removeItem(PREFIX + name);
  else localStorage.setItem(PREFIX + name, JSON.stringify(value));
}

const KEY = `${PREFIX}key`;

/** The node's key, "" where none was given. */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
}

export function isKeyRemembered() {
  return localStorage.getItem(KEY) !== null;
}

/** Keeps the key until the tab is closed, or where it is to be remembered, until it is changed here.
 * @param {string} key @param {boolean} remember */
export function keepKey(key, remember) {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  if (key) (remember ? localStorage : sessionStorage).setItem(KEY, key);
}
