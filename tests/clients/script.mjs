// What the scripts of this folder share: how one is asked, how it says what it got, and what models are given.
import { createInterface } from "node:readline";
import { inspect } from "node:util";
import { z } from "zod";

// Reads what is asked, a line of JSON each, and writes a line of JSON for each when it is done: what the
// behaviour of that name gave; {"error": ...}, as `describe` puts it, where the server refused or failed; and
// {"defect": ...} for any other error.
export async function main(behaviours, describe) {
  for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    console.log(JSON.stringify(await answer(behaviours[asked.behaviour], asked, describe)));
  }
}

async function answer(behaviour, asked, describe) {
  try {
    return await behaviour(asked);
  } catch (error) {
    const described = describe(error);
    return described ? { error: described } : { defect: inspect(error) };
  }
}

export const RESULT = z.object({
  sum: z.int().min(0).max(1999),
  even: z.boolean(),
  word: z.enum(["small", "große"]),
});

export const ADD = {
  name: "add",
  description: "Adds two numbers.",
  parameters: z.object({ a: z.int(), b: z.int().describe("what is added") }),
};

// What does what ADD says, and keeps in `called` what it was asked.
export function adder() {
  const called = [];
  const add = ({ a, b }) => {
    called.push([a, b]);
    return String(a + b);
  };
  return { called, add };
}
