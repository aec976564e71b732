// The search view: one query by one system, or by two side by side.

import { announce, element } from "./elements.js";
import { showPins } from "./pins.js";
import { attempt } from "./requests.js";
import { Side } from "./side.js";
import { state } from "./state.js";

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

export const searchAll = () => attempt(async () => {
  const query = element("query").value.trim();
  if (!query || !state.sides.length) return;
  const fields = fieldsOfRequest();
  announce("Searching.");
  const found = await Promise.allSettled(state.sides.map((side) => side.search(query, fields)));
  showResults();
  const failed = found.find(({ status, reason }) => status === "rejected" && reason.name !== "AbortError");
  if (failed) throw failed.reason;
  if (state.sides.every(({ result }) => result)) announce(state.sides.map(({ name, result }) => `System ${name}: ${result.hits.length} hits.`).join(" "));
});

export function searchAgain() {
  if (element("query").value.trim() && state.sides.some(({ query }) => query)) searchAll();
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

export function compare() {
  const two = state.sides.length === 1;
  if (two) {
    const side = new Side("B");
    const next = state.pipelines[1] || state.pipelines[0];
    side.set({ pipeline: next.id });
    state.sides.push(side);
  } else {
    state.sides.pop().remove();
  }
  state.sides.forEach((side) => { side.part("h2").textContent = two ? side.name : ""; });
  element("sides").replaceChildren(...state.sides.map(({ root }) => root));
  element("compare").setAttribute("aria-pressed", String(two));
  showPins();
  if (two) searchAgain();
  else showResults();
}

// Show one query by two systems: what a topic of a comparison opens.
export function openPair(one, two, query, fields) {
  if (state.sides.length === 1) compare();
  state.sides[0].set(one);
  state.sides[1].set(two);
  return searchFor(query, fields);
}

// Search with the fields that belong to the query, and no others. Fields that are sent are seen.
export function searchFor(query, fields) {
  const text = Object.keys(fields).length ? JSON.stringify(fields) : "";
  element("query").value = query;
  element("fields").value = text;
  element("more").open = Boolean(text);
  return searchAll();
}
