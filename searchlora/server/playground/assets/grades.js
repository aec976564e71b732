// Grades of hits, saved with their rater; the measure of the query moves at once.

import { announce, element, rounded } from "./elements.js";
import { send } from "./requests.js";
import { showResults } from "./search.js";
import { state } from "./state.js";

export async function rate(side, hit, grade) {
  const rater = element("rater").value.trim();
  if (!rater || !element("rater").checkValidity()) {
    element("rater").focus();
    throw new Error("Write your name first: a to z, digits, _ and -.");
  }
  localStorage.setItem("rater", rater);
  const measuredSides = state.sides.filter(({ result, query }) => result && query === side.query);
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
