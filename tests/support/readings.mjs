// Reads lines of JSON: texts of /metrics, then what to ask of the first and the last. Answers each with a line of JSON.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { growth, History, quantile, Reading } = await import(pathToFileURL(process.argv[2]));
const plain = (value) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value);

const ask = {
  sum: (readings, name, labels) => readings[0].sum(name, labels),
  by: (readings, name, label) => [...readings[0].by(name, label)].map(([key, value]) => [key, plain(value)]),
  growth: (readings, name) => growth(readings[0], readings.at(-1), name),
  quantile: (readings, q, name) => quantile(q, readings[0], readings.at(-1), name),
  kept: (readings, span, most) => {
    const history = new History(span, most);
    readings.forEach((reading) => history.add(reading));
    return history.readings.map(({ at }) => at);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { texts, what, given } = JSON.parse(line);
  const readings = texts.map((text, at) => new Reading(text, at));
  console.log(JSON.stringify(plain(ask[what](readings, ...given))));
}
