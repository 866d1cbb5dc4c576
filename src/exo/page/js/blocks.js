// Text that arrives in pieces, as blocks: what is behind the last one is settled and never looked at again, so
// that showing an answer costs what it is long, and not its square. Pure.
//
// A block is a fenced code block, or Markdown that can be read by itself: a paragraph, a list, a table. They
// are told apart by lines. Between blank lines nothing of Markdown reaches across but lists, whose items may
// have blank lines and fences in them; link definitions do, and only work in their own block.

/** Characters of text in one run that Markdown is read in. Its emphasis takes time by the square of them, a
 * tenth of a second here at worst, so that more is shown as it stands. */
export const LONG_RUN = 8192;
/** Characters of a block of Markdown, likewise: of lists in lists, say. */
const LONG_BLOCK = 65536;
/** Characters after which a list goes on in another block. */
const LONG_LIST = 4096;

const FENCE = /^( {0,3})(`{3,}(?=[^`]*$)|~{3,})(.*)$/;
const INNER_FENCE = /^\s*(?:(?:[-*+]|\d{1,9}[.)])\s+)?(`{3,}(?=[^`]*$)|~{3,})/;
const ITEM = /^ {0,3}(?:[-*+]|\d{1,9}[.)])(?:\s|$)/;
const NESTED_ITEM = /^\s*(?:[-*+]|\d{1,9}[.)])(?:\s|$)/;
const ROW = /^\s*\|/;
const LANGUAGE = /^\s*([\w+#.-]{1,40})(?=[\s{,:]|$)/;
// What may still become the end of a code block.
const HALF_FENCE = /^\s*(`{1,}|~{1,})\s*$/;

export class Block {
  /** @type {"markdown"|"code"} */
  kind = "markdown";
  /** Whole lines. */
  text = "";
  /** Of code: what stands behind the fence that opens it. */
  language = "";
  /** Too long for Markdown: to be shown as it stands. */
  plain = false;
  /** Nothing is added any more. */
  settled = false;
}

export class Blocks {
  /** @type {Block[]} */
  blocks = [];
  #partial = "";
  /** @type {Block|null} */
  #open = null;
  #fence = "";
  #indent = 0;
  #innerFence = "";
  #list = false;
  #blank = false;
  #run = 0;

  /** @param {string} piece */
  feed(piece) {
    let from = 0;
    for (let end = piece.indexOf("\n"); end >= 0; end = piece.indexOf("\n", from)) {
      const line = this.#partial + piece.slice(from, end);
      this.#partial = "";
      this.#take(line.endsWith("\r") ? line.slice(0, -1) : line);
      from = end + 1;
    }
    this.#partial += piece.slice(from);
    // The beginning of a line is shown before it is known what it is.
    if (!this.#open && this.#partial.trim()) this.#begin("markdown");
    if (this.#open?.kind === "markdown" && this.#run + this.#partial.length > LONG_RUN)
      this.#open.plain = true;
  }

  /** Nothing more comes. */
  finish() {
    if (this.#partial) this.#take(this.#partial);
    this.#partial = "";
    this.#end();
  }

  /** What there is of a block, with the line that is not whole yet. @param {Block} block */
  shown(block) {
    if (block !== this.#open) return block.text;
    if (block.kind === "code" && HALF_FENCE.test(this.#partial)) return block.text;
    return block.text + this.#partial;
  }

  /** @param {string} line */
  #take(line) {
    if (this.#fence) return this.#takeCode(line);
    if (!line.trim()) return this.#takeBlank();
    const fence = FENCE.exec(line);
    const inside = this.#innerFence !== "" || (this.#list && /^\s/.test(line));
    if (fence && !inside) return this.#openFence(fence);
    if (this.#open && this.#endsHere(line)) this.#end();
    const block = this.#open ?? this.#begin("markdown");
    this.#blank = false;
    if (this.#innerFence) {
      if (closes(line, this.#innerFence)) this.#innerFence = "";
    } else {
      this.#list ||= NESTED_ITEM.test(line);
      if (this.#list) this.#innerFence = INNER_FENCE.exec(line)?.[1] ?? "";
    }
    this.#run = NESTED_ITEM.test(line) || ROW.test(line) ? line.length : this.#run + line.length + 1;
    block.text += `${line}\n`;
    block.plain ||= this.#run > LONG_RUN || block.text.length > LONG_BLOCK;
  }

  #takeBlank() {
    if (!this.#open) return;
    this.#open.text += "\n";
    this.#blank = true;
    this.#run = 0;
  }

  /** Whether a line that is not blank begins another block. @param {string} line */
  #endsHere(line) {
    if (this.#innerFence) return false;
    if (this.#list && ITEM.test(line) && !/^\s/.test(line)) {
      return (this.#open?.text.length ?? 0) > LONG_LIST;
    }
    if (!this.#blank) return false;
    if (this.#list) return !/^\s{2}/.test(line) && !ITEM.test(line);
    // Indented code goes on behind blank lines.
    return !(/^ {4}/.test(line) && /^ {4}/.test(this.#open?.text ?? ""));
  }

  /** @param {RegExpExecArray} fence */
  #openFence(fence) {
    // What was shown of this line so far is no block of its own.
    if (this.#open && this.#open.text) this.#end();
    const block = this.#open ?? this.#begin("code");
    block.kind = "code";
    block.plain = false;
    block.language = LANGUAGE.exec(fence[3])?.[1] ?? "";
    this.#fence = fence[2];
    this.#indent = fence[1].length;
  }

  /** @param {string} line */
  #takeCode(line) {
    if (closes(line, this.#fence)) return this.#end();
    let from = 0;
    while (from < this.#indent && line[from] === " ") from += 1;
    if (this.#open) this.#open.text += `${line.slice(from)}\n`;
  }

  /** @param {"markdown"|"code"} kind */
  #begin(kind) {
    const block = new Block();
    block.kind = kind;
    this.blocks.push(block);
    this.#open = block;
    this.#list = this.#blank = false;
    this.#run = 0;
    return block;
  }

  #end() {
    if (this.#open) this.#open.settled = true;
    this.#open = null;
    this.#fence = this.#innerFence = "";
    this.#list = this.#blank = false;
  }
}

/** @param {string} line @param {string} fence the one that opened the block */
function closes(line, fence) {
  const marks = line.trim();
  return marks.length >= fence.length && marks === fence[0].repeat(marks.length);
}
