// The search view: one query by one system, or by two side by side.

import { announce, button, element, made } from "./elements.js";
import { attempt } from "./requests.js";
import { Side } from "./side.js";
import { pipelineOf, state } from "./state.js";
import { keepSearch } from "./views.js";

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

let page; // what a system calls when it concerns all

// The first system. `rate` saves a grade of one of its hits.
export function startSearch(rate) {
  page = { rate, searchAgain, showResults, keepAddress };
  state.sides = [new Side("A", page)];
  element("sides").replaceChildren(state.sides[0].root);
  const examples = state.topics.examples.map(({ query, fields }) => made("li", "", button(query, () => searchFor(query, fields))));
  element("example-queries").replaceChildren(...examples);
  element("examples").hidden = !examples.length;
}

export const searchAll = () => attempt(async () => {
  const query = element("query").value.trim();
  if (!query || !state.sides.length) return;
  const fields = fieldsOfRequest();
  element("examples").hidden = true;
  keepAddress(query, fields);
  announce("Searching.");
  const found = await Promise.allSettled(state.sides.map((side) => side.search(query, fields).then(showResults)));
  showResults();
  const failed = found.find(({ status, reason }) => status === "rejected" && reason.name !== "AbortError");
  if (failed) throw failed.reason;
  if (state.sides.every(({ result }) => result)) announce(state.sides.map(({ name, result }) => `System ${name}: ${result.hits.length} hits.`).join(" "));
});

export function searchAgain() {
  if (element("query").value.trim() && state.sides.some(({ query }) => query)) searchAll();
}

// A search as the page's address: the query, its fields, and the systems unless there is one, the first, unchanged.
export function keepAddress(query, fields) {
  const parts = new URLSearchParams({ q: query });
  if (Object.keys(fields).length) parts.set("fields", JSON.stringify(fields));
  const systems = state.sides.map(({ system }) => system.request);
  const [{ pipeline, slots, weights }] = systems;
  if (systems.length > 1 || pipeline !== state.pipelines[0].id || Object.keys(slots).length || weights.length) {
    parts.set("systems", JSON.stringify(systems));
  }
  keepSearch(`#${parts}`);
}

// Search what an address holds; nothing if it holds no query. Raises an error for a system that the server does not have.
export function openAddress(hash) {
  const parts = new URLSearchParams(hash.slice(1));
  const query = parts.get("q");
  if (!query) return;
  let systems;
  let fields;
  try {
    systems = JSON.parse(parts.get("systems") || "[]");
    fields = Object(JSON.parse(parts.get("fields") || "{}"));
    for (const { pipeline } of systems) if (!pipelineOf(pipeline)) throw new Error(pipeline);
  } catch {
    throw new Error("The address of this page is incomplete, or names a pipeline that this server does not have.");
  }
  if (!systems.length) systems = [{ pipeline: state.pipelines[0].id }];
  if (state.sides.length !== systems.length) compare(false);
  state.sides.forEach((side, place) => side.set(systems[place]));
  searchFor(query, fields);
}

export function showResults() {
  const [one, two] = state.sides;
  const both = two && one.result && two.result;
  for (const side of state.sides) {
    if (!side.result) continue;
    const other = both ? (side === one ? two : one).ranking : null;
    side.showHits(side.result.hits, other);
    side.showSummary();
  }
  element("rating").hidden = !state.topics.collects_grades || !state.sides.some(({ result }) => result && result.measured);
}

export function compare(again = true) {
  const two = state.sides.length === 1;
  if (two) {
    const side = new Side("B", page);
    const next = state.pipelines[1] || state.pipelines[0];
    side.set({ pipeline: next.id });
    state.sides.push(side);
  } else {
    state.sides.pop().stop();
  }
  state.sides.forEach((side) => { side.part("h2").textContent = two ? side.name : ""; });
  element("sides").replaceChildren(...state.sides.map(({ root }) => root));
  element("compare").setAttribute("aria-pressed", String(two));
  if (!again) return;
  if (two) {
    searchAgain();
    return;
  }
  showResults();
  const [{ query, fields }] = state.sides;
  if (query) keepAddress(query, fields);
}

// Search with the fields that belong to the query, and no others. Fields that are sent are seen.
export function searchFor(query, fields) {
  const text = Object.keys(fields).length ? JSON.stringify(fields) : "";
  element("query").value = query;
  element("fields").value = text;
  element("more").open = Boolean(text);
  return searchAll();
}
