// The box to write in. What is written and not sent yet is kept, for each conversation.

import { byId } from "./dom.js";
import { keep, kept } from "./kept.js";

const CALM = 300;

export class Composer {
  #text = byId("composer-text");
  #send = byId("send");
  #stop = byId("stop");
  /** "" before anything is open, as what is in the box then is nobody's. */
  #place = "";
  #timer = 0;
  #answering = false;
  #onSend;

  /** @param {{onSend: (text: string) => void, onStop: () => void}} given */
  constructor({ onSend, onStop }) {
    this.#onSend = onSend;
    this.#text.addEventListener("input", () => this.#changed());
    this.#text.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      // Enter that ends the composing of a character is for the input method. Safari says so by 229 only.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.#ask();
    });
    this.#send.addEventListener("click", () => this.#ask());
    this.#stop.addEventListener("click", () => {
      onStop();
      this.focus();
    });
    window.addEventListener("pagehide", () => this.#keep());
    this.#fit();
  }

  /** Shows the draft for a conversation. @param {string} place its id, or "new" */
  open(place) {
    this.#keep();
    this.#place = place;
    this.#text.value = kept(`draft.${place}`, "");
    this.#fit();
  }

  /** Its draft now belongs to a conversation that has an id. @param {string} place */
  move(place) {
    this.#place = place;
  }

  /** @param {boolean} answering */
  show(answering) {
    if (this.#answering === answering) return;
    this.#answering = answering;
    // A button that is hidden loses the focus to nobody.
    const focused = document.activeElement === this.#send || document.activeElement === this.#stop;
    this.#send.hidden = answering;
    this.#stop.hidden = !answering;
    if (focused) this.focus();
  }

  /** @param {string} text */
  put(text) {
    this.#text.value = text;
    this.#changed();
    this.focus();
  }

  focus() {
    this.#text.focus();
  }

  #ask() {
    const text = this.#text.value.trim();
    if (!text || this.#answering) return;
    this.#text.value = "";
    this.#fit();
    this.#keep();
    this.#onSend(text);
  }

  #changed() {
    this.#fit();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#keep(), CALM);
  }

  #keep() {
    clearTimeout(this.#timer);
    if (this.#place) keep(`draft.${this.#place}`, this.#text.value || null);
  }

  #fit() {
    this.#send.disabled = !this.#text.value.trim();
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight}px`;
  }
}
