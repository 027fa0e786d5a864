// The operator's page: reads /metrics every two seconds while it is seen, and draws what it says.
//
// It loads nothing else and keeps nothing when it is closed. All that /metrics says becomes text, never markup. What is
// drawn depends on the readings of the last minutes alone, so each reading draws the whole page again.

import { growth, History, quantile, Reading } from "./readings.js";

const EVERY = 2000; // ms from one reading to the next
const PATIENCE = 5000; // ms until an answer counts as missing
const SPAN = 5 * 60_000; // ms of history that the page keeps
const SPANS = [60_000, 120_000]; // ms that curves show while there is no more
const NEAR = 20_000; // ms behind each point of a curve of rates
const FREE_NEURONS = 10_000; // that Cloudflare gives each account for nothing a day
const FULL = [0.8, 0.95]; // of a budget: when its meter warns, and when it alarms
const QUANTILES = [0.5, 0.95];
// Of each card of times: its histogram, and the last bound of that, in seconds.
const TIMES = [
  ["first", "cfchat_first_token_seconds", 60],
  ["each", "cfchat_per_token_seconds", 1],
  ["lag", "cfchat_loop_lag_seconds", 1],
];
const NOTHING = new Reading("", 0); // what all counters began with

const history = new History(SPAN, 1 + SPAN / EVERY);
const $ = (selector) => document.querySelector(selector);
const sum = (numbers) => [...numbers].reduce((a, b) => a + b, 0);

// --- words --------------------------------------------------------------------------------------

const format = (options) => {
  const { format } = new Intl.NumberFormat("en", options);
  return format;
};
const whole = format({ maximumFractionDigits: 0 });
const fine = format({ maximumSignificantDigits: 3 });
const rough = format({ maximumSignificantDigits: 2 });
const percent = format({ style: "percent", maximumFractionDigits: 0 });
const clock = (date) => date.toLocaleTimeString("en-GB");

/** Return a number in words; a dash if there is none. */
function words(number) {
  if (!Number.isFinite(number)) return "–";
  return Math.abs(number) < 100 ? fine(number) : whole(number);
}

/** Return seconds in words. `last` is the last bound of the histogram that they are from. */
function seconds(number, last) {
  if (Number.isNaN(number)) return "–";
  if (number === Infinity) return `over ${last} s`;
  return number < 0.9995 ? `${rough(number * 1000)} ms` : `${rough(number)} s`;
}

/** Return bytes in words. */
const bytes = (number) => (number < 1 << 20 ? `${fine(number / 1024)} KiB` : `${fine(number / (1 << 20))} MiB`);

/** Return how long a time is, in words. */
const long = (ms) => (ms < 120_000 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms / 60_000)} min`);

// --- elements -----------------------------------------------------------------------------------

function make(tag, settings = {}, ...children) {
  const node = Object.assign(document.createElement(tag), settings);
  node.append(...children);
  return node;
}

/** Return an element with a text. */
const text = (tag, textContent) => make(tag, { textContent });

/** Set a text, if it is another: a screen reader says what is set. */
function say(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

/** Set a card's number and the words beside it, and its curves: lists of values, one for each reading. */
function card(id, number, beside, inWords, ...curves) {
  const node = document.getElementById(id);
  say(node.querySelector(".number"), number);
  say(node.querySelector(".beside"), beside);
  node.querySelector("figure")?.remove();
  node.append(figure(inWords, curves));
}

/** Return curves over time from zero up, with their highest value in words. They are pictures of what the numbers say. */
function figure(inWords, curves) {
  const { readings } = history;
  const now = readings.at(-1).at;
  const span = SPANS.find((it) => it >= now - readings[0].at) ?? SPAN;
  const top = Math.max(0, ...curves.flat().filter(Number.isFinite));
  const x = (at) => (300 * (1 + (readings[at].at - now) / span)).toFixed(1);
  const y = (value) => (59 - 57 * (top && Math.min(1, value / top))).toFixed(1);

  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 300 60");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const values of curves) {
    const path = document.createElementNS(svg.namespaceURI, "path");
    const isGap = (at) => Number.isNaN(values[at] ?? NaN);
    const step = (value, at) => (isGap(at) ? "" : `${isGap(at - 1) ? "M" : "L"}${x(at)} ${y(value)}`);
    path.setAttribute("d", values.map(step).join(""));
    svg.append(path);
  }
  const caption = make("figcaption", {}, text("span", `−${long(span)}`), text("span", top ? `max ${inWords(top)}` : ""));
  return make("figure", { ariaHidden: "true" }, svg, caption);
}

/** Return a bar that says how much of a limit is used. */
function meter(ariaLabel, used, limit) {
  const share = Math.min(1, used / limit);
  const fill = make("span");
  fill.style.inlineSize = `${100 * share}%`;
  const node = make("span", { className: "meter", role: "meter", ariaLabel }, fill);
  node.ariaValueNow = `${Math.round(100 * share)}`;
  node.ariaValueText = `${percent(used / limit)} of ${whole(limit)}`;
  node.dataset.full = FULL.filter((level) => share >= level).length;
  return node;
}

/** Set the rows of a table, lists of cells. The first cell of each is its heading. */
function fillTable(table, rows) {
  const cell = (content, at) => make(at ? "td" : "th", at ? {} : { scope: "row" }, content);
  table.tBodies[0].replaceChildren(...rows.map((cells) => make("tr", {}, ...cells.map(cell))));
}

// --- what is drawn ------------------------------------------------------------------------------

const running = (reading) => reading.sum("cfchat_streams", { state: "running" });

/** Draw all of the page, after each reading. */
function draw() {
  const before = history.readings[0];
  const now = history.readings.at(-1);
  const lately = now === before ? "so far" : `in the last ${long(now.at - before.at)}`;
  drawState(now);
  drawStreams(now);
  drawTimes(before, now);
  drawReplies(before, now, lately);
  drawTries(before, now, lately);
  drawToday(before, now);
  drawErrors(before, now, lately);
  drawMore(now);
}

function drawState(now) {
  const ready = now.sum("cfchat_ready");
  const workers = now.by("cfchat_worker_streams", "worker").size;
  say($("#state"), workers > 1 ? `${ready} of ${workers} workers ready` : ready ? "Ready" : "Not ready");
  $("#state").dataset.good = ready > 0 && ready >= workers;
  document.title = `${words(running(now))} running · cfchat`;
}

function drawStreams(now) {
  const waiting = now.sum("cfchat_streams", { state: "waiting" });
  const beside = waiting ? `${words(waiting)} more wait for a turn` : "none waits for a turn";
  card("streams", words(running(now)), beside, words, history.readings.map(running));
}

/** Return what `measure(before, after)` is at each reading, over the time behind it. */
function curve(measure) {
  return history.readings.map((reading, at) => measure(history.before(NEAR, at), reading));
}

function drawTimes(before, now) {
  for (const [id, name, last] of TIMES) {
    const inWords = (number) => seconds(number, last);
    const recent = growth(before, now, `${name}_count`) > 0;
    const [half, most] = QUANTILES.map((q) => quantile(q, recent ? before : NOTHING, now, name));
    const found = `median; 95% within ${inWords(most)}${recent ? "" : ", since the start"}`;
    const curves = QUANTILES.map((q) => curve((from, to) => quantile(q, from, to, name)));
    card(id, inWords(half), Number.isNaN(half) ? "no reply so far" : found, inWords, ...curves);
  }
}

function drawReplies(before, now, lately) {
  const [good, broken] = ["whole", "broken"].map((end) => growth(before, now, "cfchat_replies_total", { end }));
  const perMinute = (from, to) => (growth(from, to, "cfchat_replies_total") * 60_000) / (to.at - from.at);
  const ended = `${percent(good / (good + broken))} whole, ${words(broken)} broken off ${lately}`;
  card("replies", words(perMinute(before, now)), good + broken ? ended : `no reply ${lately}`, words, curve(perMinute));
}

function drawTries(before, now, lately) {
  const answered = (from, to) => growth(from, to, "cfchat_first_token_seconds_count");
  const each = (from, to) => growth(from, to, "cfchat_tries_total") / answered(from, to);
  const failed = growth(before, now, "cfchat_upstream_errors_total");
  const beside = `${failed ? words(failed) : "none"} failed ${lately}`;
  card("tries", words(each(answered(before, now) ? before : NOTHING, now)), beside, words, curve(each));
}

function drawToday(before, now) {
  const [tokens, neurons, budgets, streams, cpu] = [
    "cfchat_tokens_today",
    "cfchat_neurons_today",
    "cfchat_budget_tokens",
    "cfchat_worker_streams",
    "cfchat_worker_cpu_seconds",
  ].map((name) => now.by(name, "worker"));
  // A new worker begins its part of the budget again, so what ended workers have used does not count against it.
  const used = sum(tokens.values()) - (tokens.get("ended") ?? 0);
  const budget = budgets.size ? "of the budget, until 00:00 UTC" : "No budget is set (--daily-tokens).";
  drawMeasure("tokens", "Tokens", sum(tokens.values()), used, sum(budgets.values()), budget);
  const free = "of what Cloudflare gives each account for nothing a day";
  drawMeasure("neurons", "Neurons", sum(neurons.values()), sum(neurons.values()), FREE_NEURONS, free);

  const earlier = before.by("cfchat_worker_cpu_seconds", "worker");
  const row = (worker) => {
    const busy = ((cpu.get(worker) - earlier.get(worker)) * 1000) / (now.at - before.at);
    return [
      worker,
      words(streams.get(worker)),
      Number.isFinite(busy) ? percent(busy) : "–",
      words(tokens.get(worker)),
      words(neurons.get(worker)),
      budgets.has(worker) ? meter(`Budget of ${worker}`, tokens.get(worker), budgets.get(worker)) : "–",
    ];
  };
  const isEnded = (worker) => worker === "ended";
  fillTable($("#workers"), [...tokens.keys()].sort((a, b) => isEnded(a) - isEnded(b) || a - b).map(row));
}

/** Draw one measure of today: what is used in all, and a bar of what counts against a limit, if there is one. */
function drawMeasure(id, name, all, used, limit, beside) {
  const node = document.getElementById(id);
  const line = node.querySelector(".measure");
  line.replaceChildren(text("span", name), text("b", words(all)), text("span", limit ? `/ ${whole(limit)}` : ""));
  node.querySelector(".meter")?.remove();
  if (limit) line.after(meter(`${name} today`, used, limit));
  say(node.querySelector(".beside"), limit ? `${percent(used / limit)} ${beside}` : beside);
}

function drawErrors(before, now, lately) {
  const rows = [
    ["cfchat_upstream_errors_total", "code", "Cloudflare"],
    ["cfchat_rejected_total", "reason", "cfchat"],
  ].flatMap(([name, label, from]) => {
    const earlier = before.by(name, label);
    return [...now.by(name, label)].map(([code, all]) => ({ code, from, recent: all - (earlier.get(code) ?? 0), all }));
  });
  rows.sort((a, b) => b.recent - a.recent || b.all - a.all);
  fillTable($("#errors"), rows.map((it) => [text("code", it.code), it.from, words(it.recent), words(it.all)]));
  say($("#lately"), lately);
  $("#errors").parentNode.hidden = rows.length === 0;
  $("#none").hidden = rows.length > 0;
}

function drawMore(now) {
  const facts = {
    "Of clients": words(now.sum("cfchat_client_connections")),
    "To Cloudflare, in use": words(now.sum("cfchat_upstream_connections", { state: "lent" })),
    "To Cloudflare, idle": words(now.sum("cfchat_upstream_connections", { state: "idle" })),
    "Requests that wait": bytes(now.sum("cfchat_waiting_bytes")),
    "Log lines dropped": words(now.sum("cfchat_log_lines_dropped_total")),
  };
  const fact = ([name, value]) => make("div", {}, text("dt", name), text("dd", value));
  $("#more").replaceChildren(...Object.entries(facts).map(fact));
}

// --- reading ------------------------------------------------------------------------------------

let timer;
let answered; // when the last reading came

/** Read /metrics, draw, and come again. */
async function read() {
  clearTimeout(timer);
  try {
    history.add(await ask());
    answered = new Date();
    tell("");
    draw();
  } catch (error) {
    const seen = answered ? ` What you see is of ${clock(answered)}.` : "";
    tell(`/metrics cannot be read: ${why(error)}.${seen}`);
  }
  say($("#read"), answered ? `read at ${clock(answered)}` : "");
  if (!document.hidden) timer = setTimeout(read, EVERY);
}

/** Return a reading, or throw an error that says why there is none. */
async function ask() {
  const answer = await fetch("metrics", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(`the server answers with status ${answer.status}`);
  const reading = new Reading(await answer.text(), performance.now());
  if (!reading.has("cfchat_ready")) throw new Error("what answers is not cfchat");
  return reading;
}

/** Return in words why there is no reading. */
function why(error) {
  if (error.name === "TimeoutError") return `no answer came in ${PATIENCE / 1000} s`;
  return error instanceof TypeError ? "the server does not answer" : error.message;
}

/** Say what is wrong; nothing if all is well. */
function tell(trouble) {
  document.body.classList.toggle("stale", trouble !== "");
  say($("#trouble"), trouble);
  $("#trouble").hidden = trouble === "";
  if (trouble) {
    say($("#state"), "No numbers");
    $("#state").dataset.good = "false";
  }
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden) read();
});
read();
