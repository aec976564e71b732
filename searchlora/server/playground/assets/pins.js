// Pinned results, and their difference from the results on the screen.

import { announce, button, element, made, table } from "./elements.js";
import { move } from "./side.js";
import { state } from "./state.js";

const pins = [];

export function pin(side) {
  if (!side.result) return;
  pins.push({ label: side.label, query: side.query, documents: side.documents, stages: side.stages.map(({ label }) => label) });
  showPins();
  announce(`Pinned the results of ${side.label}.`);
}

export function showPins() {
  element("pinned").hidden = !pins.length;
  element("pins").replaceChildren(...pins.map((each, index) => {
    const name = `${index + 1}: ${each.query} (${each.label})`;
    const row = made("li", "", made("bdi", "", name));
    for (const side of state.sides) row.append(button(`Compare with ${side.name}`, () => showDifference(each, side), `Compare pin ${name} with system ${side.name}`));
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
