// Grades of hits, saved with their rater; the measure of the query moves at once.

import { announce, button, element, made, rounded } from "./elements.js";
import { attempt, send } from "./requests.js";
import { showResults } from "./search.js";
import { state } from "./state.js";

let saving = Promise.resolve(); // one after another, so that the last answer holds all grades

// `place` is where the name is asked for, if there is none yet.
export function rate(side, hit, grade, place) {
  const rater = element("rater").value.trim();
  if (!rater || !element("rater").checkValidity()) return askName(place, grade, () => rate(side, hit, grade, place));
  localStorage.setItem("rater", rater);
  const { query, fields } = side;
  const measured = state.sides.filter((each) => each.result && each.query === query).map((each) => ({ side: each, result: each.result }));
  const seconds = Math.min((performance.now() - side.shownAt) / 1000, 3600);
  const body = { query, fields, document: hit.document, grade, rater, seconds, rankings: measured.map((each) => each.side.documents) };
  saving = saving.catch(() => {}).then(() => save(side, body, measured));
  return saving;
}

// Ask for the rater's name beside the grade, which is saved with it.
function askName(place, grade, save) {
  const name = made("input");
  for (const [key, value] of Object.entries({ maxlength: "32", required: "", autocapitalize: "none", "aria-describedby": "rater-rule" })) name.setAttribute(key, value);
  name.setAttribute("pattern", element("rater").getAttribute("pattern"));
  const submit = made("button", "main", `Save grade ${grade}`);
  submit.type = "submit";
  const form = made("form", "asked", made("label", "", "Your name ", name), submit, button("Cancel", () => form.remove()));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    element("rater").value = name.value.trim();
    form.remove();
    attempt(save);
  });
  const open = place.querySelector(".asked");
  if (open) open.remove();
  place.append(form);
  name.focus();
  announce(`Write your name to save grade ${grade}.`);
}

// The results on the screen may be those of a later search by now; then they stay as they are.
async function save(side, body, measured) {
  const own = measured.find((each) => each.side === side).result;
  const before = own.measured.value;
  const saved = await (await send("POST", "/v1/judgments", body)).json();
  measured.forEach(({ result }, index) => {
    result.measured = saved.measured[index];
    for (const hit of result.hits) if (hit.document === body.document) hit.grade = saved.grade;
  });
  const { measure, value } = own.measured;
  announce(`Saved grade ${body.grade}. ${measure} was ${rounded(before)} and is ${rounded(value)}.`);
  if (side.result === own) {
    showResults();
    side.part(".summary").append(` (was ${rounded(before)})`);
  }
}
