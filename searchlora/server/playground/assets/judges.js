// The judge view: pairs that a judge and people grade differently, largest difference first.

import { announce, button, details, element, made, option, rounded, table, written } from "./elements.js";
import { JobBox } from "./jobs.js";
import { attempt } from "./requests.js";
import { searchFor } from "./search.js";
import { pipelineOf, state } from "./state.js";
import { show } from "./views.js";

const view = { job: null };

const judges = () => state.pipelines.flatMap(({ id, judges: names }) => names.map((judge) => ({ pipeline: id, judge })));

export function startJudges() {
  const known = judges();
  element("no-judges").hidden = Boolean(known.length);
  element("judge-form").hidden = !known.length;
  element("judge").replaceChildren(...known.map(({ pipeline, judge }, place) => option(`${judge} in ${pipeline}`, String(place))));
  element("judge").addEventListener("change", showVersions);
  view.job = new JobBox("disagreements", () => element("judge-form").querySelector("button"));
  element("judge-job").replaceChildren(view.job.root);
  if (known.length) showVersions();
}

function chosen() {
  return judges()[Number(element("judge").value)];
}

function showVersions() {
  const { pipeline, judge } = chosen();
  const slot = pipelineOf(pipeline).slots.find(({ name }) => name === judge);
  const versions = slot.choices.filter((choice) => choice !== "off");
  element("judge-version").replaceChildren(...versions.map((choice) => option(choice === "on" && slot.adapter ? `on (${slot.adapter})` : choice, choice)));
}

export const findDisagreements = () => attempt(async () => {
  element("disagreements").replaceChildren();
  const body = { ...chosen(), version: element("judge-version").value, limit: Number(element("judge-limit").value), grades: gradeMap() };
  if (showFound(await view.job.run("/v1/topics/disagreements", body))) element("disagreements").focus();
});

// Watch the search for disagreements that an earlier load of the page had begun.
export function resumeDisagreements() {
  if (view.job.kept) attempt(async () => showFound(await view.job.resume()));
}

// Grade of people -> grade of the judge, as it is written: 2=1,3=1.
function gradeMap() {
  const pairs = element("judge-grades").value.split(",").map((each) => each.trim()).filter(Boolean).map((each) => each.match(/^(-?\d+) *= *(\d+)$/));
  if (pairs.includes(null)) throw new Error("Write grades of people and of the judge in pairs, such as 2=1,3=1.");
  return Object.fromEntries(pairs.map(([, people, judge]) => [people, Number(judge)]));
}

function showFound(result) {
  if (!result) return false;
  element("disagreements").replaceChildren(made("h2", "", headline(result)), ...remarks(result), made("ol", "pairs", ...result.rows.map((row) => made("li", "", shownPair(row)))));
  announce(headline(result));
  return true;
}

const headline = ({ judge, differing, pairs, invalid }) => `${judge} and people differ on ${differing} of ${pairs - invalid} pairs.`;

function remarks({ rows, differing, left_out: leftOut, missing, unknown, invalid }) {
  const notes = [];
  if (rows.length < differing) notes.push(`The ${rows.length} largest differences are shown.`);
  if (leftOut) notes.push(`${leftOut} further pairs were not graded: raise the limit.`);
  if (missing) notes.push(`${missing} judged documents are not in the corpus.`);
  if (unknown) notes.push(`The queries of ${unknown} graded pairs are unknown: start the server with their topics.`);
  if (invalid) notes.push(`${invalid} outputs of the judge are invalid.`);
  return notes.map((note) => made("p", "note", note));
}

function shownPair(row) {
  const people = row.raters.length ? row.raters.join(", ") : "judgments";
  const given = row.given === row.grade ? row.grade : `${row.given} (as ${row.grade})`;
  const summary = made("span", "", made("span", "grades-of", `judge ${row.judge_grade}, ${people} ${given}`), " ", written("span", "topic-query", row.query), " – ", written("span", "", row.title || row.document));
  const rows = row.probabilities.map(({ grade, probability }) => [
    `${grade}${grade === row.judge_grade ? " (judge)" : ""}${grade === row.grade ? " (people)" : ""}`, rounded(probability),
  ]);
  const text = written("p", "text", row.text);
  text.tabIndex = 0; // it may be long, and scrolls
  return details(
    "pair", summary,
    made("p", "", "Document ", made("code", "", row.document)),
    row.title ? written("h3", "", row.title) : null,
    text,
    rows.length ? table(["Grade", "Probability"], rows, `Probabilities of the judge for ${row.document}`) : null,
    row.reason ? written("p", "", `The judge's reason: ${row.reason}`) : null,
    button("Search this query", () => {
      searchFor(row.query, row.fields);
      show("search");
      element("results").focus();
    }, `Search: ${row.query}`),
  );
}
