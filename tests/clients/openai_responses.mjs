// The `openai` client over the Responses API; script.mjs says how it is asked.
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { connect, describe } from "./openai_client.mjs";
import { ADD, adder, main, RESULT } from "./script.mjs";

const body = ({ model, prompt = "hi", top_p, limit, must_call }) => ({
  model,
  input: prompt,
  top_p,
  max_output_tokens: limit,
  tool_choice: must_call && "required",
});

// A response, streamed or whole: by the stream's own accumulator where it is streamed.
const respond = (client, { stream }, body) =>
  stream ? client.responses.stream(body).finalResponse() : client.responses.parse(body);

const FINISHES = { max_output_tokens: "length" };

function told(response) {
  const thoughts = response.output.filter(({ type }) => type === "reasoning");
  return {
    text: response.output_text,
    reasoning: thoughts.flatMap(({ content }) => content ?? []).map(({ text }) => text).join(""),
    finish: response.status === "completed" ? "stop" : FINISHES[response.incomplete_details.reason],
    usage: [response.usage.input_tokens, response.usage.output_tokens],
  };
}

await main(
  {
    async chat(asked) {
      return told(await connect(asked).responses.create(body(asked)));
    },

    async stream(asked) {
      const stream = connect(asked).responses.stream(body(asked));
      const pieces = [];
      stream.on("response.output_text.delta", ({ delta }) => pieces.push(delta));
      return { ...told(await stream.finalResponse()), pieces };
    },

    // The second turn goes on with the response that the server keeps, or sends everything again.
    async tools(asked) {
      const { called, add } = adder();
      const client = connect(asked);
      const tools = [zodResponsesFunction(ADD)];
      let next = { input: [{ role: "user", content: "hi" }] };
      for (;;) {
        const response = await respond(client, asked, { ...body(asked), tools, store: !asked.stateless, ...next });
        const calls = response.output.filter(({ type }) => type === "function_call");
        if (calls.length === 0) return { called, text: response.output_text };
        const results = calls.map(({ call_id, parsed_arguments }) => ({
          type: "function_call_output",
          call_id,
          output: add(parsed_arguments),
        }));
        next = asked.stateless
          ? { input: [...next.input, ...response.output, ...results] }
          : { input: results, previous_response_id: response.id };
      }
    },

    // A second turn, behind all of the first one as the client has it.
    async again(asked) {
      const client = connect(asked);
      const input = [{ role: "user", content: "hi" }];
      const first = await respond(client, asked, { ...body(asked), input, store: false });
      input.push(...first.output, { role: "user", content: "more" });
      return { text: (await client.responses.create({ ...body(asked), input })).output_text };
    },

    async object(asked) {
      const text = { format: zodTextFormat(RESULT, "result") };
      return { object: (await respond(connect(asked), asked, { ...body(asked), text })).output_parsed };
    },

    async abort(asked) {
      const headers = { "x-request-id": asked.id };
      const stream = await connect(asked).responses.create({ ...body(asked), stream: true }, { headers });
      for await (const { type } of stream) {
        if (type === "response.output_text.delta") stream.controller.abort();
      }
      return { aborted: stream.controller.signal.aborted };
    },
  },
  describe,
);
