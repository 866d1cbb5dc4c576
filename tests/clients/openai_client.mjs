// What both scripts of the `openai` client share: the client, and what it makes of the server's errors.
import OpenAI, { APIError } from "openai";

export const connect = ({ url, key = "unused", retries = 0 }) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: retries });

export function describe(error) {
  // The client throws what a stream of the Responses API says of its failure, as it came.
  if (!(error instanceof APIError) && error.type !== "error") return undefined;
  return {
    status: error.status ?? null,
    code: error.code ?? null,
    param: error.param ?? null,
    message: error.message,
    retryAfter: error.headers?.get("retry-after") ?? null,
  };
}
