// Pinned results, and their difference from the results on the screen.

import { announce, button, element, made, moved, table } from "./elements.js";
import { attempt } from "./requests.js";
import { state } from "./state.js";

const pins = JSON.parse(sessionStorage.getItem("pins") || "[]"); // as long as the tab is open, also over a reload

export function pin(side) {
  if (!side.result) return;
  const { label } = side.searched;
  pins.push({ label, query: side.query, ranking: side.ranking });
  keepPins();
  announce(`Pinned the results of ${label}.`);
}

function keepPins() {
  sessionStorage.setItem("pins", JSON.stringify(pins));
  showPins();
}

export function showPins() {
  element("pinned").hidden = !pins.length;
  element("pins").replaceChildren(...pins.map((each, index) => {
    const name = `${index + 1}: ${each.query} (${each.label})`;
    const row = made("li", "", made("bdi", "", name));
    for (const side of state.sides) row.append(button(`Compare with ${side.name}`, () => attempt(() => showDifference(each, side)), `Compare pin ${name} with system ${side.name}`));
    row.append(button("Remove", () => {
      pins.splice(index, 1);
      element("difference").replaceChildren();
      keepPins();
      announce(`Removed pin ${name}.`);
      // The button is gone: the focus moves to the next pin, or back to the results.
      const rows = element("pins").children;
      (rows.length ? rows[Math.min(index, rows.length - 1)].querySelector("button") : element("results")).focus();
    }, `Remove pin ${name}`));
    return row;
  }));
}

function showDifference(each, side) {
  if (!side.result) throw new Error(`System ${side.name} has no results to compare with.`);
  const now = side.ranking;
  const then = each.ranking;
  const rows = [...new Set([...now.documents, ...then.documents])].map((id) => {
    const rank = now.documents.indexOf(id) + 1;
    const was = then.documents.indexOf(id) + 1;
    const change = !was ? made("span", "up", then.more ? `new in the top ${now.documents.length}` : "new")
      : !rank ? made("span", "gone", now.more ? `below the top ${now.documents.length}` : "gone") : moved(rank, was);
    return [made("code", "", id), was ? String(was) : null, rank ? String(rank) : null, change];
  });
  const changed = rows.filter(([, was, rank]) => was !== rank).length;
  const heading = made("h3", "", `${each.query} (${each.label}) and ${side.query} (${side.searched.label}): ${changed} of ${rows.length} documents differ`);
  element("difference").replaceChildren(heading, table(["Document", "Pinned rank", "Rank now", "Move"], rows));
  element("difference").focus();
}
