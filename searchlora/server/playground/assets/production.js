// The production view: aliases with their weights and a way back, what users and checks say, and queries that went wrong.

import { announce, button, counted, details, element, figure, made, milliseconds, rounded, signed, table, written } from "./elements.js";
import { attempt, send } from "./requests.js";
import { searchFor } from "./search.js";
import { show } from "./views.js";

export const showProduction = () => attempt(async () => {
  const found = await (await send("GET", "/v1/production")).json();
  const { since, aliases } = found;
  element("production").replaceChildren(
    ...(aliases.length ? aliases.map(shownAlias) : [made("p", "card", "No pipeline of this server names an adapter by an alias.")]),
    ...(since === null
      ? [made("p", "card", "This server records no searches. Start it with ", made("code", "", "--events FOLDER"), " to see what users do.")]
      : [made("p", "note", `Searches since ${moment(since)}.`), ...recorded(found)]),
  );
});

const recorded = (found) => [
  card("Pipelines", ...pipelines(found.pipelines)),
  card("In the shadow", ...shadows(found.shadow)),
  card("Interleaving", ...interleaved(found.interleaving)),
  card("Queries that went wrong", ...queue(found.queue)),
];

function card(heading, ...children) {
  const section = made("section", "card production", made("h2", "", heading), ...children);
  section.setAttribute("aria-label", heading);
  return section;
}

function shownAlias({ reference, pipelines: names, moved, weights, moves }) {
  const shares = Object.entries(weights);
  const bar = made("div", "weights-bar", ...shares.map(([, share]) => {
    const part = made("span", "");
    part.style.setProperty("--share", String(share));
    return part;
  }));
  bar.setAttribute("aria-hidden", "true");
  return card(
    reference,
    made("p", "", shares.length ? shares.map(([version, share]) => `${version}: ${percent(share)}`).join(", ") : "no version", `; in ${names.join(", ")}.`),
    shares.length > 1 ? bar : null,
    moves.length ? details("history", `History (${moves.length})`, made("ol", "moves", ...moves.map((move) => written("li", "", move)))) : null,
    back(reference, moved),
  );
}

function back(reference, moved) {
  const reason = made("input", "");
  reason.required = true;
  reason.maxLength = 1000;
  reason.autocomplete = "off";
  const submit = made("button", "", "Roll back");
  const form = made("form", "back", made("label", "", "Reason", reason), submit);
  form.setAttribute("aria-label", `Take back ${reference}`);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      submit.disabled = true; // a second press would take back one more version
      let done;
      try {
        done = await (await send("POST", "/v1/production/rollback", { adapter: reference, moved, reason: reason.value })).json();
      } finally {
        submit.disabled = false;
      }
      await showProduction();
      element("production").focus(); // the button that was pressed is gone
      announce(done.version === null ? `${reference} points nowhere now.` : `${reference} is version ${done.version} now.`);
    });
  });
  return form;
}

function pipelines(found) {
  const rows = Object.entries(found).map(([name, each]) => [
    name, each.searches, listed(each.outcomes), each.users, figure(each.chosen), figure(each.no_hits), milliseconds(each.p50_ms), milliseconds(each.p99_ms),
    made("ul", "",
      ...Object.entries(each.stages).map(([label, { n, flags }]) => made("li", "", `${label}: ${listed({ searches: n, ...flags })}`)),
      ...Object.entries(each.unserved).map(([version, how]) => made("li", "invalid", `${version} did not answer: ${listed(how)}`)),
    ),
  ]);
  if (!rows.length) return [made("p", "", "There are no searches.")];
  return [table(["Pipeline", "Searches", "Outcomes", "Users", "A hit was chosen", "No hits", "Median", "99%", "Stages"], rows, "Pipelines")];
}

function shadows(found) {
  const rows = Object.entries(found).map(([candidate, each]) => [
    candidate, each.n, figure(each.failed), figure(each.live_failed), figure(each.changed), milliseconds(each.milliseconds),
  ]);
  if (!rows.length) return [made("p", "", "No candidate searches in the shadow.")];
  return [table(["Candidate", "Searches", "Failed", "Live failed", "Other first ten", "Median"], rows, "Shadow searches")];
}

function interleaved(found) {
  if (!found.length) return [made("p", "", "No pipelines are interleaved.")];
  return found.map(({ a, b, decision, searches, wins_a: winsA, wins_b: winsB, ties, ...share }) => {
    const verdict = { A: `Users prefer ${a}.`, B: `Users prefer ${b}.`, open: "Not decided yet." }[decision];
    return made("p", "", `${verdict} ${winsA} prefer ${a}, ${winsB} prefer ${b}, ${ties} neither, in ${searches} searches. Share of ${b}: ${figure({ value: share.share, ...share })}.`);
  });
}

function queue(found) {
  if (!found.length) return [made("p", "", "None.")];
  return [made("ul", "queue", ...found.map(({ query, users, reasons }) => {
    const node = button("", () => {
      show("search");
      searchFor(query, {});
      element("results").focus();
    });
    node.append(written("span", "queued", query), made("span", "", `${counted(users, "user")}: ${reasons.join(", ")}`));
    return made("li", "", node);
  }))];
}

const listed = (counts) => Object.entries(counts).map(([name, n]) => `${name} ${n}`).join(", ");
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
const moment = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 16).replace("T", " ");
