// The measure under each choice of fusion weights: a strip for two parts, a triangle for three. The server measures all of them.

import { announce, button, counted, details, figure, made, rounded, table } from "./elements.js";
import { JobBox } from "./jobs.js";
import { attempt } from "./requests.js";
import { state } from "./state.js";
import { weightsText } from "./system.js";

const STEPS = 10;

// Below the sliders of a system, a button that measures all fusion weights on the judged topics.
export function offerFusions(system, name, chosen) {
  const box = system.part(".fusions");
  const { fusion } = system.pipeline;
  box.replaceChildren();
  if (system.measuring) system.measuring.cancel(); // of another system
  system.measuring = system.fusions = null;
  if (!fusion || !state.topics.judged || fusion.parts.length < 2 || fusion.parts.length > 3) return;
  const map = made("div", "");
  const measure = button("", () => attempt(async () => {
    map.replaceChildren();
    show(await job.run("/v1/topics/weights", request(system)));
  }));
  const job = system.measuring = new JobBox(`fusion weights of ${name}`, () => measure);
  const show = (result) => {
    if (!result) return;
    map.replaceChildren(heatMap(result, (weights) => attempt(async () => {
      if (!result.parts.every((part) => fusion.parts.includes(part))) throw new Error("A part is switched off. Switch all parts on to take these weights.");
      system.setWeights(fusion.parts.map((part) => weights[result.parts.indexOf(part)] || 0));
      chosen();
    })));
    announce(`Measured ${result.fusions.length} fusion weights on ${result.n} topics. The best is ${named(result, result.fusions[result.best])}.`);
  };
  system.fusions = { measure, job, show };
  showJudged(system);
  box.append(measure, job.root, map);
}

function request(system) {
  const { pipeline, slots } = system.request;
  return { system: { pipeline, slots }, measure: state.topics.measure };
}

// Say on how many topics the fusion weights are measured. False where they are not offered.
export function showJudged({ fusions }) {
  if (fusions) fusions.measure.textContent = `Measure all fusion weights on ${counted(state.topics.judged, "topic")}`;
  return Boolean(fusions);
}

// Watch the measurement of this system that an earlier load of the page had begun.
export function resumeFusions(system) {
  const kept = system.fusions && system.fusions.job.kept;
  if (kept && JSON.stringify(kept.body) === JSON.stringify(request(system))) attempt(async () => system.fusions.show(await system.fusions.job.resume()));
}

const named = ({ measure, parts }, fusion) => `${weightsText(parts, fusion.weights)}: ${measure} ${figure(fusion)}`;

function heatMap(result, choose) {
  const { fusions, best, parts, measure, n, notes } = result;
  const values = fusions.map(({ value }) => value);
  const least = Math.min(...values);
  const width = Math.max(...values) - least;
  const text = made("p", "fusion-weights", `Best: ${named(result, fusions[best])}`);
  const cells = fusions.map((fusion, place) => {
    const cell = button("", () => choose(fusion.weights), `${named(result, fusion)}${place === best ? ", the best" : ""}`);
    cell.className = place === best ? "cell best" : "cell";
    cell.style.setProperty("--share", String(width ? (fusion.value - least) / width : 1));
    cell.tabIndex = place === best ? 0 : -1;
    const show = () => { text.textContent = named(result, fusion); };
    cell.addEventListener("focus", show);
    cell.addEventListener("mouseenter", show);
    return cell;
  });
  const rows = arranged(fusions, cells, parts.length);
  const map = made("div", "heat", ...rows.map((row) => made("div", "heat-row", ...row)));
  map.setAttribute("role", "group");
  map.setAttribute("aria-label", `${measure} under all fusion weights of ${parts.join(", ")}. Arrow keys move, Enter chooses.`);
  map.addEventListener("keydown", (event) => moveFocus(event, rows));
  const listed = [...fusions].sort((one, other) => other.value - one.value);
  const shownMap = made(
    "div", "",
    made("p", "", `${measure} over ${n} topics, ${width ? `from ${rounded(least)} to ${rounded(least + width)}. The stronger the colour, the higher.` : `${rounded(least)} for all fusion weights`}`),
    corners(parts, "top"), map, corners(parts, "bottom"), text,
  );
  const listedFusions = made(
    "div", "",
    details("", "As a table", table([...parts, measure, "interval"], listed.map((fusion) => [
      ...fusion.weights.map((weight) => String(weight)), rounded(fusion.value), fusion.low === null ? null : `${rounded(fusion.low)} to ${rounded(fusion.high)}`,
    ]), `${measure} under all fusion weights`)),
    ...notes.map((note) => made("p", "note", note)),
  );
  return made("div", "fusions-shown", shownMap, listedFusions);
}

// Which part counts alone at each corner of the strip or triangle.
function corners(parts, where) {
  const [first, second, third] = parts;
  if (parts.length === 2) return where === "top" ? null : made("p", "corners", made("span", "", `only ${first}`), made("span", "", `only ${second}`));
  return where === "top" ? made("p", "corners top", `only ${third}`) : made("p", "corners", made("span", "", `only ${first}`), made("span", "", `only ${second}`));
}

// The cells by row. A strip goes from the first part to the second. In a triangle the weight of the third part falls
// from row to row, and that of the second grows from left to right.
function arranged(fusions, cells, parts) {
  const tenths = fusions.map(({ weights }) => weights.map((weight) => Math.round(weight * STEPS)));
  const order = fusions.map((_, place) => place).sort((one, other) => tenths[one][1] - tenths[other][1]);
  if (parts === 2) return [order.map((place) => cells[place])];
  const rows = [];
  for (let third = STEPS; third >= 0; third -= 1) rows.push(order.filter((place) => tenths[place][2] === third).map((place) => cells[place]));
  return rows;
}

function moveFocus(event, rows) {
  const row = rows.findIndex((cells) => cells.includes(event.target));
  if (row < 0) return;
  const column = rows[row].indexOf(event.target);
  const to = { ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column] }[event.key];
  if (!to) return;
  event.preventDefault();
  const cells = rows[to[0]];
  const cell = cells && cells[Math.max(0, Math.min(to[1], cells.length - 1))];
  if (!cell) return;
  event.target.tabIndex = -1;
  cell.tabIndex = 0;
  cell.focus();
}
