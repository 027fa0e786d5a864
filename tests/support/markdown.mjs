// Draws Markdown by the module of <cf-chat>, without a browser: reads lines of JSON, each the pieces of a text, and
// answers each by what was drawn, what is spoken, and how much work it was.

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

let work = 0; // nodes moved, letters written, letters looked at

class Node {
  parentNode = this.previousSibling = this.nextSibling = null;

  remove() {
    work += 1;
    if (!this.parentNode) return;
    if (this.previousSibling) this.previousSibling.nextSibling = this.nextSibling;
    else this.parentNode.firstChild = this.nextSibling;
    if (this.nextSibling) this.nextSibling.previousSibling = this.previousSibling;
    else this.parentNode.lastChild = this.previousSibling;
    this.parentNode = this.previousSibling = this.nextSibling = null;
  }

  before(node) {
    this.parentNode.insertBefore(node, this);
  }

  replaceWith(node) {
    this.before(node);
    this.remove();
  }
}

class Text extends Node {
  constructor(data) {
    super();
    work += data.length;
    this.data = data;
  }

  appendData(text) {
    work += 1 + text.length;
    this.data += text;
  }

  /** Its text, so that where one node ends and the next begins can be compared too. */
  get tree() {
    return this.data;
  }
}

class Element extends Node {
  firstChild = null;
  lastChild = null;
  dataset = {};

  constructor(tag) {
    super();
    this.tagName = tag.toUpperCase();
  }

  setAttribute() {}

  insertBefore(node, next) {
    node.remove();
    node.parentNode = this;
    node.nextSibling = next;
    node.previousSibling = next ? next.previousSibling : this.lastChild;
    if (node.previousSibling) node.previousSibling.nextSibling = node;
    else this.firstChild = node;
    if (next) next.previousSibling = node;
    else this.lastChild = node;
  }

  append(...nodes) {
    for (const node of nodes) this.insertBefore(typeof node === "string" ? new Text(node) : node, null);
  }

  get childNodes() {
    const nodes = [];
    for (let node = this.firstChild; node; node = node.nextSibling) nodes.push(node);
    return nodes;
  }

  set textContent(text) {
    while (this.firstChild) this.firstChild.remove();
    this.append(text);
  }

  /** Its name, its address if it has one, and its children. */
  get tree() {
    return [this.tagName.toLowerCase() + (this.href ? ` ${this.href}` : ""), ...this.childNodes.map((node) => node.tree)];
  }
}

const { codePointAt } = String.prototype;
String.prototype.codePointAt = function (at) {
  work += 1;
  return codePointAt.call(this, at);
};

const { exec } = RegExp.prototype;
RegExp.prototype.exec = function (text) {
  const from = this.lastIndex;
  const found = exec.call(this, text);
  work += (found ? found.index + found[0].length : String(text).length) - from;
  return found;
};

const { Markdown } = await import(pathToFileURL(process.argv[2]));
globalThis.document = {
  createElement: (tag) => new Element(tag),
  createElementNS: (_, tag) => new Element(tag),
  createTextNode: (text) => new Text(text),
};

for await (const line of createInterface({ input: process.stdin })) {
  const root = document.createElement("div");
  const spoken = [];
  work = 0;
  const markdown = new Markdown(root, { code: "Code", table: "Table", copy: "Copy" }, (text) => spoken.push(text));
  for (const piece of JSON.parse(line)) markdown.write(piece);
  markdown.end();
  console.log(JSON.stringify({ tree: root.tree.slice(1), spoken: spoken.join(""), work }));
}
