// The nodes of the last minutes: what each had under way, and those that are gone. Pure.

/** Seconds that are drawn, and those for which a node that is gone stays. */
export const SPAN = 120;
export const STAYS = 60;
/** Seconds without a sample after which nothing is known, and no line is drawn. */
const GAP = 12;

/** @typedef {{at: number, running: number, npu: number|null}} Sample `at` is in seconds */
/** @typedef {{node: any, me: boolean, goneFor: number|null, samples: Sample[]}} Seen */

export class History {
  /** @type {Map<string, {node: any, me: boolean, at: number, samples: Sample[]}>} */
  #nodes = new Map();
  #latest = 0;

  /** Notes a cluster as it is told at this time. @param {any} cluster @param {number} at seconds */
  add(cluster, at) {
    this.#latest = at;
    for (const node of [cluster.me, ...cluster.peers]) {
      const samples = this.#nodes.get(node.id)?.samples ?? [];
      samples.push({ at, running: running(node), npu: node.device.npu_load });
      const old = samples.findIndex((each) => each.at >= at - SPAN - GAP);
      this.#nodes.set(node.id, { node, me: node === cluster.me, at, samples: samples.slice(old) });
    }
    for (const [id, each] of this.#nodes) {
      if (at - each.at > STAYS) this.#nodes.delete(id);
      else if (each.at < at && each.me) each.me = false;
    }
  }

  /**
   * The nodes, this one first and then by their names; those that are gone say for how many seconds.
   *
   * @param {number} at
   * @returns {Seen[]}
   */
  nodes(at) {
    return [...this.#nodes.values()]
      .filter((each) => each.at === this.#latest || at - each.at <= STAYS)
      .map(({ node, me, at: seen, samples }) => ({
        node,
        me,
        goneFor: seen === this.#latest ? null : at - seen,
        samples,
      }))
      .sort((a, b) => Number(b.me) - Number(a.me) || a.node.id.localeCompare(b.node.id));
  }
}

/** Requests under way on a node. @param {any} node @returns {number} */
export function running(node) {
  return node.loaded.reduce((/** @type {number} */ sum, /** @type {any} */ each) => sum + each.running, 0);
}

/**
 * Values over the last minutes as steps, for the `d` of two paths in a box of `width` and `height`: the line,
 * and what is below it. Where nothing was told for a while, there is no line.
 *
 * @param {Sample[]} samples in order of their times
 * @param {(sample: Sample) => number|null} value
 * @param {number} at the right edge, in seconds
 * @param {{width: number, height: number, most: number}} box `most` is the value at its top
 * @returns {{line: string, area: string}}
 */
export function steps(samples, value, at, { width, height, most }) {
  const x = (/** @type {number} */ time) => round(Math.max(0, width * (1 - (at - time) / SPAN)));
  const y = (/** @type {number} */ each) => round(height * (1 - Math.min(each, most) / most));
  let line = "";
  let area = "";
  let since = 0;
  samples.forEach((sample, index) => {
    const each = value(sample);
    const next = samples[index + 1]?.at ?? at;
    const until = Math.min(next, sample.at + GAP);
    if (each === null || until < at - SPAN) return;
    const fresh = !line || since < sample.at;
    line += `${fresh ? "M" : "L"}${x(sample.at)} ${y(each)}H${x(until)}`;
    area += `M${x(sample.at)} ${height}V${y(each)}H${x(until)}V${height}Z`;
    since = until;
  });
  return { line, area };
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 10) / 10;
}
