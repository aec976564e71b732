// The adapters view: versions with lineage and measures, decisions, and aliases.

import { details, element, figure, made, rounded, table } from "./elements.js";
import { attempt, send } from "./requests.js";

export const showAdapters = () => attempt(async () => {
  const { data } = await (await send("GET", "/v1/adapters")).json();
  element("adapters").replaceChildren(...(data.length ? data.map(shownAdapter) : [made("p", "card", "The store has no adapters.")]));
});

function shownAdapter(adapter) {
  const { id, task, base, problem, versions, history, pipelines } = adapter;
  const section = made("section", "card adapter");
  section.setAttribute("aria-label", id);
  section.append(
    made("h2", "", id),
    made("p", "", [task && `Task ${task}`, base && `base ${base}`].filter(Boolean).join(", ")),
    ...(problem ? [made("p", "invalid", problem)] : []),
    versions.length ? table(["Version", "Aliases", "Measured", "Stored", "Made by", "From", "Data"], versions.map((version) => versionRow(version, adapter)), `Versions of ${id}`) : "",
    made("p", "note", pipelines.length ? `Used in ${pipelines.join(", ")}.` : "No served pipeline uses this adapter."),
    history.length ? details("history", `Aliases and decisions (${history.length})`, made("ol", "moves", ...history.map((move) => made("li", "", ...shownMove(move))))) : "",
  );
  return section;
}

function versionRow({ reference, version, problem, created, method, lineage, data, metrics, evaluations }, { aliases }) {
  const names = Object.entries(aliases).filter(([, alias]) => alias.version === version)
    .map(([name, { forced, by_hand: byHand }]) => `${name}${forced ? " (forced)" : byHand ? " (set manually)" : ""}`);
  if (problem) return [made("code", "", reference), names.join(", ") || null, made("span", "invalid", problem), null, null, null, null];
  return [
    made("code", "", reference), names.join(", ") || null, measures(evaluations, metrics), created.slice(0, 10), method,
    lineage.join(", ") || null, data ? made("code", "", data.slice(0, 12)) : null,
  ];
}

// Each evaluation with its interval; without one, what the training run measured.
function measures(evaluations, metrics) {
  if (evaluations.length) {
    return made("ul", "", ...evaluations.map((each) => made("li", "", `${each.measure} ${figure(each)}, n = ${each.n}, ${each.split}`,
      each.loses_to.length ? made("span", "invalid", ` loses to ${each.loses_to.join(", ")}`) : null)));
  }
  const trained = Object.entries(metrics).slice(0, 3);
  return trained.length ? made("ul", "", ...trained.map(([name, value]) => made("li", "", `${name} ${Number.isInteger(value) ? value : rounded(value)} (training)`))) : null;
}

function shownMove({ alias, time, from, to, reason, rollback, decision }) {
  const what = decision && decision.outcome === "refused" ? `version ${decision.version} was refused for ${alias}`
    : `${alias}: ${from === null ? "" : `version ${from} → `}${to === null ? "removed" : `version ${to}`}`;
  const how = decision ? { promoted: "by its policy", refused: "", forced: "against its policy" }[decision.outcome] : rollback ? "a rollback" : "set manually";
  const head = made("p", "", made("span", "time", `${time.slice(0, 16).replace("T", " ")} `), [what, how, reason].filter(Boolean).join(", "));
  if (!decision) return [head];
  const rules = made("ul", "rules", ...decision.rules.map(({ rule, passed, finding }) => made("li", passed ? "" : "invalid", `${passed ? "✓ met" : "✗ not met"}: ${rule}. ${finding}`)));
  const figures = decision.figures.map((each) => made("p", "", `${each.measure} ${figure(each)}, n = ${each.n}`));
  return [head, details("", `Decision: ${decision.rules.length} ${decision.rules.length === 1 ? "rule" : "rules"}`, rules, ...figures)];
}
