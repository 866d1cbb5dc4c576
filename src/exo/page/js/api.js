// What the page asks of its node: JSON and streams of events, with the key, and failures as `ApiError`.

import { EventReader } from "./sse.js";

/** A request that failed. `status` is 0 where there was no answer, and then `code` is "unreachable", or
 * "connection_lost" where an answer broke off. `retryAfter` is in seconds, null where the node does not say. */
export class ApiError extends Error {
  /** @param {{status: number, code: string, message: string, retryAfter?: number|null}} given */
  constructor({ status, code, message, retryAfter = null }) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/**
 * @typedef {object} Hooks
 * @property {() => string} key the node's key, "" where there is none
 * @property {() => void} onUnauthorized the node wants a key, or another one
 * @property {() => void} onUnreachable no answer came, or one broke off
 * @property {() => void} onAnswer something came
 */

/** @param {Hooks} hooks */
export function createApi(hooks) {
  /** @param {string} method @param {string} path @param {any} body @param {AbortSignal} [signal] */
  async function ask(method, path, body, signal) {
    /** @type {Record<string, string>} */
    const headers = {};
    if (body !== null) headers["content-type"] = "application/json";
    const key = hooks.key();
    if (key) headers.authorization = `Bearer ${key}`;
    let response;
    try {
      response = await fetch(path, {
        method,
        headers,
        body: body === null ? undefined : JSON.stringify(body),
        signal,
        cache: "no-store",
      });
    } catch (error) {
      throw lost(error, "unreachable", "The node does not answer. Is it running?");
    }
    hooks.onAnswer();
    if (response.ok) return response;
    if (response.status === 401) hooks.onUnauthorized();
    throw await failure(response);
  }

  /** @param {any} error @param {string} code @param {string} message */
  function lost(error, code, message) {
    if (error.name === "AbortError") return error;
    hooks.onUnreachable();
    return new ApiError({ status: 0, code, message });
  }

  /** @param {Response} response */
  async function json(response) {
    let text;
    try {
      text = await response.text();
    } catch (error) {
      throw lost(error, "connection_lost", "The connection was lost before the answer was whole.");
    }
    let answer;
    try {
      answer = JSON.parse(text);
    } catch {
      const message = `The node answered something else than JSON: ${text.slice(0, 200)}`;
      throw new ApiError({ status: response.status, code: "bad_answer", message });
    }
    // An answer that takes minutes begins before it is known how it ends: its failure then comes with 200.
    if (answer && typeof answer === "object" && "error" in answer) throw said(answer, response.status, null);
    return answer;
  }

  return {
    /** @param {string} path @returns {Promise<any>} */
    get: async (path) => json(await ask("GET", path, null)),
    /** @param {string} path @param {any} body @returns {Promise<any>} */
    post: async (path, body) => json(await ask("POST", path, body)),
    /** @param {string} path @returns {Promise<any>} */
    del: async (path) => json(await ask("DELETE", path, null)),

    /**
     * Reads a stream of events until it ends, by a POST of `body`, or a GET where that is null. Raises
     * `ApiError`, and what `signal` aborts with. "[DONE]" is an event like any other.
     *
     * @param {string} path
     * @param {any} body
     * @param {{signal?: AbortSignal, onEvent: (event: import("./sse.js").ServerEvent) => void,
     *   onOpen?: (headers: Headers) => void}} given
     */
    async stream(path, body, { signal, onEvent, onOpen = () => {} }) {
      const response = await ask(body === null ? "GET" : "POST", path, body, signal);
      onOpen(response.headers);
      if (!response.body) return;
      const reader = response.body.getReader();
      const events = new EventReader();
      const decoder = new TextDecoder();
      try {
        for (;;) {
          let piece;
          try {
            piece = await reader.read();
          } catch (error) {
            throw lost(error, "connection_lost", "The connection was lost before the answer was whole.");
          }
          if (piece.done) return;
          for (const event of events.feed(decoder.decode(piece.value, { stream: true }))) onEvent(event);
        }
      } finally {
        // Where `onEvent` raised, the node need not write on. Nobody is there to be told how that went.
        reader.cancel().catch(() => {});
      }
    },
  };
}

/** @typedef {ReturnType<typeof createApi>} Api */

/** @param {Response} response */
async function failure(response) {
  const text = await response.text().catch(() => "");
  const after = Number(response.headers.get("retry-after"));
  const retryAfter = after > 0 ? after : null;
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy's page, say: its status tells more than its text.
  }
  return said(body, response.status, retryAfter);
}

/**
 * The failure that a body tells of, in OpenAI's shape or as plain text under "error".
 *
 * @param {any} body
 * @param {number} status
 * @param {number|null} retryAfter
 */
export function said(body, status, retryAfter) {
  const error = body?.error ?? null;
  const message = typeof error === "string" ? error : error?.message;
  return new ApiError({
    status,
    code: typeof error?.code === "string" ? error.code : `http_${status}`,
    message: typeof message === "string" && message ? message : `The node answered with status ${status}.`,
    retryAfter,
  });
}
