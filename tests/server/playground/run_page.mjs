// Runs the playground's scripts on a small DOM, against a running server: node run_page.mjs MAIN TREE URL STEPS [BEFORE]
// TREE is the page as JSON: {tag, attributes, children}, texts as strings. STEPS is the code of the test, which may
// use `page` and returns what the test looks at. BEFORE is code that runs before the page starts; it may fill `answers`.
// The DOM has no parser: what is inserted stays text.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, , scriptFile, treeFile, url, stepsFile, beforeFile] = process.argv;

class Node {
  constructor(tag, text = "") {
    Object.assign(this, { tag, text, attributes: {}, childNodes: [], parent: null, listeners: {}, dataset: {}, typed: null, style: { setProperty() {} } });
    const names = () => (this.attributes.class || "").split(/\s+/).filter(Boolean);
    this.classList = {
      contains: (name) => names().includes(name),
      add: (name) => { this.attributes.class = [...new Set([...names(), name])].join(" "); },
      toggle: (name) => {
        const has = names().includes(name);
        this.attributes.class = (has ? names().filter((each) => each !== name) : [...names(), name]).join(" ");
        return !has;
      },
    };
  }

  get className() { return this.attributes.class || ""; }
  set className(value) { this.attributes.class = value; }
  get id() { return this.attributes.id; }
  get hidden() { return "hidden" in this.attributes; }
  set hidden(value) { if (value) this.attributes.hidden = ""; else delete this.attributes.hidden; }
  get children() { return this.childNodes.filter(({ tag }) => tag !== "#text"); }
  get firstElementChild() { return this.children[0] || null; }
  get content() { return this; }
  get textContent() { return this.tag === "#text" ? this.text : this.childNodes.map((child) => child.textContent).join(""); }
  set textContent(text) { this.childNodes = []; if (text !== "") this.append(String(text)); }
  get value() {
    if (this.typed !== null) return this.typed;
    if (this.tag === "select") return this.children[0] ? this.children[0].value : "";
    return this.tag === "option" ? this.textContent : "";
  }
  set value(value) { this.typed = String(value); }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  removeAttribute(name) { delete this.attributes[name]; }
  getAttribute(name) { return name in this.attributes ? this.attributes[name] : null; }
  append(...children) {
    for (const child of children) {
      const node = child instanceof Node ? child : new Node("#text", String(child));
      if (node.parent) node.parent.childNodes = node.parent.childNodes.filter((each) => each !== node);
      node.parent = this;
      this.childNodes.push(node);
    }
  }
  appendChild(node) { this.append(node); return node; }
  prepend(node) { this.append(node); this.childNodes.unshift(this.childNodes.pop()); }
  replaceChildren(...children) {
    for (const child of this.childNodes) child.parent = null;
    this.childNodes = [];
    this.append(...children);
  }
  remove() {
    if (this.parent) this.parent.childNodes = this.parent.childNodes.filter((each) => each !== this);
    this.parent = null;
  }
  cloneNode() {
    const copy = new Node(this.tag, this.text);
    copy.attributes = { ...this.attributes };
    copy.append(...this.childNodes.map((child) => child.cloneNode()));
    return copy;
  }
  addEventListener(type, listener) { (this.listeners[type] ||= []).push(listener); }
  dispatch(type) { for (const listener of this.listeners[type] || []) listener({ preventDefault() {}, target: this }); }
  click() { this.dispatch("click"); }
  focus() { document.activeElement = this; }
  checkValidity() { return !this.attributes.pattern || new RegExp(`^(?:${this.attributes.pattern})$`, "v").test(this.value); }
  matches(selectors) { return selectors.split(",").some((selector) => this.fits(selector.trim())); }
  fits(selector) {
    if (selector.startsWith("[data-")) return selector.slice(6, -1) in this.dataset;
    return selector.startsWith(".") ? this.classList.contains(selector.slice(1)) : this.tag === selector;
  }
  all() { return this.children.flatMap((child) => [child, ...child.all()]); }
  querySelectorAll(selector) {
    return selector.split(" ").reduce((found, part) => found.flatMap((node) => node.all()).filter((node) => node.fits(part)), [this]);
  }
  querySelector(selector) { return this.querySelectorAll(selector)[0] || null; }
}

function built(tree) {
  if (typeof tree === "string") return new Node("#text", tree);
  const node = new Node(tree.tag);
  node.attributes = { ...tree.attributes };
  node.append(...tree.children.map(built));
  return node;
}

const root = built(JSON.parse(readFileSync(treeFile, "utf-8")));
const requested = [];
const storage = () => {
  const values = {};
  return {
    getItem: (name) => (name in values ? values[name] : null),
    setItem: (name, value) => { values[name] = value; },
    removeItem: (name) => { delete values[name]; },
  };
};
const realFetch = globalThis.fetch;
const state = { url };
const listeners = {};
const changeAddress = (_, __, hash) => { location.hash = hash; };
// Path -> an answer that the test gives in place of a server: a function of body and method of the request, which returns
// JSON, a `Response`, or a promise of one.
const answers = {};
const aborted = (signal) => new Promise((_, reject) => {
  if (signal) signal.addEventListener("abort", () => reject(signal.reason));
});
const answered = async (answer, { method, body, signal }) => {
  const found = await Promise.race([answer(body && JSON.parse(body), method), aborted(signal)]);
  return found instanceof Response ? found : Response.json(found);
};
// The answer to a search: its events.
const stream = (result, ...stages) => new Response([...stages.map((stage) => ["stage", stage]), ["result", result]]
  .map(([name, data]) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`).join(""));
Object.assign(globalThis, {
  window: { scrollTo() {}, addEventListener: (type, listener) => { (listeners[type] ||= []).push(listener); } },
  document: {
    activeElement: null,
    getElementById: (id) => root.all().find((node) => node.id === id) || null,
    createElement: (tag) => new Node(tag),
    querySelectorAll: (selector) => root.querySelectorAll(selector),
    addEventListener() {},
  },
  location: { hash: "" },
  history: { replaceState: changeAddress, pushState: changeAddress },
  sessionStorage: storage(),
  localStorage: storage(),
  fetch: (path, request) => {
    requested.push(path);
    return answers[path] ? answered(answers[path], request) : realFetch(state.url + path, request);
  },
});

const element = (id) => document.getElementById(id);
const until = async (condition, what) => {
  for (let tries = 0; tries < 1000; tries += 1) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`never: ${what}; problem: ${element("problem").textContent}`);
};
const search = async (query) => {
  element("status").textContent = "";
  element("query").value = query;
  element("search").dispatch("submit");
  await until(() => element("status").textContent.startsWith("System A") || !element("problem").hidden, "results");
};
const choose = async (select, value) => {
  element("status").textContent = "";
  select.value = value;
  select.dispatch("change");
};
const sides = () => root.querySelectorAll(".side").filter((side) => side.parent.id === "sides");
const texts = (node, selector) => node.querySelectorAll(selector).map((each) => each.textContent);
const named = (label) => root.all().find((node) => node.getAttribute("aria-label") === label);
// What follows a link to a part of the page, a step back, or an edit of the address.
const follow = (hash) => {
  location.hash = hash;
  for (const listener of listeners.hashchange) listener();
};
const page = { root, element, until, search, choose, sides, texts, named, requested, state, follow, answers, stream };

const AsyncFunction = (async () => {}).constructor;
if (beforeFile) await new AsyncFunction("page", readFileSync(beforeFile, "utf-8"))(page);
await import(pathToFileURL(scriptFile));
const started = page.started || (() => sides().length || !element("none").hidden);
await until(() => started() || !element("problem").hidden, "start");
console.log(JSON.stringify(await new AsyncFunction("page", readFileSync(stepsFile, "utf-8"))(page)));
process.exit(0);
