// Conversations, kept in the browser: in IndexedDB, as localStorage ends at some 5 MB, holds the page up while it
// writes, and would write all of a conversation as one text with each answer. What the list shows is apart
// from the conversations, so that a page with a thousand of them starts with a small part of their bytes.

import { matches } from "./conversation.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {{id: string, title: string, updated: number}} Summary */

const NAME = "exo";
const VERSION = 1;

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export class Store {
  #database;
  #channel = new BroadcastChannel(NAME);

  /** @param {IDBDatabase} database */
  constructor(database) {
    this.#database = database;
  }

  /** Raises what the browser does where it keeps nothing, as in some private windows. */
  static async open() {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      request.result.createObjectStore("summaries", { keyPath: "id" });
    };
    const database = await result(request);
    // Another tab has a newer page, and waits.
    database.onversionchange = () => database.close();
    return new Store(database);
  }

  /** Calls `listener` with the id of each conversation that another tab changes. @param {(id: string) => void} listener */
  onChange(listener) {
    this.#channel.onmessage = (event) => listener(event.data);
  }

  /** All of them, the latest first. @returns {Promise<Summary[]>} */
  async list() {
    /** @type {Summary[]} */
    const all = await result(this.#read("summaries").getAll());
    return all.sort((a, b) => b.updated - a.updated);
  }

  /** @param {string} id @returns {Promise<Conversation|undefined>} */
  get(id) {
    return result(this.#read("conversations").get(id));
  }

  /** @returns {Promise<Conversation[]>} */
  all() {
    return result(this.#read("conversations").getAll());
  }

  /** Ids of those in which all words of `query` are. @param {string} query @returns {Promise<Set<string>>} */
  find(query) {
    return new Promise((resolve, reject) => {
      /** @type {Set<string>} */
      const found = new Set();
      const request = this.#read("conversations").openCursor();
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor) return resolve(found);
        if (matches(cursor.value, query)) found.add(cursor.value.id);
        cursor.continue();
      };
    });
  }

  /** @param {Conversation} conversation */
  async put(conversation) {
    const { id, title, updated } = conversation;
    await this.#write((whole, summaries) => {
      whole.put(conversation);
      summaries.put({ id, title, updated });
    });
    this.#channel.postMessage(id);
  }

  /** @param {string} id */
  async delete(id) {
    await this.#write((whole, summaries) => {
      whole.delete(id);
      summaries.delete(id);
    });
    this.#channel.postMessage(id);
  }

  /** @param {string} name */
  #read(name) {
    return this.#database.transaction(name, "readonly").objectStore(name);
  }

  /** @param {(conversations: IDBObjectStore, summaries: IDBObjectStore) => void} change @returns {Promise<void>} */
  #write(change) {
    const transaction = this.#database.transaction(["conversations", "summaries"], "readwrite");
    change(transaction.objectStore("conversations"), transaction.objectStore("summaries"));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
    });
  }
}

/** The same where the browser keeps nothing: until the tab is closed. @implements {Pick<Store, keyof Store>} */
export class Forgetful {
  /** @type {Map<string, Conversation>} */
  #all = new Map();

  onChange() {}

  async list() {
    const all = [...this.#all.values()].map(({ id, title, updated }) => ({ id, title, updated }));
    return all.sort((a, b) => b.updated - a.updated);
  }

  /** @param {string} id */
  async get(id) {
    return this.#all.get(id);
  }

  async all() {
    return [...this.#all.values()];
  }

  /** @param {string} query */
  async find(query) {
    return new Set([...this.#all.values()].filter((each) => matches(each, query)).map((each) => each.id));
  }

  /** @param {Conversation} conversation */
  async put(conversation) {
    this.#all.set(conversation.id, conversation);
  }

  /** @param {string} id */
  async delete(id) {
    this.#all.delete(id);
  }
}
