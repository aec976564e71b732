// The topics view: all judged topics ordered by gain or loss of a system against a baseline.

import { announce, button, counted, element, figure, made, rounded, signed, written } from "./elements.js";
import { JobBox } from "./jobs.js";
import { attempt, send } from "./requests.js";
import { openPair } from "./search.js";
import { state } from "./state.js";
import { SystemChoice, labelOf } from "./system.js";
import { show } from "./views.js";

const MORE = 100; // topics that are added at once

const view = { system: null, baseline: null, job: null, result: null, losses: false, shown: MORE };

export function startTopics() {
  view.system = new SystemChoice(() => {});
  view.baseline = new SystemChoice(() => {});
  element("compared-system").replaceChildren(view.system.root);
  element("compared-baseline").replaceChildren(view.baseline.root);
  presetBaseline();
  view.job = new JobBox("comparison", () => element("compare-form").querySelector("button"));
  element("compare-job").replaceChildren(view.job.root);
  showJudged();
}

function showJudged() {
  const { judged } = state.topics;
  element("no-topics").hidden = Boolean(judged);
  element("compare-form").hidden = !judged;
  element("judged-topics").textContent = counted(judged, "judged topic");
}

// A grade may have made its query a judged topic.
export async function refreshTopics() {
  const topics = await (await send("GET", "/v1/topics")).json();
  if (topics.judged === state.topics.judged) return;
  state.topics = topics;
  showJudged();
  for (const side of state.sides) side.showJudged();
}

// The first comparison that says something: the second pipeline, or the first one without a slot.
function presetBaseline() {
  if (state.pipelines.length > 1) {
    view.baseline.set({ pipeline: state.pipelines[1].id });
    return;
  }
  const [{ id, slots }] = state.pipelines;
  const slot = slots.find(({ choices }) => choices.includes("off"));
  if (slot) view.baseline.set({ pipeline: id, slots: { [slot.name]: "off" } });
}

export function compareOnTopics(system, baseline) {
  view.system.set(system);
  view.baseline.set(baseline);
  show("topics");
  element("results").focus(); // the button that was pressed is hidden
  return compareTopics();
}

export const compareTopics = () => attempt(async () => {
  element("gains").replaceChildren();
  const body = { system: view.system.request, baseline: view.baseline.request, measure: state.topics.measure };
  if (showCompared(await view.job.run("/v1/topics/compare", body))) element("gains").focus();
});

// Watch the comparison that an earlier load of the page had begun.
export function resumeComparison() {
  if (view.job.kept) attempt(async () => showCompared(await view.job.resume()));
}

function showCompared(result) {
  if (!result) return false;
  view.result = result;
  view.shown = MORE;
  view.losses = result.difference < 0;
  showGains();
  announce(headline(result));
  return true;
}

const headline = ({ measure, difference, low, high, p, n, wins, losses, ties }) =>
  `${measure} ${figure({ value: difference, low, high }, signed)}, ${significance(p)}, over ${counted(n, "topic")}: ${wins} better, ${losses} worse, ${ties} equal.`;

// Without two independent topics there is no test, and no p.
const significance = (p) => (p === null ? "no p-value" : p < 0.001 ? "p < 0.001" : `p = ${rounded(p)}`);

function showGains() {
  const { result, losses } = view;
  const topics = losses ? [...result.topics].reverse() : result.topics;
  const greatest = Math.max(...result.topics.map(({ gain }) => Math.abs(gain)));
  const orders = [["Gains first", false], ["Losses first", true]].map(([name, order]) => {
    const choice = button(name, () => {
      view.losses = order;
      showGains();
      [...element("gains").querySelectorAll("button")].find(({ textContent }) => textContent === name).focus();
    });
    choice.setAttribute("aria-pressed", String(order === losses));
    return choice;
  });
  const list = made("ol", "topics", ...topics.slice(0, view.shown).map((topic) => shownTopic(topic, greatest)));
  const more = topics.length > view.shown ? button(`Show ${Math.min(MORE, topics.length - view.shown)} more`, () => {
    const first = view.shown;
    view.shown += MORE;
    showGains();
    element("gains").querySelectorAll(".topics button")[first].focus(); // the button that was pressed is gone
  }) : null;
  element("gains").replaceChildren(
    made("h2", "", headline(result)),
    made("p", "", `System: ${labelOf(result.system)}, ${result.measure} ${figure(result.system)}`),
    made("p", "", `Baseline: ${labelOf(result.baseline)}, ${result.measure} ${figure(result.baseline)}`),
    ...Object.entries(result.circular).map(([name, why]) => made("p", "invalid", `The figures of the ${name} are circular: ${why}.`)),
    ...result.notes.map((note) => made("p", "note", note)),
    made("p", "orders", ...orders), list, ...(more ? [more] : []),
  );
}

function shownTopic(topic, greatest) {
  const { query, gain, system, baseline, fields } = topic;
  const fill = made("span", gain < 0 ? "fill down" : "fill up");
  fill.style.setProperty("--size", String(greatest ? Math.abs(gain) / greatest : 0));
  const bar = made("span", gain < 0 ? "bar left" : "bar right", fill);
  bar.setAttribute("aria-hidden", "true");
  const node = button("", () => {
    openPair(view.result.system, view.result.baseline, query, fields);
    show("search");
    element("results").focus();
  });
  node.append(made("span", "gain", signed(gain)), bar, written("span", "topic-query", query), made("span", "values", `${rounded(baseline)} → ${rounded(system)}`));
  return made("li", "", node);
}
