"use strict";

// Texts of documents, models and requests are only ever inserted as text: `textContent` and `append`, never as HTML.

const element = (id) => document.getElementById(id);

const TOP = 10;
const GRADES = [0, 1, 2, 3];
const pins = [];
let pipelines = [];
let sides = [];
let key = sessionStorage.getItem("key") || "";

// --- requests to the server

async function send(method, path, body, signal) {
  const request = { method, signal, headers: { Accept: "application/json" } };
  if (key) request.headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not respond. Check that it is still running.");
  }
  if (response.ok) return response;
  if (response.status === 401) showKeyForm();
  const { error } = await response.json().catch(() => ({}));
  throw new Error(error && typeof error.message === "string" ? error.message : `The server refused (${response.status}).`);
}

// The events of a stream: {name, data}. A stream that breaks off is an error.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  while (!ended) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The connection to the server broke off. These results are incomplete.");
    }
    if (piece.done) throw new Error("The server ended before the result. These results are incomplete.");
    rest += piece.value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const name = (block.match(/^event: (.*)$/m) || ["", ""])[1];
      const data = JSON.parse(block.match(/^data: (.*)$/m)[1]);
      if (name === "error") throw new Error(data.error.message);
      yield { name, data };
      ended ||= name === "result";
    }
  }
}

async function attempt(task) {
  showProblem("");
  try {
    await task();
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error.message);
  }
}

function showProblem(problem) {
  element("problem").textContent = problem;
  element("problem").hidden = !problem;
}

function announce(text) {
  element("status").textContent = text;
}

function showKeyForm() {
  element("key-form").hidden = false;
  element("key").focus();
}

// --- building of elements

function made(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== "" && child !== null && child !== undefined));
  return node;
}

function button(text, action, label) {
  const node = made("button", "", text);
  node.type = "button";
  if (label) node.setAttribute("aria-label", label);
  node.addEventListener("click", action);
  return node;
}

function table(header, rows) {
  const head = made("tr", "", ...header.map((name) => {
    const cell = made("th", "", name);
    cell.scope = "col";
    return cell;
  }));
  const body = rows.map((row) => made("tr", "", ...row.map((cell) => made("td", "", cell === null ? "–" : cell))));
  return made("div", "scroll", made("table", "", made("thead", "", head), made("tbody", "", ...body)));
}

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 1));
const rounded = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

// --- one system: a pipeline, its slots, and what it found

class Side {
  constructor(name) {
    this.name = name;
    this.result = null;
    this.stages = [];
    this.aborting = null;
    this.root = element("side").content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.root.querySelector(selector);
    this.root.setAttribute("aria-label", `System ${name}`);
    for (const { id } of pipelines) this.part(".pipeline").append(made("option", "", id));
    this.part(".pipeline").addEventListener("change", () => {
      this.showSlots();
      searchAgain();
    });
    this.part(".pin").addEventListener("click", () => pin(this));
    this.part(".why").addEventListener("submit", (event) => {
      event.preventDefault();
      this.explain(this.part(".missing").value.trim());
    });
    this.showSlots();
  }

  get pipeline() {
    return pipelines.find(({ id }) => id === this.part(".pipeline").value);
  }

  get slots() {
    const chosen = [...this.root.querySelectorAll(".slots select")].map((select) => [select.dataset.slot, select.value]);
    return Object.fromEntries(chosen.filter(([, choice]) => choice !== "on"));
  }

  get label() {
    const changes = Object.entries(this.slots).map(([slot, choice]) => `${slot}: ${choice}`);
    return [this.pipeline.id, ...changes].join(", ");
  }

  get documents() {
    return this.result ? this.result.hits.map(({ document }) => document) : [];
  }

  showSlots() {
    const box = this.part(".slots");
    box.replaceChildren(box.firstElementChild);
    const slots = this.pipeline.slots.filter(({ choices }) => choices.length > 1);
    for (const { name, adapter, choices } of slots) {
      const select = made("select", "", ...choices.map((choice) => {
        const option = made("option", "", choice === "on" && adapter ? `on (${adapter})` : choice);
        option.value = choice;
        return option;
      }));
      select.dataset.slot = name;
      select.addEventListener("change", searchAgain);
      box.append(made("label", "", `${name} `, select));
    }
    box.hidden = !slots.length;
  }

  async search(query, fields) {
    if (this.aborting) this.aborting.abort();
    const aborting = this.aborting = new AbortController();
    this.result = null;
    this.stages = [];
    this.part(".stages").replaceChildren();
    this.part(".hits").replaceChildren();
    this.part(".output").replaceChildren();
    this.part(".explanation").hidden = true;
    this.part(".actions").hidden = true;
    this.part(".summary").textContent = "Searching …";
    const body = { pipeline: this.pipeline.id, query, fields, slots: this.slots, top: TOP, trace: true, stream: true };
    this.query = query;
    this.fields = fields;
    try {
      const response = await send("POST", "/v1/search", body, aborting.signal);
      for await (const { name, data } of events(response)) {
        if (name === "stage") this.showStage(data);
        else this.result = data;
      }
    } catch (error) {
      if (error.name !== "AbortError") this.part(".summary").textContent = "Failed.";
      throw error;
    }
    this.shownAt = performance.now();
    this.showOutput();
    this.part(".actions").hidden = false;
  }

  showStage(stage) {
    this.stages.push(stage);
    const tokens = stage.tokens ? `, ${stage.tokens.prompt + stage.tokens.completion} tokens` : "";
    const summary = made("summary", "", `${stage.index + 1}. ${stage.stage} `,
      made("span", "time", `${milliseconds(stage.milliseconds)}${tokens}`));
    const details = made("details", "", summary);
    for (const reason of stage.invalid || []) details.append(made("p", "invalid", `An output is invalid: ${reason}`));
    for (const [field, value] of Object.entries(stage.output)) details.append(made("p", "", `${field}:`), made("pre", "", shown(value)));
    if (stage.hits) details.append(made("p", "", `Hits: ${stage.hits.map(({ document }) => document).join(", ") || "none"}`));
    (stage.calls || []).forEach((call, number) => details.append(shownCall(call, number)));
    if (stage.requests > (stage.calls || []).length) details.append(made("p", "", `${stage.requests} requests in all.`));
    this.part(".stages").append(made("li", "", details));
    // The first hits are on the screen before later stages have finished.
    if (stage.hits && !this.result) this.showHits(stage.hits.map((hit) => ({ ...hit, title: hit.title || hit.document, text: null })));
  }

  showOutput() {
    const { output } = this.result;
    const box = this.part(".output");
    if (typeof output.answer === "string") box.append(made("h3", "", "Answer"), made("p", "card", output.answer));
    if (this.result.query !== this.query) {
      const text = made("p", "", "Searched with: ", made("bdi", "", this.result.query));
      box.prepend(text);
    }
    this.showSummary();
  }

  showSummary() {
    const { hits, total, milliseconds: time, measured } = this.result;
    const judged = measured ? ` · ${measured.measure} ${rounded(measured.value)} (${measured.judged} of ${measured.of} judged)` : "";
    this.part(".summary").textContent = `${hits.length} of ${total} hits in ${milliseconds(time)}${judged}`;
  }

  showHits(hits, other = null) {
    const list = this.part(".hits");
    list.replaceChildren(...hits.map((hit) => this.shownHit(hit, other)));
    if (!hits.length) list.append(made("li", "hit", "No hits."));
  }

  shownHit(hit, other) {
    const meta = made("p", "meta", made("span", "rank", `${hit.rank}.`), move(hit.rank, hit.document, other),
      made("code", "", hit.document), made("span", "score", rounded(hit.score)));
    const title = made("h3", "", hit.title || "");
    title.dir = "auto";
    title.hidden = !hit.title;
    const text = made("p", "text", hit.text || "");
    text.dir = "auto";
    text.hidden = !hit.text;
    const buttons = made("div", "buttons");
    if (hit.text && hit.text.length > 280) buttons.append(this.expander(text, hit));
    if (this.result) buttons.append(button("Why here?", () => this.explain(hit.document), `Why is ${hit.document} here?`));
    if (this.result && this.result.measured) buttons.append(this.gradeButtons(hit));
    return made("li", "hit", meta, title, text, buttons);
  }

  expander(text, hit) {
    text.classList.add("short");
    const expand = button("Show all", () => {
      const short = text.classList.toggle("short");
      expand.textContent = short ? "Show all" : "Show less";
      expand.setAttribute("aria-expanded", String(!short));
    });
    expand.setAttribute("aria-expanded", "false");
    expand.setAttribute("aria-label", `Text of ${hit.document}: show all or less`);
    return expand;
  }

  gradeButtons(hit) {
    const group = made("span", "grades", "Grade ");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `Grade of ${hit.document}`);
    for (const grade of GRADES) {
      const choice = button(String(grade), () => attempt(() => rate(this, hit, grade)), `Grade ${grade} for ${hit.document}`);
      choice.setAttribute("aria-pressed", String(hit.grade === grade));
      group.append(choice);
    }
    return group;
  }

  explain(documentId) {
    return attempt(async () => {
      if (!documentId || !this.query) return;
      const body = { pipeline: this.pipeline.id, query: this.query, fields: this.fields, slots: this.slots, explain: documentId };
      const explanation = await (await send("POST", "/v1/search", body)).json();
      const rows = explanation.stages.map((stage) => [
        stage.stage,
        stage.rank === null ? null : String(stage.rank),
        stage.hits === null ? null : String(stage.hits),
        [...stage.notes, ...terms(stage.retrieved), ...Object.entries(stage.wrote).map((entry) => entry.map(shown).join(": "))].join("; "),
      ]);
      const box = this.part(".explanation");
      box.replaceChildren(made("h3", "", `Document ${documentId}`), made("p", "verdict", `${explanation.verdict}.`),
        table(["Stage", "Rank", "Hits", "Why"], rows));
      box.hidden = false;
      box.focus();
      announce(explanation.verdict);
    });
  }
}

function terms(retrieved) {
  if (!retrieved) return [];
  const words = Object.entries(retrieved.terms).map(([word, score]) => (score ? `${word} adds ${rounded(score)}` : `${word} does not occur`));
  const beyond = retrieved.rank !== null && retrieved.rank > retrieved.k ? [`${retrieved.retriever}: rank ${retrieved.rank}`] : [];
  return [...beyond, ...words, ...retrieved.parts.flatMap(terms)];
}

function shownCall(call, number) {
  const details = made("details", "", made("summary", "", `Prompt ${number + 1}, ${call.model}, ${call.prompt_tokens} tokens`));
  for (const { role, content } of call.messages) details.append(made("p", "", `${role}:`), made("pre", "", content));
  if (call.answer_prefix) details.append(made("p", "", "The answer begins:"), made("pre", "", call.answer_prefix));
  if (call.choices) {
    const rows = Object.entries(call.choices).sort((one, other) => other[1] - one[1]).map(([choice, share]) => [choice, rounded(share)]);
    details.append(table(["Choice", "Probability"], rows));
  } else {
    details.append(made("p", "", "output:"), made("pre", "", call.output));
  }
  return details;
}

// How a document's rank differs from its rank in another ranking.
function move(rank, documentId, other) {
  if (!other) return null;
  const before = other.indexOf(documentId) + 1;
  if (!before) return made("span", "gone", "only here");
  if (before === rank) return made("span", "", "same rank");
  const by = Math.abs(before - rank);
  const up = before > rank;
  const arrow = made("span", "", up ? "▲ " : "▼ ");
  arrow.setAttribute("aria-hidden", "true");
  return made("span", up ? "up" : "down", arrow, made("span", "visually-hidden", up ? "up " : "down "), String(by));
}

// --- search

function fieldsOfRequest() {
  const text = element("fields").value.trim();
  if (!text) return {};
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`The further fields are not JSON: ${error.message}`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("The further fields are not a JSON object.");
  return value;
}

const searchAll = () => attempt(async () => {
  const query = element("query").value.trim();
  if (!query || !sides.length) return;
  const fields = fieldsOfRequest();
  announce("Searching.");
  const found = await Promise.allSettled(sides.map((side) => side.search(query, fields)));
  showResults();
  const failed = found.find(({ status, reason }) => status === "rejected" && reason.name !== "AbortError");
  if (failed) throw failed.reason;
  if (sides.every(({ result }) => result)) announce(sides.map(({ name, result }) => `System ${name}: ${result.hits.length} hits.`).join(" "));
});

function searchAgain() {
  if (element("query").value.trim() && sides.some(({ query }) => query)) searchAll();
}

function showResults() {
  const [one, two] = sides;
  const both = two && one.result && two.result;
  for (const side of sides) {
    if (!side.result) continue;
    const other = both ? (side === one ? two : one).documents : null;
    side.showHits(side.result.hits, other);
    side.showSummary();
  }
  element("rating").hidden = !sides.some(({ result }) => result && result.measured);
}

function compare() {
  const two = sides.length === 1;
  if (two) {
    const side = new Side("B");
    const next = pipelines[1] || pipelines[0];
    side.part(".pipeline").value = next.id;
    side.showSlots();
    sides.push(side);
  } else {
    sides.pop();
  }
  sides.forEach((side) => { side.part("h2").textContent = two ? side.name : ""; });
  element("sides").replaceChildren(...sides.map(({ root }) => root));
  element("compare").setAttribute("aria-pressed", String(two));
  showPins();
  if (two) searchAgain();
  else showResults();
}

// --- grades

async function rate(side, hit, grade) {
  const rater = element("rater").value.trim();
  if (!rater || !element("rater").checkValidity()) {
    element("rater").focus();
    throw new Error("Write your name first: a to z, digits, _ and -.");
  }
  localStorage.setItem("rater", rater);
  const measuredSides = sides.filter(({ result, query }) => result && query === side.query);
  const before = side.result.measured.value;
  const seconds = Math.min((performance.now() - side.shownAt) / 1000, 3600);
  const body = { query: side.query, document: hit.document, grade, rater, seconds, rankings: measuredSides.map(({ documents }) => documents) };
  const saved = await (await send("POST", "/v1/judgments", body)).json();
  measuredSides.forEach((each, index) => {
    each.result.measured = saved.measured[index];
    for (const other of each.result.hits) if (other.document === hit.document) other.grade = saved.grade;
  });
  showResults();
  const { measure, value } = side.result.measured;
  announce(`Saved grade ${grade}. ${measure} was ${rounded(before)} and is ${rounded(value)}.`);
  side.part(".summary").append(` (was ${rounded(before)})`);
  const again = [...side.root.querySelectorAll(".grades button")];
  const same = again.find((each) => each.getAttribute("aria-label") === `Grade ${grade} for ${hit.document}`);
  if (same) same.focus();
}

// --- pinned results and their difference

function pin(side) {
  if (!side.result) return;
  pins.push({ label: side.label, query: side.query, documents: side.documents, stages: side.stages.map(({ stage }) => stage) });
  showPins();
  announce(`Pinned the results of ${side.label}.`);
}

function showPins() {
  element("pinned").hidden = !pins.length;
  element("pins").replaceChildren(...pins.map((each, index) => {
    const name = `${index + 1}: ${each.query} (${each.label})`;
    const row = made("li", "", made("bdi", "", name));
    for (const side of sides) row.append(button(`Compare with ${side.name}`, () => showDifference(each, side), `Compare pin ${name} with system ${side.name}`));
    row.append(button("Remove", () => {
      pins.splice(index, 1);
      element("difference").replaceChildren();
      showPins();
    }, `Remove pin ${name}`));
    return row;
  }));
}

function showDifference(each, side) {
  if (!side.result) return;
  const now = side.documents;
  const rows = [...new Set([...now, ...each.documents])].map((id) => {
    const rank = now.indexOf(id) + 1;
    const was = each.documents.indexOf(id) + 1;
    const change = rank ? move(rank, id, each.documents) : made("span", "gone", "gone");
    return [made("code", "", id), was ? String(was) : null, rank ? String(rank) : null, rank && !was ? made("span", "up", "new") : change];
  });
  const changed = rows.filter(([, was, rank]) => was !== rank).length;
  const heading = made("h3", "", `${each.query} (${each.label}) and ${side.query} (${side.label}): ${changed} of ${rows.length} documents differ`);
  element("difference").replaceChildren(heading, table(["Document", "Pinned rank", "Rank now", "Move"], rows));
  element("difference").focus();
}

// --- start and keyboard

async function start() {
  ({ data: pipelines } = await (await send("GET", "/v1/pipelines")).json());
  element("key-form").hidden = true;
  element("none").hidden = Boolean(pipelines.length);
  if (!pipelines.length) return;
  const names = [...new Set(pipelines.flatMap(({ fields }) => fields))];
  element("more").hidden = !names.length;
  element("field-names").textContent = names.join(", ");
  sides = [new Side("A")];
  element("sides").replaceChildren(sides[0].root);
  const query = new URLSearchParams(location.hash.slice(1)).get("q");
  if (query) {
    element("query").value = query;
    searchAll();
  }
  element("query").focus();
}

element("search").addEventListener("submit", (event) => {
  event.preventDefault();
  history.replaceState(null, "", `#${new URLSearchParams({ q: element("query").value })}`);
  searchAll();
});
element("compare").addEventListener("click", () => { if (pipelines.length) compare(); });
element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = element("key").value.trim();
  sessionStorage.setItem("key", key);
  attempt(start);
});
element("rater").value = localStorage.getItem("rater") || "";
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  element("query").focus();
});
attempt(start);
