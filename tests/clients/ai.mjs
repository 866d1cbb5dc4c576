// The AI SDK with the provider that is asked for; script.mjs says how it is asked.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, Output, RetryError, stepCountIs, streamText, tool } from "ai";
import { ADD, adder, main, RESULT } from "./script.mjs";

// It would warn on standard output otherwise.
globalThis.AI_SDK_LOG_WARNINGS = ({ warnings }) => console.error("AI SDK warns:", ...warnings);

const PROVIDERS = {
  // Chat completions as OpenAI has them.
  "openai-chat": (at) => {
    const { chat, embedding } = createOpenAI(at);
    return { chat, embedding };
  },
  // The Responses API, which this provider takes unless told otherwise.
  "openai-responses": (at) => ({ chat: createOpenAI(at) }),
  // Chat completions as everybody else has them.
  "openai-compatible": (at) => {
    const flags = { name: "exo", supportsStructuredOutputs: true, includeUsage: true };
    const { chatModel, embeddingModel } = createOpenAICompatible({ ...at, ...flags });
    return { chat: chatModel, embedding: embeddingModel };
  },
  anthropic: (at) => ({ chat: createAnthropic(at) }),
};

const provider = ({ provider, url, key = "unused" }) =>
  PROVIDERS[provider]({ baseURL: `${url}/v1`, apiKey: key });

const asks = (asked) => ({
  model: provider(asked).chat(asked.model),
  prompt: asked.prompt ?? "hi",
  maxRetries: asked.retries ?? 0,
  topP: asked.top_p,
  maxOutputTokens: asked.limit,
  providerOptions: asked.summary ? { openai: { forceReasoning: true, reasoningSummary: "auto" } } : {},
});

const counted = ({ inputTokens, outputTokens }) => [inputTokens, outputTokens];

// What streams, with its errors thrown: the SDK reports them among the parts, and else on the console.
const quiet = { onError() {} };
async function* partsOf(answer) {
  for await (const part of answer.fullStream) {
    if (part.type === "error") throw part.error;
    yield part;
  }
}

async function whole(asked, keys) {
  if (!asked.stream) return generateText({ ...asks(asked), ...keys });
  const answer = streamText({ ...asks(asked), ...keys, ...quiet });
  for await (const part of partsOf(answer)) void part;
  const output = keys.output && (await answer.output);
  return { text: await answer.text, response: await answer.response, output };
}

await main(
  {
    async embed(asked) {
      const model = provider(asked).embedding(asked.model);
      return { vectors: (await embedMany({ model, values: ["one", "two"], maxRetries: 0 })).embeddings };
    },

    async chat(asked) {
      const { text, reasoningText, finishReason, usage } = await generateText(asks(asked));
      return { text, reasoning: reasoningText ?? "", finish: finishReason, usage: counted(usage) };
    },

    async stream(asked) {
      const answer = streamText({ ...asks(asked), ...quiet });
      const pieces = [];
      for await (const part of partsOf(answer)) if (part.type === "text-delta") pieces.push(part.text);
      const reasoning = (await answer.reasoningText) ?? "";
      const finish = await answer.finishReason;
      return { pieces, text: await answer.text, reasoning, finish, usage: counted(await answer.usage) };
    },

    async tools(asked) {
      const { called, add } = adder();
      const { description, parameters } = ADD;
      const tools = { add: tool({ description, inputSchema: parameters, execute: add }) };
      // Once: the SDK refuses an answer without a call as long as one has to be made.
      const prepareStep = ({ stepNumber }) =>
        asked.must_call && stepNumber === 0 ? { toolChoice: "required" } : {};
      const { text } = await whole(asked, { tools, stopWhen: stepCountIs(3), prepareStep });
      return { called, text };
    },

    // A second turn, behind the first one's messages as the SDK has them.
    async again(asked) {
      const { prompt, ...rest } = asks(asked);
      const messages = [{ role: "user", content: prompt }];
      const { response } = await whole(asked, { prompt: undefined, messages });
      messages.push(...response.messages, { role: "user", content: "more" });
      return { text: (await generateText({ ...rest, messages })).text };
    },

    async object(asked) {
      const { output } = await whole(asked, { output: Output.object({ schema: RESULT, name: "result" }) });
      return { object: output };
    },

    async abort(asked) {
      const hangUp = new AbortController();
      const headers = { "x-request-id": asked.id };
      const answer = streamText({ ...asks(asked), headers, abortSignal: hangUp.signal, ...quiet });
      let aborted = false;
      for await (const part of partsOf(answer)) {
        if (part.type === "text-delta") hangUp.abort();
        aborted ||= part.type === "abort";
      }
      return { aborted };
    },
  },
  (thrown) => {
    const error = RetryError.isInstance(thrown) ? thrown.lastError : thrown;
    // A failure in the middle of a stream is the error's JSON, as it came.
    const refused = APICallError.isInstance(error);
    if (error instanceof Error && !refused) return undefined;
    const { code = null, param = null } = (refused ? error.data?.error : error) ?? {};
    return {
      status: refused ? error.statusCode : null,
      code,
      param,
      message: error.message,
      retryAfter: error.responseHeaders?.["retry-after"] ?? null,
    };
  },
);
