// Server-sent events out of text that arrives in pieces, cut anywhere. Pure.
//
// What the HTML standard says of the format, but for `retry`, as nothing is connected anew here: lines end with
// LF, CRLF or CR, a blank line ends an event, a line that begins with a colon is a comment, several `data`
// lines are one with line feeds between them, and an event that no blank line ends is none.

/** @typedef {{event: string, data: string, id: string}} ServerEvent */

export class EventReader {
  #line = "";
  #afterReturn = false;
  #data = /** @type {string[]} */ ([]);
  #event = "";
  #id = "";
  #first = true;

  /**
   * The events that `text` ends. A line may be long, so that only what is new is looked through.
   *
   * @param {string} text
   * @returns {ServerEvent[]}
   */
  feed(text) {
    /** @type {ServerEvent[]} */
    const events = [];
    if (this.#first && text) {
      this.#first = false;
      if (text.startsWith("\ufeff")) text = text.slice(1);
    }
    if (this.#afterReturn && text) {
      this.#afterReturn = false;
      if (text[0] === "\n") text = text.slice(1);
    }
    const ends = /\r\n|\n|\r/g;
    let from = 0;
    for (let end = ends.exec(text); end; end = ends.exec(text)) {
      this.#take(this.#line + text.slice(from, end.index), events);
      this.#line = "";
      from = ends.lastIndex;
      // The LF of a CRLF may be in the next piece.
      this.#afterReturn = end[0] === "\r" && from === text.length;
    }
    this.#line += text.slice(from);
    return events;
  }

  /** @param {string} line @param {ServerEvent[]} events */
  #take(line, events) {
    if (line === "") {
      if (this.#data.length) {
        events.push({ event: this.#event || "message", data: this.#data.join("\n"), id: this.#id });
      }
      this.#data = [];
      this.#event = "";
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const rest = colon < 0 ? "" : line.slice(colon + 1);
    const value = rest.startsWith(" ") ? rest.slice(1) : rest;
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
  }
}
