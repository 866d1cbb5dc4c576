// Text as blocks.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Blocks, LONG_RUN } from "../../../src/exo/page/js/blocks.js";

/** @param {string[]} pieces */
function split(...pieces) {
  const blocks = new Blocks();
  for (const piece of pieces) blocks.feed(piece);
  blocks.finish();
  return blocks.blocks.map(({ kind, text, language, plain }) => ({ kind, text, language, plain }));
}

const texts = (/** @type {string} */ text) => split(text).map((each) => each.text.trimEnd());

const SAMPLE = `# Title

A paragraph
of two lines.
\`\`\`python
def f():

    return "~~~"
\`\`\`
behind the code

- one

  still one
  \`\`\`sh
  echo

  \`\`\`
- two

1. first

2. second

~~~
\`\`\`
~~~

| a | b |
|---|---|
| 1 | 2 |
`;

test("paragraphs, lists, tables and code are blocks of their own", () => {
  const blocks = split(SAMPLE);
  assert.deepEqual(
    blocks.map((each) => [each.kind, each.text.trim().split("\n")[0]]),
    [
      ["markdown", "# Title"],
      ["markdown", "A paragraph"],
      ["code", "def f():"],
      ["markdown", "behind the code"],
      ["markdown", "- one"],
      ["code", "```"],
      ["markdown", "| a | b |"],
    ],
  );
  assert.equal(blocks[2].language, "python");
  assert.equal(blocks[2].text, 'def f():\n\n    return "~~~"\n');
  assert.match(blocks[4].text, /2\. second/);
});

test("where text is cut makes no difference", () => {
  const whole = split(SAMPLE);
  assert.deepEqual(split(...SAMPLE), whole);
  for (let at = 0; at <= SAMPLE.length; at += 1) {
    assert.deepEqual(split(SAMPLE.slice(0, at), SAMPLE.slice(at)), whole, `cut at ${at}`);
  }
});

test("what is settled stays as it is", () => {
  const blocks = new Blocks();
  /** @type {string[]} */
  const settled = [];
  for (const character of SAMPLE) {
    blocks.feed(character);
    const now = blocks.blocks.filter((each) => each.settled).map((each) => each.text);
    assert.deepEqual(now.slice(0, settled.length), settled);
    settled.splice(0, settled.length, ...now);
  }
});

test("the line that is not whole yet is shown", () => {
  const blocks = new Blocks();
  blocks.feed("one\ntw");
  assert.equal(blocks.shown(blocks.blocks[0]), "one\ntw");
});

test("half a fence is not shown as code", () => {
  const blocks = new Blocks();
  blocks.feed("```js\nlet x\n``");
  assert.equal(blocks.shown(blocks.blocks[0]), "let x\n");
});

test("code that nothing ends is code to the end", () => {
  assert.deepEqual(split("```\na\n\nb"), [{ kind: "code", text: "a\n\nb\n", language: "", plain: false }]);
});

test("a fence is ended by one that is as long, of the same kind", () => {
  assert.deepEqual(texts("````\n```\n~~~~\n````\nx"), ["```\n~~~~", "x"]);
});

test("inline code of three marks opens no block", () => {
  assert.deepEqual(
    split("```not a fence``` here\nmore").map((each) => each.kind),
    ["markdown"],
  );
});

test("a run of text that is too long for Markdown is shown as it stands", () => {
  const [block] = split("*a_".repeat(LONG_RUN));
  assert.equal(block.plain, true);
  assert.equal(
    split("a paragraph\n\n".repeat(5000)).some((each) => each.plain),
    false,
  );
  assert.equal(split("| a | b |\n".repeat(2000))[0].plain, false);
});

test("a long list goes on in another block", () => {
  const blocks = split("- an item of a list\n".repeat(2000));
  assert.ok(blocks.length > 5);
  assert.ok(blocks.every((each) => each.text.length < 6000 && !each.plain));
});

test("nothing is lost", () => {
  for (const text of [
    "a\r\nb\r\n\r\nc",
    "x".repeat(100_000),
    "- a\n".repeat(3000),
    "# a\n\n\n> b\n\n    c\n\n    d",
  ]) {
    const kept = split(text)
      .map((each) => each.text)
      .join("");
    assert.equal(kept.replaceAll(/\s/g, ""), text.replaceAll(/\s/g, ""));
  }
});

test("a megabyte in small pieces takes no time by its square", () => {
  for (const unit of ["word ", "a line of text\n", "a paragraph\n\n", "- item\n"]) {
    const blocks = new Blocks();
    const began = performance.now();
    for (let i = 0; i < 1_000_000 / unit.length; i += 1) {
      blocks.feed(unit);
      blocks.shown(blocks.blocks[blocks.blocks.length - 1]);
    }
    blocks.finish();
    assert.ok(performance.now() - began < 2000, unit);
  }
});
