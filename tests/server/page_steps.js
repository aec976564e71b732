// Runs in the browser before the scripts of a page: the answers of a test in place of a server's, and helpers for its steps.

const selectAll = Element.prototype.querySelectorAll;
Element.prototype.querySelectorAll = function (selector) { return [...selectAll.call(this, selector)]; };
Element.prototype.dispatch = function (type) { this.dispatchEvent(new Event(type, { bubbles: true, cancelable: true })); };

// Path -> an answer: a function of body and method of the request, which returns JSON, a `Response`, or a promise of one.
const answers = {};
const aborted = (signal) => new Promise((_, reject) => {
  if (signal) signal.addEventListener("abort", () => reject(signal.reason));
});
window.fetch = async (path, { method, body, signal } = {}) => {
  if (!answers[path]) return Response.json({ error: { message: `no answer to ${path}` } }, { status: 404 });
  const found = await Promise.race([answers[path](body && JSON.parse(body), method), aborted(signal)]);
  return found instanceof Response ? found : Response.json(found);
};

const element = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const until = async (condition, what) => {
  for (let tries = 0; tries < 1000; tries += 1) {
    if (condition()) return;
    await pause(10);
  }
  throw new Error(`never: ${what}; problem: ${element("problem").textContent}`);
};
const sides = () => document.body.querySelectorAll("#sides > .side");

window.page = {
  answers, element, until, sides, held: [],
  settled: () => pause(50),
  // An answer that waits until the test calls what it puts into `held`.
  hold: (answer) => (body) => new Promise((resolve) => page.held.push(() => resolve(answer(body)))),
  // The answer to a search: its events.
  stream: (result) => new Response(`event: result\ndata: ${JSON.stringify(result)}\n\n`),
  started: () => sides().length || !element("none").hidden,
  begun: () => until(() => page.started() || !element("problem").hidden, "start"),
  search: async (query) => {
    element("status").textContent = "";
    element("query").value = query;
    element("search").dispatch("submit");
    await until(() => element("status").textContent.startsWith("System A") || !element("problem").hidden, "results");
  },
  choose: (select, value) => {
    element("status").textContent = "";
    select.value = value;
    select.dispatch("change");
  },
  texts: (node, selector) => node.querySelectorAll(selector).map((each) => each.textContent),
  named: (label) => document.body.querySelectorAll("[aria-label]").find((node) => node.getAttribute("aria-label") === label),
  // What follows a link to a part of the page, a step back, or an edit of the address.
  follow: async (hash) => {
    location.hash = hash;
    await new Promise((resolve) => window.addEventListener("hashchange", () => setTimeout(resolve), { once: true }));
  },
};
