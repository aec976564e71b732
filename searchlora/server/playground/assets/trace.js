// A stage of a search: what it read, asked, wrote and took. The rows are those of `searchlora run --trace`.

import { block, details, made, milliseconds, rounded, shown, table } from "./elements.js";

export function shownStage(stage) {
  const tokens = stage.tokens ? `, ${stage.tokens.prompt + stage.tokens.output} tokens` : "";
  const flags = stage.flags.length ? made("span", "invalid", ` ${stage.flags.map((flag) => flag.split(":")[0]).join(", ")}`) : null;
  const summary = made("span", "", `${stage.stage}. ${stage.label} `, made("span", "time", `${milliseconds(stage.milliseconds)}${tokens}`), flags);
  const { hits, ...output } = stage.output;
  const requests = stage.requests || [];
  return details(
    "",
    summary,
    ...stage.flags.map((flag) => made("p", "invalid", flag)),
    ...Object.entries(output).flatMap(([field, value]) => [made("p", "", `${field}:`), block(shown(value))]),
    hits ? made("p", "", `Hits: ${hits.map(({ document }) => document).join(", ") || "none"}`) : null,
    ...requests.map((request, number) => shownRequest(request, number, stage.adapter)),
    stage.requests_left_out ? made("p", "", `${requests.length + stage.requests_left_out} requests in all.`) : null,
  );
}

function shownRequest(request, number, adapter) {
  const node = details("", `Prompt ${number + 1}, ${adapter || "base model"}, ${request.tokens.prompt} tokens`);
  for (const { role, content } of request.prompt) node.append(made("p", "", `${role}:`), block(content));
  if (request.answer_prefix) node.append(made("p", "", "The answer begins:"), block(request.answer_prefix));
  if (request.log_probabilities) {
    const rows = shares(request.log_probabilities).map(([choice, share]) => [choice, rounded(share)]);
    node.append(table(["Choice", "Probability"], rows));
  } else {
    node.append(made("p", "", "output:"), block(request.text));
  }
  return node;
}

// Each choice with its probability among the choices, the likeliest first. Of a single choice, such as the abstention,
// its own.
function shares(logProbabilities) {
  const entries = Object.entries(logProbabilities);
  if (entries.length === 1) return entries.map(([choice, each]) => [choice, Math.exp(each)]);
  const top = Math.max(...entries.map(([, each]) => each));
  const weights = entries.map(([choice, each]) => [choice, Math.exp(each - top)]);
  const sum = weights.reduce((total, [, weight]) => total + weight, 0);
  return weights.map(([choice, weight]) => [choice, weight / sum]).sort((one, other) => other[1] - one[1]);
}
