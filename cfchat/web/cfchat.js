// <cf-chat>: a chat element for any page. It talks to a cfchat server and is one module without a dependency.
//
//   <script type="module" src="https://chat.example/cfchat.js"></script>
//   <cf-chat title="Ask us" greeting="Hello!"></cf-chat>
//
// A reply takes one way: `ask` yields its pieces, a Typist hands them on once a frame, a Markdown reader turns them
// into elements, and an Announcer gives whole sentences to a screen reader. The model's words become text nodes and
// elements that are made here: no markup of the model is ever parsed, and nothing that it names is loaded. The styles
// are one adopted sheet, because a strict Content-Security-Policy refuses inline styles.

const LABELS = {
  title: "Chat",
  greeting: "How can I help you?",
  placeholder: "Write a message",
  conversation: "Conversation",
  newChat: "New chat",
  send: "Send",
  stop: "Stop",
  retry: "Try again",
  retryIn: "Try again in {seconds} s",
  retryAt: "Try again at {time}.",
  copy: "Copy",
  copied: "Copied",
  code: "Code",
  table: "Table",
  you: "You said",
  reply: "Reply",
  latest: "Go to the latest message",
  cut: "The reply broke off here.",
  stopped: "You stopped this reply.",
  offline: "The server cannot be reached. Check your connection and try again.",
  failed: "Something went wrong (status {status}).",
  empty: "The reply was empty.",
};

const ICONS = {
  send: "M12 19V5M5.5 11.5 12 5l6.5 6.5",
  stop: "M7 7h10v10H7z",
  newChat: "M12 5v14M5 12h14",
  retry: "M20 11a8 8 0 1 0-2.3 5.7M20 4v7h-7",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  copied: "M5 12.5 10 17.5 19 7",
  latest: "M12 5v14M5.5 12.5 12 19l6.5-6.5",
  warning: "M12 8v5M12 16.5v.5M12 3 2.5 20h19z",
};

// Letters read in one frame: a limit, because a fast reply must not block the page.
const FRAME_LETTERS = 1000;
// After so many letters a `**` or `[` without its end is plain text.
const OPEN_LETTERS = 1000;
// Lines of code in one block. A browser lays out a whole block again each time it grows, so blocks stay small.
const CODE_LINES = 40;
// Pixels from the end within which the log keeps following the reply.
const NEAR = 48;
// A Retry-After up to this many seconds is counted down; a longer one is shown as a time of day.
const COUNTDOWN = 120;

// --- making elements ----------------------------------------------------------------------------

/** Return a new element. `part` and `class` become attributes, the other `settings` properties. */
function make(tag, settings = {}, ...children) {
  const { part, class: names, ...properties } = settings;
  const node = Object.assign(document.createElement(tag), properties);
  if (part) node.setAttribute("part", part);
  if (names ?? part) node.className = names ?? part;
  node.append(...children);
  return node;
}

/** Return one of ICONS as an SVG element, hidden from screen readers. */
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Return a button. A click on it runs the `action` of that name (see CfChat.#click); `say` changes its label. */
function button(action, part, words = "") {
  const node = make("button", { type: "button", part: `button ${part}` }, icon(action), make("span"));
  node.dataset.action = action;
  say(node, words);
  return node;
}

/** Set a button's label. */
function say(button, words) {
  button.lastChild.textContent = words;
}

/** Return the text with each `{name}` replaced by its value. */
const fill = (words, values) => words.replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** Call `work` in the next frame, or after 250 ms, because a hidden page has no frames. */
function nextFrame(work) {
  const run = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    work();
  };
  const frame = requestAnimationFrame(run);
  const timer = setTimeout(run, 250);
}

// --- Markdown, as it arrives --------------------------------------------------------------------
// A part of Markdown: paragraphs, headings, lists, quotes, rules, tables, code; bold, emphasis, links. Each letter is
// read once, except after an inline mark that still waits for its end. Inline text never spans two lines.

const SPECIAL = /[*`\\]|!?\[|https?:\/\//;
const MAYBE_SPECIAL = /(?:!|\bh(?:t(?:t(?:ps?(?::\/?)?)?)?)?)$/;
// For each kind of inline text: how it may begin, the whole of it, and how it becomes a node.
const INLINE = [
  [/^`/, /^(`+)([^]*?[^`])\1(?!`)/, (found, spoken) => words("code", found[2], spoken)],
  [/^\*\*(?=\S|$)/, /^\*\*(?=\S)([^]*?\S)\*\*/, (found, spoken) => inline("strong", found[1], spoken)],
  [/^\*(?![\s*])/, /^\*(?![\s*])([^*]*?[^\s*])\*(?!\w)/, (found, spoken) => inline("em", found[1], spoken)],
  [
    /^!?\[[^[\]]*(?:\]?$|\]\()/,
    /^!?\[([^[\]]*)\]\(\s*<?([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)/,
    (found, spoken) => link(found[2], inline("a", found[1] || found[2], spoken)),
  ],
  [/^https?:/, /^https?:\/\/[^\s<>"'`]*[^\s<>"'`.,:;!?*)\]}]/, ([url], spoken) => link(url, words("a", url, spoken))],
  [/^\\$/, /^\\([*_`#|~])/, (found) => found[1]],
];
const UNENDED_URL = /^https?:\/\/[^\s<>"'`]*$/;
// How inline text looks until its end has come.
const PREVIEWS = [
  [/^\*\*([^]*?)\*?$/, "strong"],
  [/^`+([^]*)/, "code"],
  [/^\*([^]*)/, "em"],
  [/^!?\[([^\]]*)/, "span"],
];

/** Return an element with plain text. */
function words(tag, text, spoken) {
  spoken(text);
  return make(tag, {}, text);
}

/** Return an element with inline Markdown. */
function inline(tag, text, spoken) {
  const node = make(tag);
  new Inline(node, spoken).end(text);
  return node;
}

/** Return the anchor with its address. If the address is not safe to follow, return only the anchor's content. */
function link(address, anchor) {
  if (!URL.canParse(address) || !["http:", "https:", "mailto:"].includes(new URL(address).protocol)) {
    return make("span", {}, ...anchor.childNodes);
  }
  return Object.assign(anchor, { href: address, target: "_blank", rel: "noopener noreferrer nofollow" });
}

/** Writes the text of one line into `parent`. `spoken` gets each piece that will not change any more. */
class Inline {
  #parent;
  #spoken;
  #rest = ""; // what may still become something else
  #preview = null;

  constructor(parent, spoken) {
    this.#parent = parent;
    this.#spoken = spoken;
  }

  write(text) {
    this.#rest += text;
    this.#read(false);
  }

  end(text = "") {
    this.#rest += text;
    this.#read(true);
  }

  #read(ended) {
    this.#preview?.remove();
    this.#preview = null;
    while (this.#rest) {
      const at = this.#rest.search(SPECIAL);
      if (at < 0) {
        const held = ended ? 0 : (MAYBE_SPECIAL.exec(this.#rest)?.[0].length ?? 0);
        this.#settle(this.#rest.length - held);
        break;
      }
      this.#settle(at);
      if (!this.#readSpecial(ended)) break;
    }
    if (this.#rest) this.#parent.append((this.#preview = preview(this.#rest)));
  }

  /** Read what begins with a special letter. Return false if its end may still come. */
  #readSpecial(ended) {
    const rest = this.#rest;
    const wait = !ended && rest.length < OPEN_LETTERS;
    for (const [begin, whole, build] of INLINE) {
      const found = whole.exec(rest);
      if (found && !(wait && UNENDED_URL.test(rest))) {
        this.#parent.append(build(found, this.#spoken));
        this.#rest = rest.slice(found[0].length);
        return true;
      }
      if (wait && begin.test(rest)) return false;
    }
    this.#settle(1);
    return true;
  }

  /** Write the first letters of the rest as plain text. */
  #settle(length) {
    const text = this.#rest.slice(0, length);
    this.#rest = this.#rest.slice(length);
    const last = this.#parent.lastChild;
    if (last instanceof Text) last.appendData(text);
    else if (text) this.#parent.append(text);
    this.#spoken(text);
  }
}

/** Return an element that shows unfinished inline text. */
function preview(text) {
  for (const [begin, tag] of PREVIEWS) {
    const found = begin.exec(text);
    if (found) return make(tag, {}, found[1]);
  }
  return make("span", {}, text);
}

// The beginning of a line that may become several things: only marks so far. Fences and table rows are read whole.
const UNDECIDED = /^\s*(?:[#>*+~`_-]*|\d{1,9}[.)]?)\s*$|^\s*(?:```|~~~|\|)/;

/** Turns Markdown that comes in pieces into elements. Each line is a block of its own, or goes on with the last one. */
class Markdown {
  #root;
  #labels;
  #spoken;
  #line = ""; // the part of the last line that is held back
  #inline = null; // the reader of the last line, once its kind is known
  #lists = []; // the open lists, outermost first: { indent, list, item }
  #block = null; // the paragraph or list item that the next line continues
  #quote = null;
  #table = null;
  #code = null;

  /** `root` gets the elements, `spoken` the text for a screen reader. */
  constructor(root, labels, spoken) {
    this.#root = root;
    this.#labels = labels;
    this.#spoken = spoken;
  }

  /** Read a piece of the text, which may end anywhere. */
  write(text) {
    const lines = text.replaceAll("\r", "").split("\n");
    lines.forEach((line, number) => {
      if (number) this.#endLine();
      this.#more(line);
    });
  }

  end() {
    if (this.#line || this.#inline || this.#code?.open) this.#endLine();
    this.#code = null;
  }

  #more(text) {
    if (!text) return;
    if (this.#inline) return this.#inline.write(text);
    this.#line += text;
    if (this.#code) this.#moreCode();
    else if (!UNDECIDED.test(this.#line)) this.#begin();
  }

  #endLine() {
    if (this.#code) this.#endCodeLine();
    else if (!this.#inline) this.#begin();
    this.#inline?.end();
    this.#inline = null;
    this.#line = "";
    this.#spoken("\n");
  }

  // Blocks.

  #begin() {
    const line = this.#line.replaceAll("\t", "    ");
    const indent = line.search(/\S|$/);
    const text = line.slice(indent);
    let found;
    if (!text) return this.#close();
    if ((found = /^(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/.exec(text))) return this.#openCode(indent, found[1], found[2]);
    if (/^\|.*\|\s*$/.test(text)) return this.#addRow(indent, text);
    this.#table = null;
    if (/^(?:-{3,}|\*{3,}|_{3,})\s*$/.test(text)) this.#add(indent, make("hr"));
    else if ((found = /^(#{1,6})\s+(\S.*)/.exec(text))) this.#addHeading(indent, found[1].length, found[2]);
    else if ((found = /^>\s?(.*)/.exec(text))) this.#addQuoted(indent, found[1]);
    else if ((found = /^(?:[-*+]|(\d{1,9})[.)])\s+(\S.*)/.exec(text))) this.#addItem(indent, found[1], found[2]);
    else this.#addText(indent, text);
  }

  #close() {
    this.#block = this.#quote = this.#table = null;
  }

  /** Add a new block to the list item under which it is indented, or to the root. */
  #add(indent, node) {
    this.#close();
    while (this.#lists.length && indent <= this.#lists.at(-1).indent) this.#lists.pop();
    (this.#lists.at(-1)?.item ?? this.#root).append(node);
    return node;
  }

  #into(node, text) {
    this.#inline = new Inline(node, this.#spoken);
    this.#inline.write(text);
  }

  #addText(indent, text) {
    if (this.#block) this.#block.append("\n");
    else this.#block = this.#add(indent, make("p", { dir: "auto" }));
    this.#into(this.#block, text);
  }

  #addHeading(indent, level, text) {
    // All headings have one level: they stand under the reply's own heading, and no level may be skipped.
    this.#into(this.#add(indent, make("h4", { dir: "auto", class: `level-${level}` })), text);
  }

  #addQuoted(indent, text) {
    const quote = this.#quote ?? this.#add(indent, make("blockquote"));
    if (!text) {
      this.#block = null;
    } else {
      if (this.#quote && this.#block) this.#block.append("\n");
      else quote.append((this.#block = make("p", { dir: "auto" })));
      this.#into(this.#block, text);
    }
    this.#quote = quote;
  }

  #addItem(indent, number, text) {
    const tag = number ? "OL" : "UL";
    while (this.#lists.length && indent < this.#lists.at(-1).indent) this.#lists.pop();
    let top = this.#lists.at(-1);
    if (!top || indent >= top.indent + 2 || top.list.tagName !== tag) {
      const list = make(tag, number ? { start: Number(number) } : {});
      this.#add(indent, list);
      this.#lists.push((top = { indent, list }));
    }
    this.#close();
    top.item = make("li", { dir: "auto" });
    top.list.append(top.item);
    this.#block = top.item;
    this.#into(top.item, text);
  }

  #addRow(indent, text) {
    const cells = text.replace(/^\|\s*|\s*\|\s*$/g, "").split(/\s*(?<!\\)\|\s*/);
    if (this.#table && cells.every((cell) => /^:?-+:?$/.test(cell))) return;
    const tag = this.#table ? "td" : "th";
    if (!this.#table) {
      const body = make("tbody");
      const frame = make("div", { class: "table", tabIndex: 0, role: "group", ariaLabel: this.#labels.table });
      this.#add(indent, frame).append(make("table", {}, body));
      this.#table = body;
    }
    const row = make("tr");
    for (const cell of cells) {
      row.append(inline(tag, cell, this.#spoken));
      this.#spoken(" ");
    }
    this.#table.append(row);
  }

  // Code. A screen reader hears only its language.

  #openCode(indent, fence, language) {
    const code = make("code");
    const pre = make("pre", { tabIndex: 0, role: "group", ariaLabel: language || this.#labels.code }, code);
    const copy = button("copy", "copy", this.#labels.copy);
    const head = make("div", { class: "code-head" }, make("span", {}, language), copy);
    this.#add(indent, make("div", { part: "code" }, head, pre));
    this.#code = { indent, code, end: new RegExp(`^\\s*${fence}+\\s*$`), mark: fence[0], lines: 0, open: false };
    this.#spoken(`${language || this.#labels.code}.`);
  }

  #moreCode() {
    // A line that may become the closing fence is held back.
    const held = this.#line.trim();
    if (held && held !== this.#code.mark.repeat(held.length)) this.#writeCode();
  }

  #endCodeLine() {
    if (!this.#code.open && this.#code.end.test(this.#line)) this.#code = null;
    else {
      this.#writeCode();
      this.#code.open = false;
    }
  }

  #writeCode() {
    const { indent, code, open } = this.#code;
    let text = this.#line;
    if (!open) {
      text = text.slice(Math.min(indent, text.search(/\S|$/)));
      if (this.#code.lines++ % CODE_LINES === 0) code.append(make("span", {}, ""));
      else text = `\n${text}`;
      this.#code.open = true;
    }
    code.lastChild.append(text);
    this.#line = "";
  }
}

// --- one reply on its way to the screen ---------------------------------------------------------

/** Gives a screen reader the reply in whole sentences, however it was cut into pieces. */
class Announcer {
  #region;
  #text = "";

  constructor(region) {
    this.#region = region;
  }

  hear = (text) => {
    this.#text += text;
  };

  /** Say the sentences that are whole; if the reply has `ended`, the rest too. */
  tell(ended = false) {
    const whole = ended ? [this.#text] : /^[^]*(?:[.!?…][)"'”’\]]*\s|[。！？\n])/.exec(this.#text);
    const length = whole ? whole[0].length : 0;
    const sentences = this.#text.slice(0, length).trim();
    this.#text = this.#text.slice(length);
    if (!sentences) return;
    this.#region.append(make("p", {}, sentences));
    while (this.#region.childElementCount > 8) this.#region.firstChild.remove();
  }
}

/** Draws a reply as it comes, once a frame. It calls `drawn` after each drawing. */
class Typist {
  #markdown;
  #announcer;
  #drawn;
  #waiting = "";
  #scheduled = false;
  #over = null; // called when the last letter is drawn

  constructor(markdown, announcer, drawn) {
    this.#markdown = markdown;
    this.#announcer = announcer;
    this.#drawn = drawn;
  }

  write(text) {
    this.#waiting += text;
    this.#schedule();
  }

  /** Wait until everything is drawn. */
  async end() {
    await new Promise((resolve) => {
      this.#over = resolve;
      this.#schedule();
    });
  }

  /** Draw the rest at once. */
  endNow() {
    this.#draw(Infinity);
    this.#finish();
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    nextFrame(() => {
      this.#scheduled = false;
      this.#draw(FRAME_LETTERS);
      if (this.#waiting) this.#schedule();
      else if (this.#over) this.#finish();
    });
  }

  #draw(letters) {
    if (!this.#waiting) return;
    this.#markdown.write(this.#waiting.slice(0, letters));
    this.#waiting = this.#waiting.slice(letters);
    this.#announcer.tell();
    this.#drawn();
  }

  #finish() {
    this.#markdown.end();
    this.#announcer.tell(true);
    this.#drawn();
    this.#over?.();
  }
}

// --- asking the server --------------------------------------------------------------------------

/** Why there is no reply. `status` is the HTTP status, or 0 without an answer; `retryAfter` is in seconds, or null. */
class Refusal extends Error {
  constructor(message, status = 0, code = "", retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** Return the Refusal for an error reply of the server, or of a proxy before it. */
async function refusal(response, labels) {
  const error = (await response.json().catch(() => null))?.error;
  const after = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const words = typeof error?.message === "string" ? error.message : fill(labels.failed, { status: response.status });
  return new Refusal(words, response.status, error?.code ?? "", after > 0 ? after : null);
}

/** POST the messages and yield the reply's text as it comes. Throws a Refusal if the server does not answer 2xx. */
async function* ask(endpoint, headers, messages, labels, signal) {
  let response;
  try {
    response = await fetch(endpoint, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/plain", ...headers },
      body: JSON.stringify({ messages }),
      signal,
    });
  } catch (error) {
    throw signal.aborted ? error : new Refusal(labels.offline);
  }
  if (!response.ok) throw await refusal(response, labels);
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read(); // rejects if the reply breaks off
    const text = decoder.decode(value, { stream: !done });
    if (text) yield text;
    if (done) return;
  }
}

/** Return the turns as messages. Neighbours of one role are joined, because some models refuse them. */
function history(turns) {
  const messages = [];
  for (const { role, content, retried } of turns) {
    if (!content || retried) continue;
    const last = messages.at(-1);
    if (last?.role === role) last.content += `\n\n${content}`;
    else messages.push({ role, content });
  }
  return messages;
}

// --- the element --------------------------------------------------------------------------------

/**
 * `<cf-chat>`: a conversation with the model behind a cfchat server.
 *
 * Attributes: `endpoint` (default: `api/chatbot` beside this module), `title`, `greeting`, `placeholder`, and
 * `storage`: `session` keeps the conversation while the tab is open, `none` (default) only while the page is.
 * Looks: custom properties `--cf-chat-*` (see STYLES), `::part(...)`, and the slots `header` and `note`.
 *
 * @fires cfchat-delta  a piece of the reply has come; `detail: { text }`
 * @fires cfchat-done   the reply is over; `detail: { text, stopped }`
 * @fires cfchat-error  it failed; `detail: { message, status, code, retryAfter, text }`, `text`: the part that came
 */
export class CfChat extends HTMLElement {
  static observedAttributes = ["title", "greeting", "placeholder"];

  /** Fields of each request, such as `{ Authorization: "Bearer ..." }`. @type {Record<string, string>} */
  headers = {};

  #labels = LABELS;
  #turns = []; // { role, content, cut, retried }
  #running = null; // the AbortController of the reply that is running
  #halt = null; // draws at once what has come of that reply
  #connected = null; // the AbortController of all listeners while the element is in a page
  #following = true; // the log scrolls along with the reply
  #timer = 0;
  #texts = new WeakMap(); // each reply's article -> its turn
  #nodes;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet()];
    this.#nodes = skeleton();
    root.append(this.#nodes.chat);
    for (const name of ["labels", "headers"]) {
      // The page may have set it before this module was loaded.
      if (!Object.hasOwn(this, name)) continue;
      const value = this[name];
      delete this[name];
      this[name] = value;
    }
    this.#showLabels();
  }

  /** The element's words, for other languages; words left out stay English. @param {Partial<typeof LABELS>} words */
  set labels(words) {
    this.#labels = { ...LABELS, ...words };
    this.#showLabels();
  }

  get labels() {
    return this.#labels;
  }

  /** The conversation so far, as the element sends it. @returns {{ role: string, content: string }[]} */
  get messages() {
    return history(this.#turns);
  }

  /**
   * Send a message of the user and ask for a reply. Does nothing while a reply is running.
   * @param {string} text
   * @returns {Promise<string>} the reply, or the part of it that came
   */
  async send(text) {
    if (this.#running || !text.trim()) return "";
    this.#settle();
    this.#turns.push({ role: "user", content: text });
    this.#nodes.thread.append(this.#drawUser(text));
    return this.#ask();
  }

  /** Stop the reply that is running. The part that has come stays. */
  stop() {
    this.#running?.abort();
  }

  /** Forget the conversation and begin a new one. */
  clear() {
    this.stop();
    this.#running = null;
    this.#turns = [];
    this.#settle();
    this.#nodes.thread.replaceChildren();
    this.#nodes.live.replaceChildren();
    this.#store();
    this.#showState();
  }

  /** Focus the input. */
  focus(options) {
    this.#nodes.input.focus(options);
  }

  connectedCallback() {
    this.#connected = new AbortController();
    const { signal } = this.#connected;
    const { log, form, input } = this.#nodes;
    const root = this.shadowRoot;
    root.addEventListener("click", (event) => this.#click(event), { signal });
    root.addEventListener("keydown", (event) => this.#keydown(event), { signal });
    // A click on Send or Stop does not move the focus, so that a phone's keyboard stays open or closed.
    form.addEventListener("mousedown", (event) => event.target !== input && event.preventDefault(), { signal });
    form.addEventListener("submit", (event) => this.#submit(event), { signal });
    input.addEventListener("input", () => this.#showInput(), { signal });
    log.addEventListener("scroll", () => this.#scrolled(), { signal, passive: true });
    const resized = new ResizeObserver(() => this.#follow());
    resized.observe(log);
    signal.addEventListener("abort", () => resized.disconnect());
    if (!this.#turns.length) this.#restore();
    this.#showState();
  }

  disconnectedCallback() {
    this.stop();
    this.#halt?.();
    clearTimeout(this.#timer);
    this.#connected.abort();
  }

  attributeChangedCallback() {
    this.#showLabels();
  }

  // One reply.

  /** Ask for a reply to the turns so far, draw it as it comes, and return its text. */
  async #ask() {
    const running = new AbortController();
    this.#running = running;
    const turn = { role: "assistant", content: "" };
    const messages = history(this.#turns);
    this.#turns.push(turn);
    this.#store();
    const node = this.#drawReply(turn);
    const announcer = new Announcer(this.#nodes.live);
    const markdown = new Markdown(node.body, this.#labels, announcer.hear);
    const typist = new Typist(markdown, announcer, () => this.#follow());
    this.#halt = () => typist.endNow();
    this.#following = true;
    this.#nodes.thread.append(node.article);
    this.#showState();
    this.#follow();
    let fault = null;
    try {
      for await (const text of ask(this.#endpoint(), this.headers, messages, this.#labels, running.signal)) {
        if (running.signal.aborted) break;
        node.article.classList.remove("waiting");
        turn.content += text;
        typist.write(text);
        this.#emit("cfchat-delta", { text });
      }
      if (!turn.content) fault = new Refusal(this.#labels.empty);
      await typist.end();
    } catch (error) {
      fault = error instanceof Refusal ? error : new Refusal(this.#labels.cut);
      typist.endNow();
    }
    if (this.#running === running) this.#over(turn, node.article, fault, running.signal.aborted);
    return turn.content;
  }

  /** Show how a reply ended, and fire its last event. */
  #over(turn, article, fault, stopped) {
    this.#running = this.#halt = null;
    if (stopped) turn.cut = "stopped";
    else if (fault) turn.cut = turn.content ? "cut" : "failed";
    this.#drawEnd(turn, article, fault);
    this.#store();
    this.#showState();
    this.#follow();
    if (fault && !stopped) {
      const { message, status, code, retryAfter } = fault;
      this.#emit("cfchat-error", { message, status, code, retryAfter, text: turn.content });
    } else {
      this.#emit("cfchat-done", { text: turn.content, stopped });
    }
  }

  #retry() {
    const last = this.#turns.at(-1);
    if (this.#running || !last) return;
    last.retried = true;
    this.#settle();
    this.#ask();
  }

  #endpoint() {
    const named = this.getAttribute("endpoint");
    return named ? new URL(named, document.baseURI).href : new URL("api/chatbot", import.meta.url).href;
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }

  // What the user does.

  #click(event) {
    const pressed = event.target.closest("button");
    const actions = {
      stop: () => this.stop(),
      newChat: () => (this.clear(), this.focus()),
      // The button goes away. If a key pressed it (detail is 0), its focus moves to the input; after a touch that
      // would open the phone's keyboard.
      retry: () => (event.detail || this.focus(), this.#retry()),
      latest: () => ((this.#following = true), this.#follow()),
      copy: () => this.#copy(pressed),
    };
    actions[pressed?.dataset.action]?.();
  }

  #keydown(event) {
    // 229: Safari sends the keydown that ends a composition after compositionend.
    const composing = event.isComposing || event.keyCode === 229;
    if (event.key === "Escape" && this.#running && !composing) {
      event.preventDefault();
      this.stop();
    } else if (event.key === "Enter" && event.target === this.#nodes.input && !event.shiftKey && !composing) {
      event.preventDefault();
      this.#submit(event);
    }
  }

  #submit(event) {
    event.preventDefault();
    const { input } = this.#nodes;
    const text = input.value;
    if (this.#running || !text.trim()) return;
    input.value = "";
    this.#showInput();
    this.send(text.trim());
  }

  async #copy(pressed) {
    const block = pressed.closest(".code");
    const text = block ? codeIn(block) : this.#texts.get(pressed.closest("article")).content;
    if (!(await copyText(text, this.shadowRoot))) return;
    pressed.firstChild.replaceWith(icon("copied"));
    say(pressed, this.#labels.copied);
    setTimeout(() => {
      pressed.firstChild.replaceWith(icon("copy"));
      say(pressed, this.#labels.copy);
    }, 2000);
  }

  // What is shown.

  #showLabels() {
    const { chat, title, greeting, log, input, send, stop, newChat, latest } = this.#nodes;
    const words = this.#labels;
    const name = this.getAttribute("title") || words.title;
    chat.ariaLabel = title.textContent = name;
    greeting.textContent = this.getAttribute("greeting") ?? words.greeting;
    log.ariaLabel = words.conversation;
    input.placeholder = input.ariaLabel = this.getAttribute("placeholder") || words.placeholder;
    say(send, words.send);
    say(stop, words.stop);
    say(newChat, words.newChat);
    say(latest, words.latest);
  }

  #showState() {
    const { chat, log, send, stop, thread } = this.#nodes;
    const running = Boolean(this.#running);
    const focused = this.shadowRoot.activeElement;
    chat.classList.toggle("empty", !thread.childElementCount);
    log.ariaBusy = String(running);
    send.hidden = running;
    stop.hidden = !running;
    this.#showInput();
    // A hidden button loses the focus, so the input takes it.
    if (focused === send || focused === stop) this.focus();
  }

  #showInput() {
    const { input, field, send } = this.#nodes;
    field.dataset.text = input.value; // its ::after gives the field its height
    send.disabled = !input.value.trim();
  }

  #scrolled() {
    const { log, latest } = this.#nodes;
    this.#following = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
    latest.hidden = this.#following;
  }

  #follow() {
    const { log } = this.#nodes;
    if (this.#following) log.scrollTop = log.scrollHeight;
    else this.#scrolled();
  }

  /** Take away the last reply's button to try again, or the reply if it has no text. */
  #settle() {
    clearTimeout(this.#timer);
    for (const node of this.#nodes.thread.querySelectorAll(".retry, .failed")) node.remove();
  }

  #drawUser(text) {
    const bubble = make("div", { part: "bubble user-bubble", dir: "auto" }, text);
    return make("article", { part: "message user-message" }, make("h3", { class: "unseen" }, this.#labels.you), bubble);
  }

  #drawReply(turn) {
    const body = make("div", { part: "bubble reply-bubble" });
    const dots = make("div", { class: "dots", ariaHidden: "true" }, make("i"), make("i"), make("i"));
    const heading = make("h3", { class: "unseen" }, this.#labels.reply);
    const article = make("article", { part: "message reply-message" }, heading, dots, body);
    article.classList.add("waiting");
    this.#texts.set(article, turn);
    return { article, body };
  }

  /** Draw what stands below a finished reply: why it is not whole, and a button to copy it. */
  #drawEnd(turn, article, fault) {
    article.classList.remove("waiting");
    if (turn.cut) article.append(this.#drawCut(turn, fault));
    if (turn.content) article.append(make("div", { part: "tools" }, button("copy", "copy", this.#labels.copy)));
    else article.classList.add("failed");
  }

  #drawCut(turn, fault) {
    const words = turn.cut === "failed" ? fault.message : this.#labels[turn.cut];
    const wait = fault?.retryAfter ?? 0;
    const text = make("span", { dir: "auto" }, words);
    const retry = button("retry", "retry", this.#labels.retry);
    if (wait > COUNTDOWN) {
      const time = new Date(Date.now() + wait * 1000).toLocaleString(this.lang || undefined, { timeStyle: "short" });
      text.append(` ${fill(this.#labels.retryAt, { time })}`);
    } else if (wait) {
      this.#countDown(retry, wait);
    }
    this.#nodes.live.append(make("p", {}, words));
    return make("div", { part: turn.cut === "stopped" ? "notice" : "notice error" }, icon("warning"), text, retry);
  }

  #countDown(retry, seconds) {
    retry.disabled = seconds > 0;
    say(retry, seconds > 0 ? fill(this.#labels.retryIn, { seconds }) : this.#labels.retry);
    if (seconds > 0) this.#timer = setTimeout(() => this.#countDown(retry, seconds - 1), 1000);
  }

  // storage="session"

  #store() {
    if (this.getAttribute("storage") !== "session") return;
    try {
      sessionStorage.setItem(this.#storageKey(), JSON.stringify(this.#turns));
    } catch {
      // The browser may forbid storage, or it is full. Then the conversation ends with the page.
    }
  }

  #restore() {
    if (this.getAttribute("storage") !== "session") return;
    try {
      this.#turns = JSON.parse(sessionStorage.getItem(this.#storageKey()) ?? "[]");
    } catch {
      return;
    }
    this.#turns = this.#turns.filter((turn) => turn.content);
    for (const turn of this.#turns) {
      this.#settle();
      this.#nodes.thread.append(turn.role === "user" ? this.#drawUser(turn.content) : this.#redraw(turn));
    }
    this.#nodes.live.replaceChildren();
  }

  #redraw(turn) {
    const { article, body } = this.#drawReply(turn);
    const markdown = new Markdown(body, this.#labels, () => {});
    markdown.write(turn.content);
    markdown.end();
    this.#drawEnd(turn, article, null);
    return article;
  }

  #storageKey() {
    return `cf-chat ${this.#endpoint()}`;
  }
}

/** Make the elements inside <cf-chat>. Return those that the rest of this file needs. */
function skeleton() {
  const title = make("h2", { part: "title" });
  const newChat = button("newChat", "new-chat");
  const header = make("header", { part: "header" }, title, make("slot", { name: "header" }), newChat);
  const greeting = make("p", { part: "greeting", dir: "auto" });
  const thread = make("div", { part: "thread" });
  const log = make("div", { part: "log", tabIndex: 0, role: "group" }, greeting, thread);
  const latest = button("latest", "latest");
  const input = make("textarea", { part: "input", rows: 1, dir: "auto", enterKeyHint: "send" });
  const field = make("div", { part: "field" }, input);
  const send = button("send", "send");
  send.type = "submit";
  const stop = button("stop", "stop");
  const form = make("form", { part: "form" }, make("div", { part: "box" }, field, send, stop));
  const live = make("div", { class: "unseen", ariaLive: "polite" });
  const main = make("div", { class: "main" }, log, latest);
  latest.hidden = stop.hidden = true;
  // An empty title here stops the browser from showing the host's title as a tooltip over everything.
  const parts = [header, main, form, make("slot", { name: "note" }), live];
  const chat = make("section", { part: "chat", title: "" }, ...parts);
  return { chat, title, greeting, log, thread, live, latest, form, field, input, send, stop, newChat };
}

/** Return the code of a block, without its head. */
const codeIn = (block) => [...block.querySelectorAll("code > span")].map((lines) => lines.textContent).join("\n");

/** Put the text on the clipboard. Return whether that worked. */
async function copyText(text, root) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain http a page has no navigator.clipboard, so this takes the old way.
    const focused = root.activeElement;
    const carrier = make("textarea", { class: "unseen", value: text });
    root.append(carrier);
    carrier.select();
    const done = document.execCommand("copy");
    carrier.remove();
    focused?.focus();
    return done;
  }
}

// --- looks --------------------------------------------------------------------------------------

const STYLES = `
:host {
  color-scheme: light dark;
  --accent: var(--cf-chat-accent, light-dark(#1f5fbf, #8ab4f8));
  --on-accent: var(--cf-chat-on-accent, light-dark(#fff, #10151c));
  --background: var(--cf-chat-background, light-dark(#fff, #16181c));
  --surface: var(--cf-chat-surface, light-dark(#f4f5f7, #202328));
  --text: var(--cf-chat-text, light-dark(#1c1f23, #e7e9ec));
  --muted: var(--cf-chat-muted, light-dark(#5b626b, #a5adb8));
  --border: var(--cf-chat-border, light-dark(#dcdfe4, #363b43));
  --control: light-dark(#868d97, #767e8a);
  --user: var(--cf-chat-user, light-dark(#e4edfb, #263a57));
  --user-text: var(--cf-chat-user-text, var(--text));
  --error: var(--cf-chat-error, light-dark(#a4262c, #ffb0a8));
  --radius: var(--cf-chat-radius, 14px);
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
  display: block;
  box-sizing: border-box;
  block-size: min(40rem, 85vh);
  min-inline-size: 0;
  color: var(--text);
  font: var(--cf-chat-font, 400 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif);
  text-align: start;
}
:host([hidden]), [hidden] { display: none !important; }
*, *::after { box-sizing: border-box; margin: 0; }
.unseen { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.chat {
  position: relative; display: flex; flex-direction: column; block-size: 100%; overflow: hidden;
  background: var(--background); border: 1px solid var(--border); border-radius: var(--radius);
}

.header { display: flex; align-items: center; gap: .75rem; min-block-size: 3.5rem; padding: .25rem .5rem .25rem 1.125rem; padding-inline: 1.125rem .5rem; border-block-end: 1px solid var(--border); }
.title { flex: 1 1 auto; min-inline-size: 0; font-size: 1rem; font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }

.main { position: relative; flex: 1 1 auto; min-block-size: 0; display: flex; flex-direction: column; }
.log { flex: 1 1 auto; min-block-size: 0; overflow-y: auto; overscroll-behavior: contain; padding: 1.25rem 1.125rem; scrollbar-width: thin; scrollbar-color: var(--control) transparent; }
.greeting, .thread, .box { inline-size: 100%; max-inline-size: var(--cf-chat-width, 46rem); margin-inline: auto; }
.greeting { color: var(--muted); margin-block-end: 1.5rem; overflow-wrap: anywhere; }
.greeting:empty { display: none; }
.empty .log { display: grid; }
.empty .greeting { align-self: center; margin-block: 0; text-align: center; text-wrap: balance; font-size: 1.5rem; line-height: 1.3; font-weight: 500; color: var(--text); }
.empty .thread { display: none; }
.thread { display: flex; flex-direction: column; gap: 1.5rem; }
.message { min-inline-size: 0; overflow-wrap: anywhere; }
.user-message { align-self: flex-end; max-inline-size: min(85%, 36rem); }
.user-bubble { padding: .55rem .95rem; background: var(--user); color: var(--user-text); border-radius: calc(var(--radius) + 4px); border-end-end-radius: 5px; white-space: pre-wrap; }

.dots { display: none; gap: .35rem; align-items: center; block-size: 1.55em; }
.waiting .dots { display: flex; }
.dots i { inline-size: .5rem; block-size: .5rem; border-radius: 50%; background: var(--muted); animation: beat 1.2s infinite ease-in-out; }
.dots i:nth-child(2) { animation-delay: .15s; }
.dots i:nth-child(3) { animation-delay: .3s; }
@keyframes beat { 0%, 70%, 100% { opacity: .3; } 35% { opacity: 1; } }

.reply-bubble > * + *, li > * { margin-block-start: .75rem; }
.reply-bubble li > :is(ul, ol) { margin-block-start: .3rem; }
p, li { white-space: pre-line; }
ul, ol { padding-inline-start: 1.5rem; white-space: normal; }
li + li { margin-block-start: .3rem; }
li::marker { color: var(--muted); }
h4 { font-size: 1rem; font-weight: 650; line-height: 1.35; }
.level-1, .level-2 { font-size: 1.15rem; }
.reply-bubble > * + h4 { margin-block-start: 1.25rem; }
strong { font-weight: 650; }
a { color: var(--accent); text-underline-offset: .15em; }
blockquote { padding-inline-start: .9rem; border-inline-start: 3px solid var(--border); color: var(--muted); }
blockquote p + p { margin-block-start: .5rem; }
hr { border: 0; border-block-start: 1px solid var(--border); }
code { font: .9em/1.5 var(--mono); }
:not(pre) > code { padding: .12em .35em; background: var(--surface); border: 1px solid var(--border); border-radius: 6px; font-size: .875em; }
.code { direction: ltr; text-align: left; background: var(--surface); border: 1px solid var(--border); border-radius: 10px; overflow: hidden; }
.code-head { display: flex; align-items: center; justify-content: space-between; padding-left: .9rem; color: var(--muted); font-size: .8125rem; border-bottom: 1px solid var(--border); }
pre { overflow-x: auto; padding: .75rem .9rem; white-space: pre; overflow-wrap: normal; tab-size: 4; scrollbar-width: thin; }
pre span { display: block; min-block-size: 1.5em; }
.table { overflow-x: auto; scrollbar-width: thin; }
table { border-collapse: collapse; font-size: .95em; }
th, td { padding: .35rem .7rem; border-block-end: 1px solid var(--border); text-align: start; vertical-align: top; overflow-wrap: normal; }
th { font-weight: 650; }

.button {
  display: inline-flex; align-items: center; justify-content: center; gap: .4rem; min-block-size: 2.75rem; padding: 0 .8rem;
  font: inherit; font-size: .875rem; color: inherit; background: none; border: 0; border-radius: 10px; cursor: pointer;
  -webkit-tap-highlight-color: transparent; touch-action: manipulation;
}
.button:hover { background: color-mix(in srgb, var(--text) 8%, transparent); }
.button:disabled { cursor: default; opacity: .55; }
.button:disabled:hover { background: none; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.log:focus-visible, pre:focus-visible, .table:focus-visible { outline-offset: -2px; }
svg { flex: none; inline-size: 1.15rem; block-size: 1.15rem; fill: none; stroke: currentColor; stroke-width: 1.9; stroke-linecap: round; stroke-linejoin: round; }
.new-chat { flex: none; color: var(--muted); }
.copy { min-block-size: 2.25rem; padding: 0 .6rem; color: var(--muted); font-size: .8125rem; border-radius: 8px; }
.copy svg { inline-size: 1rem; block-size: 1rem; }
.tools { margin-block-start: .25rem; margin-inline-start: -.6rem; }
.notice { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .6rem; margin-block-start: .5rem; color: var(--muted); font-size: .9375rem; }
.notice > span { padding-block: .5rem; }
.notice:not(.error) > svg { display: none; }
.error { padding-inline: .9rem .3rem; min-block-size: 2.75rem; color: var(--error); background: color-mix(in srgb, var(--error) 6%, transparent); border: 1px solid color-mix(in srgb, var(--error) 45%, transparent); border-radius: 10px; }
.error > span { flex: 1 1 9rem; }
.retry { color: var(--text); font-weight: 550; }
.latest { position: absolute; inset-block-end: .75rem; inset-inline-start: calc(50% - 1.375rem); inline-size: 2.75rem; padding: 0; background: var(--background); border: 1px solid var(--control); border-radius: 50%; box-shadow: 0 2px 8px rgb(0 0 0 / .15); }
.latest:hover { background: var(--surface); }

.form { padding: .25rem 1.125rem 1rem; }
.box { display: flex; align-items: flex-end; gap: .25rem; padding: .3rem; background: var(--background); border: 1px solid var(--control); border-radius: calc(var(--radius) + 12px); }
.box:focus-within { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
.field { display: grid; flex: 1 1 auto; min-inline-size: 0; max-block-size: 12rem; }
.field::after { content: attr(data-text) " "; visibility: hidden; pointer-events: none; }
.field::after, .input { grid-area: 1 / 1; min-inline-size: 0; max-block-size: 12rem; padding: .6rem .5rem .6rem .85rem; padding-inline: .85rem .5rem; font: inherit; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere; overflow-y: auto; scrollbar-width: thin; }
.input { resize: none; color: inherit; background: none; border: 0; outline: 0; inline-size: 100%; }
.input::placeholder { color: var(--muted); opacity: 1; }
.send, .stop { flex: none; inline-size: 2.75rem; padding: 0; border-radius: 50%; color: var(--on-accent); background: var(--accent); }
.send:hover, .stop:hover { background: color-mix(in srgb, var(--accent) 88%, var(--text)); }
.send:disabled, .send:disabled:hover { color: var(--muted); background: var(--surface); opacity: 1; }
.stop svg { fill: currentColor; inline-size: 1rem; block-size: 1rem; }
:is(.send, .stop, .latest) span { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

@media (prefers-reduced-motion: reduce) { .dots i { animation: none; opacity: .6; } }
@media (max-width: 30rem) {
  .header { padding-inline: .875rem .25rem; }
  .log { padding: 1rem .875rem; }
  .form { padding: .25rem .625rem .625rem; }
}
@media (forced-colors: active) { .send, .stop { border: 1px solid; } }
`;

let shared = null;

/** Return the style sheet that all elements of a page share. */
function sheet() {
  if (!shared) {
    shared = new CSSStyleSheet();
    shared.replaceSync(STYLES);
  }
  return shared;
}

if (!customElements.get("cf-chat")) customElements.define("cf-chat", CfChat);
