// What /metrics says, read and compared. Pure: no clock, no network, no document.
//
// A Reading is one answer of /metrics. Counters only grow, so a rate is the difference of two readings, and a quantile
// comes from what the buckets of a histogram have grown by. A History keeps the readings of some minutes, no more.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (NaN|[+-]?(?:Inf|\d\S*))(?: -?\d+)?$/s;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/gs;
const ESCAPED = { "\\\\": "\\", '\\"': '"', "\\n": "\n" };
const NUMBERS = { "+Inf": Infinity, "-Inf": -Infinity, NaN: NaN };

/** One answer of /metrics, text format 0.0.4. `at` is when it came, in ms. Lines that are no sample are skipped. */
export class Reading {
  #families = new Map();

  constructor(text, at) {
    this.at = at;
    for (const line of text.split("\n")) {
      const match = SAMPLE.exec(line);
      if (!match) continue;
      const [, name, pairs = "", number] = match;
      const labels = {};
      for (const [, label, value] of pairs.matchAll(LABEL)) {
        labels[label] = value.replace(/\\[\\"n]/g, (it) => ESCAPED[it]);
      }
      if (!this.#families.has(name)) this.#families.set(name, []);
      this.#families.get(name).push({ labels, value: NUMBERS[number] ?? Number(number) });
    }
  }

  /** Return whether there is a sample of this name. */
  has(name) {
    return this.#families.has(name);
  }

  /** Return the sum of the samples that have these labels. */
  sum(name, labels = {}) {
    const wanted = Object.entries(labels);
    const samples = this.#families.get(name) ?? [];
    const fitting = samples.filter((it) => wanted.every(([label, value]) => it.labels[label] === value));
    return fitting.reduce((sum, it) => sum + it.value, 0);
  }

  /** Return the samples of a name as a Map, by the value of one label. */
  by(name, label) {
    const samples = this.#families.get(name) ?? [];
    return new Map(samples.map((it) => [it.labels[label], it.value]));
  }
}

/** Return by how much a counter has grown from one reading to a later one. */
export function growth(before, after, name, labels) {
  return Math.max(0, after.sum(name, labels) - before.sum(name, labels));
}

/**
 * Return the quantile of the values that a histogram has counted between two readings, as Prometheus estimates it: the
 * values of a bucket are spread evenly. NaN if there were none, Infinity if it lies beyond the last bound.
 */
export function quantile(q, before, after, name) {
  const earlier = before.by(`${name}_bucket`, "le");
  const buckets = [...after.by(`${name}_bucket`, "le")]
    .map(([le, count]) => ({ bound: NUMBERS[le] ?? Number(le), count: count - (earlier.get(le) ?? 0) }))
    .sort((a, b) => a.bound - b.bound);
  const wanted = q * (buckets.at(-1)?.count ?? 0);
  if (!(wanted > 0)) return NaN;
  const at = buckets.findIndex((it) => it.count >= wanted);
  const { bound: low, count: below } = buckets[at - 1] ?? { bound: 0, count: 0 };
  const { bound, count } = buckets[at];
  return bound === Infinity ? Infinity : low + ((bound - low) * (wanted - below)) / (count - below);
}

/** The readings of the last `span` ms, at most `most` of them. */
export class History {
  readings = [];

  constructor(span, most) {
    this.span = span;
    this.most = most;
  }

  /** Add a reading. If the server has started again, its counters began at zero, and those before say nothing. */
  add(reading) {
    const { readings } = this;
    const counted = "cfchat_requests_total";
    if (readings.length && reading.sum(counted) < readings.at(-1).sum(counted)) readings.length = 0;
    readings.push(reading);
    while (readings.length > this.most || reading.at - readings[0].at > this.span) readings.shift();
  }

  /** Return the oldest reading that is at most `ms` older than the one at `index`. */
  before(ms, index) {
    const { readings } = this;
    return readings.find((it) => readings[index].at - it.at <= ms);
  }
}
