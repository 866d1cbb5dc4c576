// What the node says of its cluster, for both panels: one stream of events, read while a panel is open and
// the page is seen, and asked for again when it breaks off.

/** Seconds until the next try, by how many have failed in a row. */
const WAITS = [1, 2, 4, 8, 15, 30];
/** Milliseconds after which a stream that says nothing is gone: a node says something every five seconds. */
const SILENCE = 20_000;

/**
 * @typedef {object} Told
 * @property {any} cluster as of GET /v1/cluster; null before the first event
 * @property {number} at when that came, as of `performance.now()`
 * @property {"off"|"connecting"|"live"|"lost"|"refused"} state "lost" is tried again by itself
 * @property {import("./api.js").ApiError|null} error why it was lost or refused, where that is known
 */

export class Feed {
  /** @type {Told} */
  told = { cluster: null, at: 0, state: "off", error: null };
  #api;
  /** @type {Set<(told: Told) => void>} */
  #listeners = new Set();
  /** @type {Set<string>} */
  #wanted = new Set();
  /** @type {AbortController|null} */
  #stream = null;
  #failed = 0;
  #timer = 0;

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    this.#api = api;
    document.addEventListener("visibilitychange", () => this.#look());
    window.addEventListener("online", () => this.retry());
  }

  /** Has `listener` called with what is told now, and with all that comes. @param {(told: Told) => void} listener */
  subscribe(listener) {
    this.#listeners.add(listener);
    listener(this.told);
  }

  /** Reads from now on, for whoever goes by this name. @param {string} name */
  want(name) {
    this.#wanted.add(name);
    if (this.told.state === "refused") this.retry();
    else this.#look();
  }

  /** Reads no longer, if nobody else wants it. @param {string} name */
  leave(name) {
    this.#wanted.delete(name);
    this.#look();
  }

  /** Tries again at once, where it has failed. */
  retry() {
    if (this.told.state !== "lost" && this.told.state !== "refused") return;
    clearTimeout(this.#timer);
    this.#stream?.abort();
    this.#stream = null;
    this.#failed = 0;
    this.#set({ state: "off" });
    this.#look();
  }

  /** Begins or ends, as it is wanted now. */
  #look() {
    const wanted = this.#wanted.size > 0 && !document.hidden;
    if (wanted && this.told.state === "off") this.#read();
    if (!wanted && this.told.state !== "off") {
      clearTimeout(this.#timer);
      this.#stream?.abort();
      this.#stream = null;
      this.#failed = 0;
      this.#set({ state: "off", error: null });
    }
  }

  async #read() {
    const stream = new AbortController();
    this.#stream = stream;
    // What was lost is lost until something comes.
    if (this.told.state === "off") this.#set({ state: "connecting" });
    let silence = setTimeout(() => stream.abort(), SILENCE);
    /** @type {any} */
    let error = null;
    try {
      await this.#api.stream("/v1/cluster/events", null, {
        signal: stream.signal,
        onEvent: ({ data }) => {
          clearTimeout(silence);
          silence = setTimeout(() => stream.abort(), SILENCE);
          this.#failed = 0;
          this.#set({ cluster: JSON.parse(data), at: performance.now(), state: "live", error: null });
        },
      });
    } catch (raised) {
      error = raised;
    } finally {
      clearTimeout(silence);
    }
    // Another one has taken its place, or nobody wants any.
    if (this.#stream !== stream) return;
    this.#stream = null;
    if (error && error.name !== "AbortError" && error.name !== "ApiError") throw error;
    this.#lost(error?.name === "ApiError" ? error : null);
  }

  /** @param {import("./api.js").ApiError|null} error */
  #lost(error) {
    if (error && error.status >= 400 && error.status < 500 && error.status !== 429) {
      this.#set({ state: "refused", error });
      return;
    }
    const wait = error?.retryAfter ?? WAITS[Math.min(this.#failed, WAITS.length - 1)];
    this.#failed += 1;
    this.#set({ state: "lost", error });
    this.#timer = setTimeout(() => this.#read(), wait * 1000);
  }

  /** @param {Partial<Told>} news */
  #set(news) {
    this.told = { ...this.told, ...news };
    for (const listener of this.#listeners) listener(this.told);
  }
}

/** @type {WeakMap<object, Feed>} */
const feeds = new WeakMap();

/** The page's one feed. @param {any} app see app.js @returns {Feed} */
export function feedOf(app) {
  let feed = feeds.get(app);
  if (!feed) {
    const made = (feed = new Feed(app.api));
    feeds.set(app, made);
    app.onReturn(() => made.retry());
  }
  return feed;
}
