// The `openai` client over chat completions; script.mjs says how it is asked.
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { connect, describe } from "./openai_client.mjs";
import { ADD, adder, main, RESULT } from "./script.mjs";

const body = ({ model, prompt = "hi", top_p, limit, must_call }) => ({
  model,
  messages: [{ role: "user", content: prompt }],
  top_p,
  max_completion_tokens: limit,
  tool_choice: must_call && "required",
});
const counted = (usage) => [usage.prompt_tokens, usage.completion_tokens];

await main(
  {
    async models(asked) {
      const ids = [];
      for await (const model of connect(asked).models.list()) ids.push(model.id);
      return { ids };
    },

    async embed(asked) {
      const { data } = await connect(asked).embeddings.create({ model: asked.model, input: ["one", "two"] });
      return { vectors: data.map((row) => row.embedding) };
    },

    async chat(asked) {
      const { choices, usage } = await connect(asked).chat.completions.create(body(asked));
      const [{ message, finish_reason }] = choices;
      return {
        text: message.content,
        reasoning: message.reasoning_content ?? "",
        finish: finish_reason,
        usage: counted(usage),
      };
    },

    async stream(asked) {
      const keys = { stream: true, stream_options: { include_usage: true } };
      const got = { reasoning: "", pieces: [] };
      const chunks = await connect(asked).chat.completions.create({ ...body(asked), ...keys });
      for await (const { choices, usage } of chunks) {
        for (const { delta, finish_reason } of choices) {
          got.reasoning += delta.reasoning_content ?? "";
          if (delta.content) got.pieces.push(delta.content);
          if (finish_reason) got.finish = finish_reason;
        }
        if (usage) got.usage = counted(usage);
      }
      return { ...got, text: got.pieces.join("") };
    },

    async tools(asked) {
      const { called, add } = adder();
      const tools = [zodFunction({ ...ADD, function: add })];
      const runner = connect(asked).chat.completions.runTools({ ...body(asked), tools, stream: asked.stream });
      const text = await runner.finalContent();
      return { called, text };
    },

    // A second turn, behind the first one's message as the client has it.
    async again(asked) {
      const completions = connect(asked).chat.completions;
      const { messages, ...rest } = body(asked);
      const first = asked.stream
        ? await completions.stream({ messages, ...rest }).finalChatCompletion()
        : await completions.parse({ messages, ...rest });
      messages.push(first.choices[0].message, { role: "user", content: "more" });
      const second = await completions.create({ messages, ...rest });
      return { text: second.choices[0].message.content };
    },

    async object(asked) {
      const response_format = zodResponseFormat(RESULT, "result");
      const completions = connect(asked).chat.completions;
      const answer = asked.stream
        ? await completions.stream({ ...body(asked), response_format }).finalChatCompletion()
        : await completions.parse({ ...body(asked), response_format });
      return { object: answer.choices[0].message.parsed };
    },

    async abort(asked) {
      const headers = { "x-request-id": asked.id };
      const stream = await connect(asked).chat.completions.create({ ...body(asked), stream: true }, { headers });
      for await (const { choices } of stream) {
        if (choices[0].delta.content) stream.controller.abort();
      }
      return { aborted: stream.controller.signal.aborted };
    },
  },
  describe,
);
