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
  reconnecting: "The connection was lost. Reconnecting...",
  length: "The reply was cut, because it is as long as replies may be.",
  goOn: "Continue",
  stopped: "You stopped this reply.",
  sources: "Sources ({count})",
  offline: "The server cannot be reached. Check your connection and try again.",
  failed: "Something went wrong (status {status}).",
  empty: "The reply was empty.",
  attach: "Add pictures",
  pictures: "Pictures that go with your message",
  remove: "Remove {name}",
  added: "{name} was added.",
  removed: "{name} was removed.",
  still: "{name} moves. Only its first image is sent.",
  tooMany: "A chat takes {most} pictures at most. Begin a new one to send more.",
  tooLarge: "{name} is too large.",
  tooHeavy: "{name} was left out, because the pictures of this chat are too large together.",
  noPicture: "{name} is not a picture.",
  heic: "This browser cannot read {name}, because it is a HEIC picture. Save it as JPEG and add it again.",
  unreadable: "{name} cannot be read. It may be damaged.",
  notKept: "{name} (not kept)",
  picturesOff: "Pictures cannot be sent here. Ask in words alone.",
};

const ICONS = {
  send: "M12 19V5M5.5 11.5 12 5l6.5 6.5",
  stop: "M7 7h10v10H7z",
  newChat: "M12 5v14M5 12h14",
  retry: "M20 11a8 8 0 1 0-2.3 5.7M20 4v7h-7",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  copied: "M5 12.5 10 17.5 19 7",
  goOn: "M7 5l7 7-7 7M14 5l7 7-7 7",
  latest: "M12 5v14M5.5 12.5 12 19l6.5-6.5",
  attach: "M4 5h16v14H4zM4 16.5l4.5-4.5 4 4 3-3 4.5 4.5M14.5 9v.1",
  remove: "M7 7l10 10M17 7 7 17",
  warning: "M12 8v5M12 16.5v.5M12 3 2.5 20h19z",
};

// Letters read in one frame: a limit, because a fast reply must not block the page.
const FRAME_LETTERS = 1000;
// Lines of code in one block. A browser lays out a whole block again each time it grows, so blocks stay small.
const CODE_LINES = 40;
// Pixels from the end within which the log keeps following the reply.
const NEAR = 48;
// What asks for the rest of a reply that was cut at its length. It is not shown, and no part of the conversation.
const GO_ON = "Continue exactly where you stopped, without repeating anything.";
// A Retry-After up to this many seconds is counted down; a longer one is shown as a time of day.
const COUNTDOWN = 120;

// With `resume`: the seconds before each try to go on with a reply whose connection was lost.
const TRIES = [1, 2, 4];
// Seconds without a byte after which a connection is lost. The server sends a heartbeat after 15 s.
const SILENCE = 45;
// Seconds that a try waits for a network at most, if the browser knows that there is none.
const OFFLINE = 60;
// Seconds for which a server keeps a reply at most. A page that is loaded later does not ask for the rest.
const KEPT = 600;

// Sources below a reply, and letters of a source's title.
const MOST_SOURCES = 10;
const LONGEST_SOURCE = 200;

// A picture's longest side, in pixels. Models look at no more.
const SIDE = 1568;
// Pictures in a chat, if the attribute `images` names no number, and at most.
const PICTURES = 4;
const MOST_PICTURES = 16;
const PICTURE_TYPES = "image/png,image/jpeg,image/webp,image/gif";
// What is read: bytes of a file, and pixels, because a small file can hold a picture that fills the memory.
const FILE_BYTES = 20 << 20;
const MOST_PIXELS = 100e6;
// Letters of all pictures in a chat, as they are sent. A server takes 8 MiB, words included.
const PICTURE_LETTERS = 7e6;
// What stands for a message of pictures alone after they are gone, because no model takes an empty message.
const PICTURE_GONE = "[A picture that is no longer here.]";

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
// A part of CommonMark: paragraphs, headings, lists, quotes, rules, tables, code; bold, emphasis, links. The readers are
// generators that pull letter by letter and wait where a piece ends, so no cut can change what is drawn. Each letter is
// read once, and once more if what it stood in has no end. Inline text never spans two lines.

/** The letters of a text that comes in pieces. The last piece is read first. */
class Letters {
  taken = ""; // the letters that were read since a reader emptied it
  #pieces = [];
  #half = ""; // the first half of a letter of two code units
  #ended = false;

  write(text) {
    const all = this.#half + text;
    this.#half = /[\ud800-\udbff]$/.test(all) ? all.at(-1) : "";
    this.#pieces.push({ text: this.#half ? all.slice(0, -1) : all, at: 0 });
  }

  end() {
    this.#pieces.push({ text: this.#half, at: 0 });
    this.#half = "";
    this.#ended = true;
  }

  /** Let this text be read next, once more. */
  unread(text) {
    this.#pieces.push({ text, at: 0 });
  }

  /** Return the next letter, or an empty string at the end. Wait for it if it has not come. */
  *peek() {
    for (;;) {
      const piece = this.#pieces.at(-1);
      if (!piece && this.#ended) return "";
      if (!piece) yield;
      else if (piece.at < piece.text.length) return String.fromCodePoint(piece.text.codePointAt(piece.at));
      else this.#pieces.pop();
    }
  }

  /** Read the letter that `peek` has returned. */
  take(letter) {
    this.#pieces.at(-1).at += letter.length;
    this.taken += letter;
  }

  /** Read letters while the test holds, and return them. */
  *takeWhile(test) {
    let text = "";
    for (;;) {
      const letter = yield* this.peek();
      if (!letter || !test(letter, text)) return text;
      this.take(letter);
      text += letter;
    }
  }

  /** Read what has come of a line, at least a letter, and return it. Return an empty string at the line's end. */
  *takeLine() {
    if ([NEWLINE, ""].includes(yield* this.peek())) return "";
    const piece = this.#pieces.at(-1);
    const end = piece.text.indexOf(NEWLINE, piece.at);
    const text = piece.text.slice(piece.at, end < 0 ? undefined : end);
    piece.at += text.length;
    return text;
  }
}

const NEWLINE = "\n";
const isBlank = (letter) => letter === " " || letter === "\t";
const isDigit = (letter) => letter >= "0" && letter <= "9";
const isSpace = (letter) => !letter || /\s/u.test(letter);
const isPunctuation = (letter) => /[\p{P}\p{S}]/u.test(letter);
const isOpening = (letter, before) => !before && letter === "[";
const isBacktick = (letter) => letter === "`";

const ESCAPABLE = "*`_#|~";
// Letters that end an address, and those that do not belong to it at its end.
const NO_ADDRESS = /[\s<>"`]|(?![\x00-\x7f])[\p{P}\p{S}\p{C}]/u;
const NO_ADDRESS_END = ".,:;!?*_~'";
const PAIRS = { "(": ")", "[": "]", "{": "}" };
// Scripts without blanks between words: a host's name ends before them.
const UNSPACED = /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Hang}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmr}\p{sc=Mymr}]/u;
const HOST_END = /[/?#]/;
const DEEPEST = 4; // parentheses in the address of a link
const LONGEST_TITLE = 200; // letters of a link's title
const MOST_BEGUN = 400; // letters that are shown as emphasis while its end has not come

/** Return the last letter of a text. */
const lastLetter = (text) => [...text.slice(-2)].at(-1);

/** Return the anchor with its address. If the address is not safe to follow, return only the anchor's content. */
function link(address, anchor) {
  if (!URL.canParse(address) || !["http:", "https:", "mailto:"].includes(new URL(address).protocol)) {
    const span = make("span");
    while (anchor.firstChild) span.append(anchor.firstChild);
    return span;
  }
  return Object.assign(anchor, { href: address, target: "_blank", rel: "noopener noreferrer nofollow" });
}

/** Move the siblings from one node up to another (not included; null: to the last) into an element. */
function wrap(first, end, element) {
  first.parentNode.insertBefore(element, first);
  while (element.nextSibling !== end) element.append(element.nextSibling);
  return element;
}

/** Put an element's children in its place. */
function unwrap(element) {
  while (element.firstChild) element.before(element.firstChild);
  element.remove();
}

/**
 * Writes the text of one line into `parent`. `spoken` gets each piece that will not change any more.
 *
 * A run of asterisks is a node of its own until it is matched (CommonMark 0.31 §6.2). Where emphasis has only begun, it
 * is shown as if it went on to here. With `breaks`, `<br>` is a line break.
 */
class Inline {
  #into; // the element that is written into: the line's, or emphasis that may have no end
  #spoken;
  #breaks;
  #letters = new Letters();
  #reader;
  #plain = ""; // text that is decided, and not drawn yet
  #node = null; // the text node that it goes into
  #before = "\n"; // the letter before the next one
  #runs = []; // runs of asterisks that may still begin emphasis
  #closed = new Map(); // for each kind of closing run: the number of the last run that is known not to match it
  #numbers = 0; // of runs
  #bracket = null; // the last `[`, while it may begin a link: { node, runs, anchors }
  #begun = null; // emphasis that has begun: its run's node is taken out, { outer, node, element, room }
  #preview = null; // the element that shows what is read and not decided
  #fences = null; // at the end of the line: how many runs of backticks of each length are still to come

  constructor(parent, spoken, breaks = false) {
    this.#into = parent;
    this.#spoken = spoken;
    this.#breaks = breaks;
    this.#reader = this.#read();
  }

  write(text) {
    this.#letters.write(text);
    this.#reader.next();
    this.#draw();
    this.#showUndecided();
  }

  end(text = "") {
    this.#letters.write(text);
    this.#letters.end();
    this.#reader.next();
    this.#draw();
  }

  *#read() {
    const letters = this.#letters;
    for (;;) {
      this.#previewIn(null);
      const letter = yield* letters.peek();
      if (!letter) break;
      if (isBacktick(letter)) yield* this.#readCode();
      else if (letter === "*") yield* this.#readRun();
      else if (letter === "h") yield* this.#readAddress();
      else if (letter === "]" && this.#bracket) yield* this.#readLink();
      else if (letter === "<" && this.#breaks) yield* this.#readBreak();
      else {
        letters.take(letter);
        if (letter === "\\") yield* this.#readEscaped();
        else if (letter === "[") this.#open("[");
        else if (letter === "!" && (yield* letters.takeWhile(isOpening))) this.#open("![");
        else this.#say(letter);
      }
    }
    this.#forgetBracket();
    this.#forgetBegun();
  }

  // Drawing.

  /** Add plain text. */
  #say(text) {
    this.#plain += text;
    this.#before = lastLetter(text);
  }

  /** Add a node behind all that was said. `last` is the last letter of what it was read from. */
  #add(node, last) {
    this.#previewIn(null);
    this.#draw();
    this.#node = null;
    this.#into.append(node);
    this.#before = last;
    return node;
  }

  /** Draw the plain text. */
  #draw() {
    const text = this.#plain;
    this.#plain = "";
    if (!text) return;
    if (this.#node) this.#node.appendData(text);
    else this.#into.append((this.#node = document.createTextNode(text)));
    this.#spoken(text);
    if (this.#begun && (this.#begun.room -= text.length) < 0) this.#forgetBegun();
  }

  /** Show what is not decided yet, from here on in this element. */
  #previewIn(element) {
    this.#preview?.remove();
    this.#preview = element;
    this.#letters.taken = "";
  }

  #showUndecided() {
    if (!this.#letters.taken) return;
    this.#preview ??= make("span");
    if (!this.#preview.parentNode) this.#into.append(this.#preview);
    this.#preview.append(this.#letters.taken);
    this.#letters.taken = "";
  }

  // Code, addresses, breaks.

  *#readCode() {
    const letters = this.#letters;
    this.#previewIn(make("span", { hidden: true }));
    const fence = yield* letters.takeWhile(isBacktick);
    if (this.#fences && !this.#isToCome(fence)) return this.#say(fence);
    let run = "";
    let closed = false;
    const endRun = () => {
      closed = run === fence;
      if (run && this.#fences) this.#isToCome(run);
      run = "";
    };
    this.#previewIn(make("code"));
    let text = yield* letters.takeWhile((letter) => {
      if (isBacktick(letter)) run += letter;
      else if (run) endRun();
      return !closed;
    });
    if (run) endRun();
    if (closed) {
      text = text.slice(0, -fence.length);
      if (text.startsWith(" ") && text.endsWith(" ") && text.trim()) text = text.slice(1, -1);
      this.#add(make("code", {}, text), "`");
      this.#spoken(text);
    } else {
      // It has no end. The rest of the line is read again, now that it is known which marks are in it.
      this.#fences = new Map();
      for (const [mark] of text.matchAll(/`+/g)) this.#fences.set(mark, (this.#fences.get(mark) ?? 0) + 1);
      this.#say(fence);
      letters.unread(text);
    }
  }

  /** Take one run of backticks from those to come; return whether another like it follows. */
  #isToCome(run) {
    const left = (this.#fences.get(run) ?? 1) - 1;
    this.#fences.set(run, left);
    return left > 0;
  }

  *#readAddress() {
    const letters = this.#letters;
    let scheme = yield* letters.takeWhile((letter, before) => "https".startsWith(before + letter));
    if (scheme.length > 3) {
      scheme += yield* letters.takeWhile((letter, before) => "://".startsWith(before + letter));
    }
    if (!scheme.endsWith("//")) return this.#say(scheme);
    const open = { ")": 0, "]": 0, "}": 0 };
    let inHost = true;
    const text = yield* letters.takeWhile((letter) => {
      inHost &&= !HOST_END.test(letter);
      if (NO_ADDRESS.test(letter) || (inHost && UNSPACED.test(letter)) || open[letter] === 0) return false;
      if (letter in open) open[letter] -= 1;
      if (letter in PAIRS) open[PAIRS[letter]] += 1;
      return true;
    });
    let length = text.length;
    while (NO_ADDRESS_END.includes(text[length - 1])) length -= 1;
    const address = scheme + text.slice(0, length);
    if (!length || !URL.canParse(address)) return this.#say(scheme + text);
    const anchor = this.#add(link(address, make("a", {}, address)), lastLetter(address));
    this.#spoken(address);
    this.#bracket?.anchors.push(anchor);
    letters.unread(text.slice(length));
  }

  *#readBreak() {
    const letters = this.#letters;
    const tag = yield* letters.takeWhile((letter, before) => /^<(b(r( ?\/?>?)?)?)?$/i.test(before + letter));
    if (tag.endsWith(">")) return this.#add(make("br"), " ");
    this.#say(tag);
  }

  *#readEscaped() {
    const letter = yield* this.#letters.peek();
    if (!letter || !ESCAPABLE.includes(letter)) return this.#say("\\");
    this.#letters.take(letter);
    this.#say(letter);
  }

  // Links.

  #open(mark) {
    this.#forgetBracket();
    this.#bracket = { node: this.#add(document.createTextNode(mark), "["), runs: [], anchors: [] };
  }

  *#readLink() {
    const letters = this.#letters;
    letters.take("]");
    let read = "";
    const take = function* (test) {
      const text = yield* letters.takeWhile(test);
      read += text;
      return text;
    };
    const takeOne = (wanted) => take((letter, before) => !before && letter === wanted);
    let address = "";
    if (yield* takeOne("(")) {
      this.#previewIn(make("span", { hidden: true }));
      address = yield* readAddress(take, takeOne);
    }
    if (address) {
      this.#close(address);
    } else {
      this.#forgetBracket();
      this.#add(document.createTextNode("]"), "]");
      letters.unread(read);
    }
  }

  /** Make a link of all that stands behind the bracket. */
  #close(address) {
    const { node, runs, anchors } = this.#bracket;
    this.#bracket = null;
    this.#previewIn(null);
    this.#draw();
    this.#node = null;
    const outer = [this.#runs, this.#closed];
    this.#runs = [];
    this.#closed = new Map();
    for (const run of runs) this.#match(run);
    [this.#runs, this.#closed] = outer;
    anchors.forEach(unwrap);
    const anchor = wrap(node, null, make("a"));
    node.remove();
    if (!anchor.firstChild) {
      anchor.append(address);
      this.#spoken(address);
    }
    const made = link(address, anchor);
    if (made !== anchor) anchor.replaceWith(made);
    this.#before = ")";
  }

  /** The bracket begins no link. */
  #forgetBracket() {
    const runs = this.#bracket?.runs ?? [];
    this.#bracket = null;
    for (const run of runs) this.#match(run);
  }

  // Emphasis.

  *#readRun() {
    const before = this.#before;
    this.#previewIn(make("span", { hidden: true }));
    const text = yield* this.#letters.takeWhile((letter) => letter === "*");
    const after = yield* this.#letters.peek();
    // One exception from CommonMark: between digits asterisks are signs of arithmetic.
    const product = isDigit(before) && isDigit(after);
    const left = !isSpace(after) && (!isPunctuation(after) || isSpace(before) || isPunctuation(before));
    const right = !isSpace(before) && (!isPunctuation(before) || isSpace(after) || isPunctuation(after));
    if (product || (!left && !right)) return this.#say(text);
    const node = this.#add(document.createTextNode(text), "*");
    const { length } = text;
    const run = { node, number: (this.#numbers += 1), left: length, length, opens: left, closes: right };
    if (this.#bracket) return this.#bracket.runs.push(run);
    this.#match(run);
    if (run.left && run.opens && !this.#begun) {
      const element = make(run.left > 1 ? "strong" : "em");
      this.#add(element, "*");
      node.remove();
      this.#begun = { outer: this.#into, node, element, room: MOST_BEGUN };
      this.#into = element;
    }
  }

  /** Find the runs that this one closes; keep it if it may open. */
  #match(run) {
    const kind = `${run.opens} ${run.length % 3}`;
    while (run.closes && run.left) {
      const known = this.#closed.get(kind) ?? 0;
      let at = this.#runs.length - 1;
      while (at >= 0 && this.#runs[at].number > known && !fits(this.#runs[at], run)) at -= 1;
      if (at < 0 || this.#runs[at].number <= known) {
        this.#closed.set(kind, this.#runs.at(-1)?.number ?? known);
        break;
      }
      const opener = this.#runs[at];
      const width = Math.min(opener.left, run.left, 2);
      if (opener.node.parentNode !== run.node.parentNode) this.#forgetBegun();
      wrap(opener.node.nextSibling, run.node, make(width > 1 ? "strong" : "em"));
      shorten(opener, width);
      shorten(run, width);
      this.#runs.length = opener.left ? at + 1 : at;
    }
    if (run.left && run.opens) this.#runs.push(run);
  }

  /** Emphasis that has begun is not shown as such any more. */
  #forgetBegun() {
    if (!this.#begun) return;
    const { outer, node, element } = this.#begun;
    this.#begun = null;
    this.#into = outer;
    element.before(node);
    unwrap(element);
  }
}

/** Read what stands in the parentheses of a link; return its address, or an empty string if this is no link. */
function* readAddress(take, takeOne) {
  yield* take(isBlank);
  const angle = yield* takeOne("<");
  let depth = 0;
  const address = yield* take((letter) => {
    if ("<>`\n".includes(letter)) return false;
    if (angle) return true;
    if (letter === "(") depth += 1;
    if (letter === ")") depth -= 1;
    return depth >= 0 && depth <= DEEPEST && !isSpace(letter);
  });
  if (angle && !(yield* takeOne(">"))) return "";
  if ((yield* take(isBlank)) && (yield* takeOne('"'))) {
    yield* take((letter, before) => !'"`'.includes(letter) && before.length < LONGEST_TITLE);
    if (!(yield* takeOne('"'))) return "";
    yield* take(isBlank);
  }
  return (yield* takeOne(")")) && address;
}

/** Return whether a run of asterisks can open what the other closes (CommonMark 0.31 §6.2, rules 9 and 10). */
function fits(opener, closer) {
  if (!(opener.closes || closer.opens) || (opener.length + closer.length) % 3) return true;
  return opener.length % 3 === 0 && closer.length % 3 === 0;
}

function shorten(run, width) {
  run.left -= width;
  if (run.left) run.node.data = "*".repeat(run.left);
  else run.node.remove();
}

const isEnd = (letter) => !letter || letter === NEWLINE;

// The letters that a line of its own kind may begin with, beside digits, `>` and `|`.
const MARKS = "`~#-+*_";

/** Return the texts between the pipes of a row. A pipe behind a backslash is a letter, in code too, as in GitHub's. */
function cellsOf(line) {
  const row = line.trimEnd();
  const cells = [];
  let begin = 1;
  for (let end = begin; (end = row.indexOf("|", end)) >= 0; end += 1) {
    if (row[end - 1] === "\\") continue;
    cells.push(row.slice(begin, end));
    begin = end + 1;
  }
  if (begin < row.length) cells.push(row.slice(begin));
  return cells.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** Turns Markdown that comes in pieces into elements. Each line is a block of its own, or goes on with the last one. */
export class Markdown {
  #root;
  #labels;
  #spoken;
  #letters = new Letters();
  #reader;
  #lists = []; // the open lists, outermost first: { indent, list, item }
  #block = null; // the paragraph or list item that the next line continues
  #quote = null;
  #table = null;
  #row = null; // a line that is the head of a table if the next line says so: { indent, line }

  /** `root` gets the elements, `spoken` the text for a screen reader. `labels` name tables, code and its button. */
  constructor(root, labels, spoken) {
    this.#root = root;
    this.#labels = labels;
    this.#spoken = spoken;
    this.#reader = this.#read();
  }

  /** Read a piece of the text, which may end anywhere. */
  write(text) {
    this.#letters.write(text.replaceAll("\r", ""));
    this.#reader.next();
  }

  end() {
    this.#letters.end();
    this.#reader.next();
  }

  *#read() {
    for (;;) {
      yield* this.#readLine();
      this.#spoken("\n");
      if (!(yield* this.#letters.peek())) break;
      this.#letters.take(NEWLINE);
    }
    this.#forgetRow();
  }

  *#readLine() {
    const letters = this.#letters;
    const indent = (yield* letters.takeWhile(isBlank)).replaceAll("\t", "    ").length;
    const first = yield* letters.peek();
    if (first === "|") return this.#addRow(indent, yield* this.#restOfLine());
    this.#forgetRow();
    this.#table = null;
    if (isEnd(first)) return this.#close();
    if (first === ">") return yield* this.#readQuoted(indent);
    let mark = "";
    if (MARKS.includes(first)) mark = yield* letters.takeWhile((letter) => letter === first);
    if ("`~".includes(first) && mark.length > 2) return yield* this.#readFence(indent, mark);
    if (isDigit(first)) {
      mark = yield* letters.takeWhile((letter, before) => isDigit(letter) && before.length < 9);
      mark += yield* letters.takeWhile((letter, before) => !before && ".)".includes(letter));
    }
    const gap = mark && (yield* letters.takeWhile(isBlank));
    const ends = isEnd(yield* letters.peek());
    if (ends && mark.length > 2 && "-*_".includes(first)) this.#add(indent, make("hr"));
    else if (gap && !ends && first === "#" && mark.length < 7) yield* this.#readHeading(indent, mark.length);
    else if (gap && !ends && /^(?:[-*+]|[0-9]+[.)])$/.test(mark)) yield* this.#readItem(indent, Number.parseInt(mark));
    else yield* this.#readText(this.#goOn(indent), mark + gap);
  }

  *#restOfLine() {
    let line = "";
    for (let piece; (piece = yield* this.#letters.takeLine()); ) line += piece;
    return line;
  }

  // Blocks.

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

  /** Return the block that a line of text goes into. */
  #goOn(indent) {
    if (this.#block) this.#block.append("\n");
    else this.#block = this.#add(indent, make("p", { dir: "auto" }));
    return this.#block;
  }

  /** Read the rest of the line into a node, behind the text that has been read of it. */
  *#readText(node, text = "") {
    const inline = new Inline(node, this.#spoken);
    inline.write(text);
    for (let piece; (piece = yield* this.#letters.takeLine()); ) inline.write(piece);
    inline.end();
  }

  *#readHeading(indent, level) {
    // All headings have one level: they stand under the reply's own heading, and no level may be skipped.
    yield* this.#readText(this.#add(indent, make("h4", { dir: "auto", class: `level-${level}` })));
  }

  *#readQuoted(indent) {
    const letters = this.#letters;
    letters.take(">");
    yield* letters.takeWhile((letter, before) => !before && isBlank(letter));
    const quote = this.#quote ?? this.#add(indent, make("blockquote"));
    if (isEnd(yield* letters.peek())) {
      this.#block = null;
    } else {
      if (this.#quote && this.#block) this.#block.append("\n");
      else quote.append((this.#block = make("p", { dir: "auto" })));
      yield* this.#readText(this.#block);
    }
    this.#quote = quote;
  }

  /** `number` is that of an ordered list, or NaN. */
  *#readItem(indent, number) {
    const tag = Number.isNaN(number) ? "UL" : "OL";
    while (this.#lists.length && indent < this.#lists.at(-1).indent) this.#lists.pop();
    let top = this.#lists.at(-1);
    if (!top || indent >= top.indent + 2 || top.list.tagName !== tag) {
      const list = make(tag, { dir: "auto", ...(tag === "OL" && { start: number }) });
      this.#add(indent, list);
      this.#lists.push((top = { indent, list }));
    }
    this.#close();
    top.item = make("li");
    top.list.append(top.item);
    this.#block = top.item;
    yield* this.#readText(top.item);
  }

  // Tables.

  #addRow(indent, line) {
    const cells = cellsOf(line);
    if (this.#table) {
      this.#drawRow("td", cells);
    } else if (this.#row && cells.length && cells.every((cell) => /^:?-+:?$/.test(cell))) {
      const head = this.#row;
      this.#row = null;
      const body = make("tbody");
      const frame = make("div", { class: "table", tabIndex: 0, role: "group", ariaLabel: this.#labels.table });
      this.#add(head.indent, frame).append(make("table", {}, body));
      this.#table = body;
      this.#drawRow("th", cellsOf(head.line));
    } else {
      this.#forgetRow();
      this.#row = { indent, line };
    }
  }

  /** The line that might have been the head of a table is text. */
  #forgetRow() {
    if (!this.#row) return;
    const { indent, line } = this.#row;
    this.#row = null;
    new Inline(this.#goOn(indent), this.#spoken).end(line);
    this.#spoken("\n");
  }

  #drawRow(tag, cells) {
    const row = make("tr");
    for (const text of cells) {
      const cell = make(tag);
      new Inline(cell, this.#spoken, true).end(text);
      row.append(cell);
      this.#spoken(" ");
    }
    this.#table.append(row);
  }

  // Code. A screen reader hears only its language.

  *#readFence(indent, fence) {
    const info = yield* this.#restOfLine();
    if (fence[0] === "`" && info.includes("`")) {
      new Inline(this.#goOn(indent), this.#spoken).end(fence + info);
      return;
    }
    const language = /^[\w+#.-]*/.exec(info.trim())[0];
    const code = make("code");
    const pre = make("pre", { tabIndex: 0, role: "group", ariaLabel: language || this.#labels.code }, code);
    const copy = button("copy", "copy", this.#labels.copy);
    const head = make("div", { class: "code-head" }, make("span", {}, language), copy);
    this.#add(indent, make("div", { part: "code" }, head, pre));
    this.#spoken(`${language || this.#labels.code}.`);
    const letters = this.#letters;
    for (let lines = 0; yield* letters.peek(); lines += 1) {
      letters.take(NEWLINE);
      this.#spoken("\n");
      const blanks = yield* letters.takeWhile(isBlank);
      const marks = yield* letters.takeWhile((letter) => letter === fence[0]);
      const gap = marks.length < fence.length ? "" : yield* letters.takeWhile(isBlank);
      const next = yield* letters.peek();
      if (marks.length >= fence.length && isEnd(next)) return;
      const begin = blanks.slice(indent) + marks + gap;
      if (!begin && !next) return;
      if (lines % CODE_LINES === 0) code.append(make("span", {}, begin));
      else code.lastChild.firstChild.appendData(`\n${begin}`);
      for (let piece; (piece = yield* letters.takeLine()); ) code.lastChild.firstChild.appendData(piece);
    }
  }
}

// --- one reply on its way to the screen ---------------------------------------------------------

/** Let a screen reader say these words. The region keeps the last eight. */
function announce(region, words) {
  region.append(make("p", {}, words));
  while (region.childElementCount > 8) region.firstChild.remove();
}

/** Gives a screen reader the reply in whole sentences, however it was cut into pieces. */
class Announcer {
  #region;
  #text = "";
  #whole = 0; // letters of it that are whole sentences
  #seen = 0; // letters of it that were looked at

  constructor(region) {
    this.#region = region;
  }

  hear = (text) => {
    this.#text += text;
  };

  /** Say the sentences that are whole; if the reply has `ended`, the rest too. */
  tell(ended = false) {
    for (; this.#seen < this.#text.length; this.#seen += 1) {
      const letter = this.#text[this.#seen];
      const ends = "。！？\n".includes(letter) || (/\s/.test(letter) && this.#isAfterSentence());
      if (ends) this.#whole = this.#seen + 1;
    }
    const length = ended ? this.#text.length : this.#whole;
    const sentences = this.#text.slice(0, length).trim();
    this.#text = this.#text.slice(length);
    this.#seen -= length;
    this.#whole = 0;
    if (!sentences) return;
    announce(this.#region, sentences);
  }

  #isAfterSentence() {
    let at = this.#seen - 1;
    while (at >= 0 && ")\"'”’]".includes(this.#text[at])) at -= 1;
    return at >= 0 && ".!?…".includes(this.#text[at]);
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

// --- the user's pictures ------------------------------------------------------------------------
// Each is drawn again, so that it gets small and loses what its file tells beside it, such as the place of a camera.

/** Why a picture is not taken: the name of a label. */
class Unfit extends Error {}

// Files that hold more than one image: GIF, WebP and PNG. A lookahead is tried once, so that the time is linear.
const MOVES = /^GIF8(?=([^]*?!\xf9\x04))\1[^]*?\0!\xf9\x04|^RIFF[^]{4}WEBPVP8X[^]*?ANIM|^.PNG(?:(?!IDAT)[^])*?acTL/;

/**
 * Return `url`, the picture of a file as a data: URL of a PNG or a JPEG, whichever is smaller, and whether the file
 * `moves`. Throws an Unfit.
 */
async function readPicture(file) {
  const isHeic = /^image\/hei[cf]|\.hei[cf]$/i.test(`${file.type}\n${file.name}`);
  if (!isHeic && !/^image\/(?!svg)/.test(file.type)) throw new Unfit("noPicture");
  if (file.size > FILE_BYTES) throw new Unfit("tooLarge");
  const image = make("img", { src: await dataUrl(file) });
  try {
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject }));
    if (image.naturalWidth * image.naturalHeight > MOST_PIXELS) throw new Unfit("tooLarge");
    await image.decode();
  } catch (error) {
    throw error instanceof Unfit ? error : new Unfit(isHeic ? "heic" : "unreadable");
  }
  const blobs = await Promise.all(["image/png", "image/jpeg"].map((type) => encode(shrink(image), type)));
  const [smaller] = blobs.filter(Boolean).sort((one, other) => one.size - other.size);
  if (!smaller) throw new Unfit("unreadable");
  const moves = MOVES.test(new TextDecoder("latin1").decode(await file.arrayBuffer()));
  return { url: await dataUrl(smaller), moves };
}

/** Draw an image with sides of SIDE at most, on white: a JPEG has no transparency, and models take it for black. */
function shrink(image) {
  const { naturalWidth, naturalHeight } = image;
  const scale = Math.min(1, SIDE / Math.max(naturalWidth, naturalHeight));
  const [width, height] = [naturalWidth, naturalHeight].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d", { alpha: false });
  Object.assign(context, { fillStyle: "#fff", imageSmoothingQuality: "high" });
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  return canvas;
}

const encode = (canvas, type) => new Promise((resolve) => canvas.toBlob(resolve, type, 0.85));

/** Return a file as a data: URL. */
function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    Object.assign(reader, { onload: () => resolve(reader.result), onerror: () => reject(new Unfit("unreadable")) });
    reader.readAsDataURL(blob);
  });
}

/** Return the files that are pasted. A table or a text that comes with its own picture is pasted as text. */
function pastedFiles({ types, files }) {
  return types.includes("text/plain") && types.includes("text/html") ? [] : [...files];
}

/** The pictures that go with the next message: each has a preview with a button that removes it. */
class Tray {
  #list; // the element of the previews
  #labels; // a function that returns the labels
  #tell; // called with what happened, in words, and with whether it is a refusal
  #changed;
  #pictures = new Map(); // each preview -> { name, url }, without `url` while it is read
  #last = Promise.resolve(); // of the reading, one picture after the other, because each takes memory

  constructor(list, labels, tell, changed) {
    this.#list = list;
    this.#labels = labels;
    this.#tell = tell;
    this.#changed = changed;
  }

  /** The pictures, as { name, url }. */
  get pictures() {
    return [...this.#pictures.values()];
  }

  get isReading() {
    return this.pictures.some(({ url }) => !url);
  }

  /** Read the files, into a chat that takes `most` pictures and already holds `held` of them. */
  add(files, most, held) {
    for (const file of files) {
      if (held.length + this.#pictures.size >= most) return this.#tell(fill(this.#labels().tooMany, { most }), true);
      const picture = { name: file.name, url: "" };
      const preview = this.#draw(picture);
      this.#pictures.set(preview, picture);
      this.#last = this.#last.then(() => this.#read(file, preview, picture, held));
    }
    this.#changed();
  }

  async #read(file, preview, picture, held) {
    const { name } = picture;
    let words = "added";
    try {
      const { url, moves } = await readPicture(file);
      if (moves) words = "still";
      const letters = [...held, ...this.pictures].reduce((sum, other) => sum + (other.url ?? "").length, url.length);
      if (letters > PICTURE_LETTERS) throw new Unfit("tooHeavy");
      picture.url = preview.firstChild.src = url;
    } catch (error) {
      words = error instanceof Unfit ? error.message : "unreadable";
    }
    if (!this.#pictures.has(preview)) return; // it was removed meanwhile
    if (!picture.url) this.#drop(preview);
    this.#tell(fill(this.#labels()[words], { name }), !picture.url || words === "still");
    this.#changed();
  }

  #draw({ name }) {
    const remove = button("remove", "remove", fill(this.#labels().remove, { name }));
    const preview = make("li", { part: "preview" }, make("img", { alt: name }), remove);
    this.#list.append(preview);
    return preview;
  }

  #drop(preview) {
    this.#pictures.delete(preview);
    preview.remove();
  }

  /** Remove the picture of this button. Return the button of its neighbour, if there is one. */
  remove(pressed) {
    const preview = pressed.closest("li");
    const neighbour = preview.nextSibling ?? preview.previousSibling;
    const { name } = this.#pictures.get(preview);
    this.#drop(preview);
    this.#tell(fill(this.#labels().removed, { name }), false);
    this.#changed();
    return neighbour?.lastChild;
  }

  /** Remove all pictures, and return them. */
  take() {
    const taken = this.pictures;
    for (const preview of [...this.#pictures.keys()]) this.#drop(preview);
    return taken;
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

/** Return whether the server takes no pictures, or its model does not: a page names no other option. */
const refusesPictures = (fault) => ["invalid_image", "invalid_option"].includes(fault?.code);

/** Return the Refusal for an error reply of the server, or of a proxy before it. */
async function refusal(response, labels) {
  const error = (await response.json().catch(() => null))?.error;
  const after = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const words = typeof error?.message === "string" ? error.message : fill(labels.failed, { status: response.status });
  return new Refusal(words, response.status, error?.code ?? "", after > 0 ? after : null);
}

/** The connection was lost, or there was none. */
class Lost extends Refusal {}

/** Return a random UUID (RFC 9562 §5.4). `crypto.randomUUID` is missing in pages that came over plain http. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const digits = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/**
 * Ask a question, and yield the events of the reply as they come: objects with `text`, the last one with
 * `finish_reason`, and `{ isLost: true }` where a reply that can be resumed has lost its connection.
 *
 * `question` has the `endpoint`, the `headers`, the `messages`, the `labels`, whether to `resume`, and the `place` in
 * the reply, which is moved along: { key, reply, number, hasWords }, the key of the question, the name of the reply,
 * the number of its last event, and whether any words have come. Throws a Refusal if the server does not answer 2xx, or
 * ends the reply with an error.
 */
async function* ask(question, signal) {
  const { place, resume } = question;
  for (let tries = 0; ; ) {
    const { number } = place;
    try {
      yield* post(question, signal);
      return;
    } catch (error) {
      if (place.number > number) tries = 0; // it has gone on
      // Words without an id cannot be told from those that would come again.
      const isOver = !resume || signal.aborted || tries === TRIES.length || (place.hasWords && !place.reply);
      if (isOver || !(error instanceof Lost)) throw error;
      yield { isLost: true };
      await pause(TRIES[tries++], signal);
      if (!navigator.onLine) await pause(OFFLINE, signal, "online");
    }
  }
}

/** Wait for so many seconds, or until the signal is aborted, or the window has an event of this name. */
function pause(seconds, signal, name) {
  const over = new AbortController();
  return new Promise((resolve) => {
    const end = () => (over.abort(), clearTimeout(timer), resolve());
    const timer = setTimeout(end, seconds * 1000);
    signal.addEventListener("abort", end, { signal: over.signal });
    if (name) addEventListener(name, end, { signal: over.signal });
    if (signal.aborted) end();
  });
}

/** POST a question once, or go on with its reply behind its place: see `ask`. Throws a Lost if the reply has no end. */
async function* post({ endpoint, headers, messages, place, resume, labels }, signal) {
  const connection = new AbortController();
  const lose = (words) => () => Promise.reject(new Lost(words));
  const fields = { "Content-Type": "application/json", Accept: "text/event-stream", "Idempotency-Key": place.key };
  if (place.reply) fields["Last-Event-ID"] = `${place.reply}.${place.number}`;
  let isKnown = !place.hasWords; // whether this goes on with the same reply
  let timer = 0;
  try {
    const response = await fetch(endpoint, {
      method: "POST",
      headers: { ...fields, ...headers },
      body: JSON.stringify({ messages }),
      signal: AbortSignal.any([signal, connection.signal]),
    }).catch(lose(labels.offline));
    if (!response.ok) throw await refusal(response, labels);
    yield {}; // the connection is there
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = ""; // what has come of the next event
    let whole = false;
    for (;;) {
      clearTimeout(timer);
      if (resume) timer = setTimeout(() => connection.abort(), SILENCE * 1000);
      const { done, value } = await reader.read().catch(() => ({ done: true }));
      if (done && whole) return;
      if (done) throw new Lost(labels.cut);
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const { id, data } of events.map(fieldsOf)) {
        whole ||= data === "[DONE]";
        if (!data || whole) continue; // a heartbeat, or the end
        const said = JSON.parse(data);
        if (said.error) throw new Refusal(said.error.message, 0, said.error.code);
        const [, reply = "", number] = /^(.+)\.([0-9]+)$/.exec(id) ?? [];
        if (said.text && !isKnown && reply !== place.reply) {
          // The server has forgotten the first reply and has asked the model again. Half of each is no answer.
          endReply(endpoint, headers, reply);
          throw new Refusal(labels.cut);
        }
        isKnown ||= Boolean(said.text);
        if (reply && reply === place.reply && Number(number) <= place.number) continue; // it has come before
        if (reply) Object.assign(place, { reply, number: Number(number) });
        place.hasWords ||= Boolean(said.text);
        yield said;
      }
    }
  } finally {
    clearTimeout(timer);
    connection.abort();
  }
}

/** Return the fields of an event. By LF alone: a RegExp would end a line at U+2028, too, which may stand in JSON. */
function fieldsOf(event) {
  const lines = event.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]);
  return Object.fromEntries(lines);
}

/** Tell the server that the user has stopped this reply, because a kept reply goes on without a reader. */
function endReply(endpoint, headers, reply) {
  if (!reply) return;
  const url = new URL(endpoint);
  url.pathname += `/${encodeURIComponent(reply)}/stop`;
  fetch(url, { method: "POST", headers, keepalive: true }).catch(() => {}); // then it ends a while later, by itself
}

/** Return the sources of a reply and those of one event, each once, as { title, url }. What has no title is left out. */
function joinSources(known, told) {
  const joined = [...known];
  for (const source of Array.isArray(told) ? told : []) {
    const { title, url } = source ?? {};
    const isKnown = joined.some((other) => other.title === title && other.url === url);
    if (title && typeof title === "string" && !isKnown) joined.push({ title, url });
  }
  return joined.slice(0, MOST_SOURCES);
}

/** Return the turns as messages. Neighbours of one role are joined, because some models refuse them. */
function history(turns) {
  const messages = [];
  for (const { role, content, pictures = [], retried } of turns) {
    const sent = pictures.filter(({ url }) => url);
    const text = content || (pictures.length > sent.length ? PICTURE_GONE : "");
    if (retried || !(text || sent.length)) continue;
    const last = messages.at(-1);
    if (last?.role === role) {
      last.text = [last.text, text].filter(Boolean).join("\n\n");
      last.sent.push(...sent);
    } else {
      messages.push({ role, text, sent });
    }
  }
  return messages.map(({ role, text, sent }) => ({ role, content: sent.length ? partsOf(text, sent) : text }));
}

/** Return the content of a message with pictures, as OpenAI's chat completions have it. */
function partsOf(text, pictures) {
  const parts = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return text ? [{ type: "text", text }, ...parts] : parts;
}

// --- the element --------------------------------------------------------------------------------

/**
 * `<cf-chat>`: a conversation with the model behind a cfchat server.
 *
 * Attributes: `endpoint` (default: `api/chatbot` beside this module), `title`, `greeting`, `placeholder`,
 * `storage`: `session` keeps the conversation while the tab is open, `none` (default) only while the page is, and
 * `images`: the user may send pictures, as many in a chat as it says, or 4. With `resume` a reply whose connection was
 * lost goes on, with `storage` also after the page was loaded again; the server must keep replies.
 * Looks: custom properties `--cf-chat-*` (see STYLES), `::part(...)`, and the slots `header` and `note`.
 *
 * @fires cfchat-delta  a piece of the reply has come; `detail: { text }`
 * @fires cfchat-done   the reply is over; `detail: { text, stopped }`
 * @fires cfchat-error  it failed; `detail: { message, status, code, retryAfter, text }`, `text`: the part that came
 */
export class CfChat extends (globalThis.HTMLElement ?? Object) {
  static observedAttributes = ["title", "greeting", "placeholder", "images"];

  /** Fields of each request, such as `{ Authorization: "Bearer ..." }`. @type {Record<string, string>} */
  headers = {};

  #labels = LABELS;
  #turns = []; // { role, content, pictures, sources, cut, retried }, while its reply runs also `place` (see `ask`)
  #tray;
  #picturesOff = false; // the server refuses pictures
  #running = null; // the reply that is running: { question, abort, typist, turn, article, stopped }
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
    const tell = (words, isRefusal) => this.#tell(words, isRefusal);
    this.#tray = new Tray(this.#nodes.previews, () => this.#labels, tell, () => this.#showInput());
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

  /** The conversation so far, as the element sends it. @returns {{ role: string, content: string | object[] }[]} */
  get messages() {
    return history(this.#turns);
  }

  /**
   * Send a message of the user and ask for a reply. Does nothing while a reply is running.
   * @param {string} text
   * @returns {Promise<string>} the reply, or the part of it that came
   */
  async send(text) {
    return this.#running || !text.trim() ? "" : this.#send({ role: "user", content: text });
  }

  #send(turn) {
    this.#settle();
    this.#turns.push(turn);
    this.#nodes.thread.append(this.#drawUser(turn));
    return this.#ask();
  }

  /** Stop the reply that is running. The part that has come stays. */
  stop() {
    const running = this.#halt();
    if (running) this.#over(running, null);
  }

  /** Forget the conversation and begin a new one. */
  clear() {
    this.#halt();
    this.#turns = [];
    this.#settle();
    this.#tray.take();
    for (const node of ["thread", "live", "hint"]) this.#nodes[node].replaceChildren();
    this.#store();
    this.#showState();
  }

  /** Focus the input. */
  focus(options) {
    this.#nodes.input.focus(options);
  }

  connectedCallback() {
    if (this.#connected) return this.#follow(); // it was moved
    this.#connected = new AbortController();
    const { signal } = this.#connected;
    const { chat, log, form, input, files } = this.#nodes;
    const root = this.shadowRoot;
    root.addEventListener("click", (event) => this.#click(event), { signal });
    root.addEventListener("keydown", (event) => this.#keydown(event), { signal });
    // A click on Send or Stop does not move the focus, so that a phone's keyboard stays open or closed.
    form.addEventListener("mousedown", (event) => event.target !== input && event.preventDefault(), { signal });
    form.addEventListener("submit", (event) => this.#submit(event), { signal });
    input.addEventListener("input", () => this.#showInput(), { signal });
    input.addEventListener("paste", (event) => this.#receive(event, pastedFiles(event.clipboardData)), { signal });
    for (const kind of ["dragover", "dragleave", "drop"]) {
      chat.addEventListener(kind, (event) => this.#drag(event), { signal });
    }
    files.addEventListener("change", (event) => this.#choose(event), { signal });
    // The last event that a page surely gets, before it is loaded again, too.
    document.addEventListener("visibilitychange", () => this.#running && this.#store(), { signal });
    log.addEventListener("scroll", () => this.#scrolled(), { signal, passive: true });
    const resized = new ResizeObserver(() => this.#follow());
    resized.observe(log);
    signal.addEventListener("abort", () => resized.disconnect());
    if (!this.#turns.length) this.#restore();
    this.#showState();
  }

  disconnectedCallback() {
    // An element that is moved is taken out and put in again at once, and keeps its reply.
    queueMicrotask(() => {
      if (this.isConnected || !this.#connected) return;
      this.stop();
      clearTimeout(this.#timer);
      this.#connected.abort();
      this.#connected = null;
    });
  }

  attributeChangedCallback(name) {
    if (name === "images") this.#picturesOff = false;
    this.#showLabels();
    this.#showInput();
  }

  // One reply.

  /**
   * Ask for a reply, draw it as it comes, and return its text. With a turn of an older reply, go on with that: with what
   * is behind its place, if it has one, or else with the rest of a reply that was cut at its length.
   */
  async #ask(turn = { role: "assistant", content: "" }) {
    if (turn !== this.#turns.at(-1)) this.#turns.push(turn);
    turn.place ??= { key: newKey(), reply: "", number: -1, hasWords: false, begun: turn.content.length };
    delete turn.cut;
    const { place } = turn;
    const question = this.#question(turn);
    const { article, body } = this.#drawReply(turn);
    const announcer = new Announcer(this.#nodes.live);
    let hear = () => {};
    const markdown = new Markdown(body, this.#labels, (text) => hear(text));
    markdown.write(turn.content);
    hear = announcer.hear;
    const abort = new AbortController();
    const typist = new Typist(markdown, announcer, () => this.#follow());
    const running = (this.#running = { question, abort, typist, turn, article, stopped: false });
    this.#following = true;
    this.#nodes.thread.append(article);
    this.#store();
    this.#showState();
    this.#follow();
    let fault = null;
    let known = place.reply;
    try {
      for await (const said of ask(question, abort.signal)) {
        if (running.stopped) {
          this.#close(running);
          continue;
        }
        this.#showLoss(running, said.isLost);
        if (place.reply !== known) this.#store();
        known = place.reply;
        if (said.finish_reason === "length") turn.cut = "length";
        if (said.sources) turn.sources = joinSources(turn.sources ?? [], said.sources);
        if (!said.text) continue;
        article.classList.remove("waiting");
        turn.content += said.text;
        typist.write(said.text);
        this.#emit("cfchat-delta", { text: said.text });
      }
      if (turn.content.length === place.begun) fault = new Refusal(this.#labels.empty);
      await typist.end();
    } catch (error) {
      fault = error instanceof Refusal ? error : new Refusal(this.#labels.cut);
      typist.endNow();
    }
    if (this.#running === running) this.#over(running, fault);
    return turn.content;
  }

  /** Return what `ask` takes, for the reply of this turn. */
  #question(turn) {
    const asked = this.#turns.slice(0, -1);
    const { place } = turn;
    const messages = history([...asked, { ...turn, content: turn.content.slice(0, place.begun) }]);
    if (place.begun) messages.push({ role: "user", content: GO_ON });
    const [endpoint, headers, labels] = [this.#endpoint(), this.headers, this.#labels];
    return { endpoint, headers, messages, labels, place, resume: this.hasAttribute("resume") };
  }

  /** Draw what has come of the reply that is running, close its request, and return that reply. */
  #halt() {
    const running = this.#running;
    this.#running = null;
    if (!running) return null;
    running.stopped = true;
    running.typist.endNow();
    this.#close(running);
    return running;
  }

  /** Close the request for a reply. A kept one is stopped by its name: until that is known, the request stays open. */
  #close({ question, abort }) {
    const { endpoint, headers, place, resume } = question;
    if (resume && !place.reply && !place.hasWords) return;
    if (resume && !abort.signal.aborted) endReply(endpoint, headers, place.reply);
    abort.abort();
  }

  /** Show how a reply ended, and fire its last event. */
  #over(running, fault) {
    const { turn, article } = running;
    const stopped = running.stopped || fault?.code === "stopped"; // in another tab
    this.#running = null;
    this.#showLoss(running, false);
    if (stopped) turn.cut = "stopped";
    else if (fault && turn.place.begun) turn.cut = "length"; // the rest did not come, and can be asked for again
    else if (fault) turn.cut = turn.content ? "cut" : "failed";
    delete turn.place;
    if (refusesPictures(fault)) this.#forgetPictures();
    this.#drawEnd(turn, article, stopped ? null : fault);
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

  #goOn() {
    const last = this.#turns.at(-1);
    if (this.#running || last?.cut !== "length") return;
    this.#settle();
    this.#nodes.thread.lastChild.remove(); // it is drawn again, so that the rest goes on in its last line
    this.#ask(last);
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
      goOn: () => (event.detail || this.focus(), this.#goOn()),
      attach: () => this.#nodes.files.click(),
      remove: () => (this.#tray.remove(pressed) ?? this).focus(),
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
    const { input, hint } = this.#nodes;
    if (this.#running || !this.#isReady) return;
    const content = input.value.replace(/^(?:[^\S\n]*\n)+/, "").trimEnd(); // the first line keeps its indentation
    const pictures = this.#tray.take();
    input.value = "";
    hint.replaceChildren();
    this.#showInput();
    this.#send({ role: "user", content, ...(pictures.length && { pictures }) });
  }

  /** Whether there is something to send. */
  get #isReady() {
    const { pictures, isReading } = this.#tray;
    return !isReading && Boolean(pictures.length || this.#nodes.input.value.trim());
  }

  // Pictures.

  get #mostPictures() {
    if (!this.hasAttribute("images")) return 0;
    return Math.min(Number.parseInt(this.getAttribute("images"), 10) || PICTURES, MOST_PICTURES);
  }

  /** The pictures of all turns, also those that are gone. */
  get #pictures() {
    return this.#turns.flatMap((turn) => turn.pictures ?? []);
  }

  /** Take the files of an event, if this chat takes pictures. */
  #receive(event, files) {
    if (!this.#mostPictures || !files.length) return;
    event.preventDefault();
    this.#nodes.hint.replaceChildren();
    if (this.#picturesOff) return this.#tell(this.#labels.picturesOff, true);
    const held = this.#pictures.filter(({ url }) => url);
    this.#tray.add(files, this.#mostPictures, held);
  }

  #choose(event) {
    const { files } = this.#nodes;
    this.#receive(event, [...files.files]);
    files.value = ""; // so that the same file can be chosen again
  }

  #drag(event) {
    const { chat } = this.#nodes;
    const isOver = event.type === "dragover" && this.#mostPictures > 0 && event.dataTransfer.types.includes("Files");
    if (isOver) event.preventDefault(); // or the browser opens the file
    if (event.type === "drop") this.#receive(event, [...event.dataTransfer.files]);
    if (event.type !== "dragleave" || !chat.contains(event.relatedTarget)) chat.classList.toggle("dropping", isOver);
  }

  /** Send no pictures any more, because the server refuses them. */
  #forgetPictures() {
    this.#picturesOff = true;
    this.#tray.take();
    for (const picture of this.#pictures) picture.url = "";
  }

  /** Tell a screen reader what has happened. A refusal is shown, too. */
  #tell(words, isRefusal) {
    const { live, hint } = this.#nodes;
    announce(live, words);
    if (isRefusal) hint.append(make("span", { dir: "auto" }, words));
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
    const { chat, title, greeting, log, input, send, stop, newChat, latest, attach, previews } = this.#nodes;
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
    say(attach, words.attach);
    previews.ariaLabel = words.pictures;
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
    const { input, field, send, attach } = this.#nodes;
    field.dataset.text = input.value; // its ::after gives the field its height
    send.disabled = !this.#isReady;
    attach.hidden = !this.#mostPictures || this.#picturesOff;
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

  #drawUser({ content, pictures = [] }) {
    const bubble = make("div", { part: "bubble user-bubble", dir: "auto" });
    const drawn = pictures.map((picture) => this.#drawPicture(picture));
    if (drawn.length) bubble.append(make("div", { part: "pictures" }, ...drawn));
    if (content) bubble.append(make("span", {}, content));
    return make("article", { part: "message user-message" }, make("h3", { class: "unseen" }, this.#labels.you), bubble);
  }

  #drawPicture({ name, url }) {
    if (!url) return make("em", {}, fill(this.#labels.notKept, { name }));
    return make("img", { src: url, alt: name, onload: () => this.#follow() });
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

  /** Draw what stands below a finished reply: its sources, why it is not whole, and a button to copy it. */
  #drawEnd(turn, article, fault) {
    article.classList.remove("waiting");
    if (turn.content && turn.sources?.length) article.append(this.#drawSources(turn.sources));
    if (turn.cut) article.append(this.#drawCut(turn, fault));
    if (turn.content) article.append(make("div", { part: "tools" }, button("copy", "copy", this.#labels.copy)));
    else article.classList.add("failed");
  }

  #drawSources(sources) {
    const words = fill(this.#labels.sources, { count: sources.length });
    const items = sources.map((source) => make("li", {}, drawSource(source)));
    announce(this.#nodes.live, words);
    const list = [make("summary", {}, words), make("ol", {}, ...items)];
    return make("details", { part: "sources", ontoggle: () => this.#follow() }, ...list);
  }

  /** Show that a reply has lost its connection, or that it has one again. */
  #showLoss(running, isLost) {
    running.loss?.remove();
    running.loss = null;
    if (!isLost) return;
    const words = this.#labels.reconnecting;
    running.loss = make("div", { part: "notice reconnecting" }, make("span", { dir: "auto" }, words));
    running.article.append(running.loss);
    announce(this.#nodes.live, words);
    this.#follow();
  }

  #drawCut(turn, fault) {
    const words = fault && turn.cut !== "cut" ? fault.message : this.#labels[turn.cut];
    const wait = fault?.retryAfter ?? 0;
    const text = make("span", { dir: "auto" }, words);
    if (refusesPictures(fault)) text.append(` ${this.#labels.picturesOff}`);
    const action = turn.cut === "length" ? "goOn" : "retry";
    const retry = button(action, "retry", this.#labels[action]);
    if (wait > COUNTDOWN) {
      const time = new Date(Date.now() + wait * 1000).toLocaleString(this.lang || undefined, { timeStyle: "short" });
      text.append(` ${fill(this.#labels.retryAt, { time })}`);
    } else if (wait) {
      this.#countDown(retry, wait);
    }
    announce(this.#nodes.live, words);
    const part = turn.cut === "stopped" || (turn.cut === "length" && !fault) ? "notice" : "notice error";
    const notice = make("div", { part }, icon("warning"), text);
    const question = this.#turns.findLast(({ role }) => role === "user");
    // Without its pictures a question may be empty, and there is nothing to try again.
    if (!refusesPictures(fault) || question.content) notice.append(retry);
    return notice;
  }

  #countDown(retry, seconds) {
    retry.disabled = seconds > 0;
    say(retry, seconds > 0 ? fill(this.#labels.retryIn, { seconds }) : this.#labels.retry);
    if (seconds > 0) this.#timer = setTimeout(() => this.#countDown(retry, seconds - 1), 1000);
  }

  // storage="session"

  #store() {
    if (this.getAttribute("storage") !== "session") return;
    if (this.#running) this.#running.turn.place.at = Date.now();
    try {
      sessionStorage.setItem(this.#storageKey(), JSON.stringify(this.#turns.map(withoutPictures)));
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
    this.#turns = this.#turns.filter((turn) => turn.content || turn.pictures || this.#isKept(turn));
    for (const turn of this.#turns) {
      this.#settle();
      if (this.#isKept(turn)) this.#resume(turn);
      else this.#nodes.thread.append(turn.role === "user" ? this.#drawUser(turn) : this.#redraw(turn));
    }
    this.#nodes.live.replaceChildren();
  }

  /** Return whether the server may still keep the reply that was running when the page was left. */
  #isKept({ place }) {
    if (!place || !this.hasAttribute("resume") || Date.now() - place.at > KEPT * 1000) return false;
    // Before its first event it is found by the question, which is another one without its pictures.
    return Boolean(place.reply) || !(place.hasWords || this.#turns.some(({ pictures }) => pictures));
  }

  /** Go on with a reply, a frame later, so that a script of the page can set `headers` before. */
  #resume(turn) {
    nextFrame(() => !this.#running && turn === this.#turns.at(-1) && this.#ask(turn));
  }

  #redraw(turn) {
    if (turn.place) turn.cut = turn.place.begun ? "length" : "cut";
    delete turn.place;
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

/** Return a link to a source. If its address is none of the web, whatever the server says, return only its title. */
function drawSource({ title, url }) {
  const text = make("bdi", {}, title.slice(0, LONGEST_SOURCE));
  if (!url || !URL.canParse(url) || !["http:", "https:"].includes(new URL(url).protocol)) return text;
  return make("a", { href: url, target: "_blank", rel: "noopener nofollow" }, text);
}

/** Return a turn as it is stored: with the names of its pictures alone, because they would soon fill the storage. */
const withoutPictures = ({ pictures, ...turn }) =>
  pictures ? { ...turn, pictures: pictures.map(({ name }) => ({ name })) } : turn;

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
  const previews = make("ul", { part: "previews", role: "list" });
  const attach = button("attach", "attach");
  const files = make("input", { type: "file", accept: PICTURE_TYPES, multiple: true, hidden: true });
  const box = make("div", { part: "box" }, previews, attach, field, send, stop);
  const hint = make("p", { part: "hint" });
  const form = make("form", { part: "form" }, hint, box, files);
  const live = make("div", { class: "unseen", ariaLive: "polite" });
  const main = make("div", { class: "main" }, log, latest);
  latest.hidden = stop.hidden = attach.hidden = true;
  // An empty title here stops the browser from showing the host's title as a tooltip over everything.
  const parts = [header, main, form, make("slot", { name: "note" }), live];
  const chat = make("section", { part: "chat", title: "" }, ...parts);
  const said = { title, greeting, log, thread, live, latest, newChat };
  return { chat, ...said, form, hint, previews, attach, files, field, input, send, stop };
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
  block-size: min(640px, 85vh);
  min-inline-size: 0;
  color: var(--text);
  font: var(--cf-chat-font, 400 medium/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif);
  /* What the page says of its own text, and would be inherited. Its medium is the reader's own size of letters. */
  text-align: start; text-align-last: auto; text-indent: 0; text-transform: none; text-shadow: none;
  letter-spacing: normal; word-spacing: normal; word-break: normal; line-break: auto; overflow-wrap: normal; hyphens: manual;
  white-space: normal; tab-size: 8; user-select: text; cursor: auto; list-style: outside;
  -webkit-text-fill-color: currentcolor; -webkit-text-stroke: 0;
}
:host([hidden]), [hidden] { display: none !important; }
*, *::after { box-sizing: border-box; margin: 0; }
.unseen { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.chat {
  position: relative; display: flex; flex-direction: column; block-size: 100%; overflow: hidden;
  background: var(--background); border: 1px solid var(--border); border-radius: var(--radius);
}

.header { display: flex; align-items: center; gap: 12px; min-block-size: 56px; padding: 4px 8px 4px 18px; padding-inline: 18px 8px; border-block-end: 1px solid var(--border); }
.title { flex: 1 1 auto; min-inline-size: 0; font-size: 1em; font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }

.main { position: relative; flex: 1 1 auto; min-block-size: 0; display: flex; flex-direction: column; }
.log { flex: 1 1 auto; min-block-size: 0; overflow-y: auto; overscroll-behavior: contain; padding: 20px 18px; scrollbar-width: thin; scrollbar-color: var(--control) transparent; }
.greeting, .thread, .box { inline-size: 100%; max-inline-size: var(--cf-chat-width, 736px); margin-inline: auto; }
.greeting { color: var(--muted); margin-block-end: 24px; overflow-wrap: anywhere; }
.greeting:empty { display: none; }
.empty .log { display: grid; }
.empty .greeting { align-self: center; margin-block: 0; text-align: center; text-wrap: balance; font-size: 1.5em; line-height: 1.3; font-weight: 500; color: var(--text); }
.empty .thread { display: none; }
.thread { display: flex; flex-direction: column; gap: 24px; }
.message { min-inline-size: 0; overflow-wrap: anywhere; }
.user-message { align-self: flex-end; max-inline-size: min(85%, 576px); }
.user-bubble { padding: 8.8px 15.2px; background: var(--user); color: var(--user-text); border-radius: calc(var(--radius) + 4px); border-end-end-radius: 5px; white-space: pre-wrap; }
.pictures { display: flex; flex-wrap: wrap; gap: 8px; white-space: normal; }
.pictures + span { display: block; margin-block-start: 6px; }
.pictures:only-child { margin-block: 4px; }
.pictures img { display: block; max-inline-size: 100%; max-block-size: 240px; border-radius: 10px; }
.pictures img:not(:only-child) { max-block-size: 144px; }
.pictures em { color: var(--muted); }

.dots { display: none; gap: 5.6px; align-items: center; block-size: 1.55em; }
.waiting .dots { display: flex; }
.dots i { inline-size: 8px; block-size: 8px; border-radius: 50%; background: var(--muted); animation: beat 1.2s infinite ease-in-out; }
.dots i:nth-child(2) { animation-delay: .15s; }
.dots i:nth-child(3) { animation-delay: .3s; }
@keyframes beat { 0%, 70%, 100% { opacity: .3; } 35% { opacity: 1; } }

.reply-bubble > * + *, li > * { margin-block-start: 12px; }
.reply-bubble li > :is(ul, ol) { margin-block-start: 4.8px; }
p, li { white-space: pre-line; }
ul, ol { padding-inline-start: 24px; white-space: normal; }
li + li { margin-block-start: 4.8px; }
li::marker { color: var(--muted); }
h4 { font-size: 1em; font-weight: 650; line-height: 1.35; }
.level-1, .level-2 { font-size: 1.15em; }
.reply-bubble > * + h4 { margin-block-start: 20px; }
strong { font-weight: 650; }
a { color: var(--accent); text-underline-offset: .15em; }
blockquote { padding-inline-start: 14.4px; border-inline-start: 3px solid var(--border); color: var(--muted); }
blockquote p + p { margin-block-start: 8px; }
hr { border: 0; border-block-start: 1px solid var(--border); }
code { font: .9em/1.5 var(--mono); }
:not(pre) > code { padding: .12em .35em; background: var(--surface); border: 1px solid var(--border); border-radius: 6px; font-size: .875em; }
.code { direction: ltr; text-align: left; background: var(--surface); border: 1px solid var(--border); border-radius: 10px; overflow: hidden; }
.code-head { display: flex; align-items: center; justify-content: space-between; padding-left: 14.4px; color: var(--muted); border-bottom: 1px solid var(--border); }
.code-head > span { font-size: .8125em; }
pre { overflow-x: auto; padding: 12px 14.4px; white-space: pre; overflow-wrap: normal; tab-size: 4; scrollbar-width: thin; }
pre span { display: block; min-block-size: 1.5em; }
.table { overflow-x: auto; scrollbar-width: thin; }
table { border-collapse: collapse; font-size: .95em; }
th, td { padding: 5.6px 11.2px; border-block-end: 1px solid var(--border); text-align: start; vertical-align: top; overflow-wrap: normal; }
th { font-weight: 650; }

.button {
  display: inline-flex; align-items: center; justify-content: center; gap: 6.4px; min-block-size: 44px; padding: 0 12.8px;
  font: inherit; font-size: .875em; color: inherit; background: none; border: 0; border-radius: 10px; cursor: pointer;
  user-select: none; -webkit-tap-highlight-color: transparent; touch-action: manipulation;
}
.button:hover { background: color-mix(in srgb, var(--text) 8%, transparent); }
.button:disabled { cursor: default; opacity: .55; }
.button:disabled:hover { background: none; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.log:focus-visible, pre:focus-visible, .table:focus-visible { outline-offset: -2px; }
svg { flex: none; inline-size: 18.4px; block-size: 18.4px; fill: none; stroke: currentColor; stroke-width: 1.9; stroke-linecap: round; stroke-linejoin: round; }
.new-chat { flex: none; color: var(--muted); }
.copy { min-block-size: 36px; padding: 0 9.6px; color: var(--muted); font-size: .8125em; border-radius: 8px; }
.copy svg { inline-size: 16px; block-size: 16px; }
.tools { margin-block-start: 4px; margin-inline-start: -9.6px; }
.sources { margin-block-start: 10px; font-size: .875em; color: var(--muted); }
summary { inline-size: fit-content; margin-inline-start: -8px; padding: 6px 10px 6px 8px; border-radius: 8px; cursor: pointer; user-select: none; }
summary:hover { background: color-mix(in srgb, var(--text) 8%, transparent); }
.sources ol { padding-block: 4px; }
.notice { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 9.6px; margin-block-start: 8px; color: var(--muted); }
.notice > span { font-size: .9375em; padding-block: 8px; }
.notice:not(.error) > svg { display: none; }
.error { padding-inline: 14.4px 4.8px; min-block-size: 44px; color: var(--error); background: color-mix(in srgb, var(--error) 6%, transparent); border: 1px solid color-mix(in srgb, var(--error) 45%, transparent); border-radius: 10px; }
.error > span { flex: 1 1 144px; }
.retry { color: var(--text); font-weight: 550; }
.latest { position: absolute; inset-block-end: 12px; inset-inline-start: calc(50% - 22px); inline-size: 44px; padding: 0; background: var(--background); border: 1px solid var(--control); border-radius: 50%; box-shadow: 0 2px 8px rgb(0 0 0 / .15); }
.latest:hover { background: var(--surface); }

.form { padding: 4px 18px 16px; }
.hint { inline-size: 100%; max-inline-size: var(--cf-chat-width, 736px); margin-inline: auto; padding: 0 13.6px 6px; color: var(--error); font-size: .875em; overflow-wrap: anywhere; white-space: normal; }
.hint span { display: block; }
.hint:empty, .previews:empty { display: none; }
.box { display: flex; flex-wrap: wrap; align-items: flex-end; gap: 4px; padding: 4.8px; background: var(--background); border: 1px solid var(--control); border-radius: calc(var(--radius) + 12px); }
.box:focus-within { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
.previews { flex: 1 0 100%; display: flex; flex-wrap: wrap; gap: 8px; padding: 6px 6px 4px; list-style: none; }
.preview, .preview > * { position: relative; margin: 0; }
.preview img { display: block; inline-size: 72px; block-size: 72px; object-fit: cover; background: var(--surface); border: 1px solid var(--border); border-radius: 14px; }
.preview img:not([src]) { animation: beat 1.2s infinite ease-in-out; }
.remove { position: absolute; inset-block-start: -6px; inset-inline-end: -6px; inline-size: 28px; min-block-size: 28px; padding: 0; color: var(--background); background: var(--text); border: 2px solid var(--background); border-radius: 50%; }
.remove:hover { background: var(--muted); }
.remove svg { inline-size: 14px; block-size: 14px; stroke-width: 2.6; }
.attach { flex: none; inline-size: 44px; padding: 0; border-radius: 50%; color: var(--muted); }
.attach svg { inline-size: 21px; block-size: 21px; }
.attach:not([hidden]) + .field > .input, .attach:not([hidden]) + .field::after { padding-inline-start: 4px; }
.dropping::after { content: ""; position: absolute; inset: 6px; pointer-events: none; background: color-mix(in srgb, var(--accent) 8%, transparent); border: 2px dashed var(--accent); border-radius: max(0px, calc(var(--radius) - 4px)); }
.field { display: grid; flex: 1 1 0; min-inline-size: 0; max-block-size: 192px; }
.field::after { content: attr(data-text) " "; visibility: hidden; pointer-events: none; }
.field::after, .input { grid-area: 1 / 1; min-inline-size: 0; max-block-size: 192px; padding: 9.6px 8px 9.6px 13.6px; padding-inline: 13.6px 8px; font: inherit; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere; overflow-y: auto; scrollbar-width: thin; }
.input { resize: none; color: inherit; background: none; border: 0; outline: 0; inline-size: 100%; }
.input::placeholder { color: var(--muted); opacity: 1; }
.send, .stop { flex: none; inline-size: 44px; padding: 0; border-radius: 50%; color: var(--on-accent); background: var(--accent); }
.send:hover, .stop:hover { background: color-mix(in srgb, var(--accent) 88%, var(--text)); }
.send:disabled, .send:disabled:hover { color: var(--muted); background: var(--surface); opacity: 1; }
.stop svg { fill: currentColor; inline-size: 16px; block-size: 16px; }
:is(.send, .stop, .latest, .attach, .remove) span { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

@media (prefers-reduced-motion: reduce) { .dots i { animation: none; opacity: .6; } }
@media (max-width: 480px) {
  .header { padding-inline: 14px 4px; }
  .log { padding: 16px 14px; }
  .form { padding: 4px 10px 10px; }
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

if (globalThis.customElements && !customElements.get("cf-chat")) customElements.define("cf-chat", CfChat);
