// Work that is done a little in each frame, so that the page never stands still for it.

/** Milliseconds of a frame that may go into it. It has 16, but what is done has to be laid out and painted, too,
 * and that costs less the more is done at once: so a long answer is there in half the time, at 20 frames a second. */
const BUDGET = 32;

/** @typedef {{work: (until: number) => boolean}} Worker `work` goes on until a time as `performance.now` has
 * it, and says whether it has more to do */

/** @type {Set<Worker>} */
const waiting = new Set();
/** @type {Set<() => void>} */
const afterwards = new Set();
let asked = false;

/** Has `worker` work in the next frames, until it has nothing more to do. @param {Worker} worker */
export function inFrames(worker) {
  waiting.add(worker);
  ask();
}

/** Calls `listener` after each frame in which something was done. @param {() => void} listener */
export function afterFrames(listener) {
  afterwards.add(listener);
}

function ask() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(frame);
}

function frame() {
  asked = false;
  const until = performance.now() + BUDGET;
  for (const worker of [...waiting]) {
    if (!worker.work(until)) waiting.delete(worker);
    if (performance.now() >= until) break;
  }
  for (const listener of afterwards) listener();
  if (waiting.size) ask();
}
