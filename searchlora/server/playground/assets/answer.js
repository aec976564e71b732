// An answer: each sentence with its citations, sentences without support marked, and the cited passages with the parts
// that support them. What supports what is the server's word: `evidence` of /v1/search.

import { announce, button, details, made, written } from "./elements.js";

export function shownAnswer(text, evidence) {
  if (!evidence) return made("section", "answer card", made("h3", "", "Answer"), written("p", "", text));
  const passages = new Map();
  for (const passage of evidence.passages) passages.set(passage.number, shownPassage(passage, evidence.sentences));
  const sentences = written("p", "", "");
  for (const each of evidence.sentences) sentences.append(shownSentence(each, passages), " ");
  const box = made("section", "answer card", made("h3", "", "Answer"), sentences);
  const unsupported = evidence.sentences.filter(({ supported }) => supported === false).length;
  if (unsupported) box.append(made("p", "unsupported-count", `${unsupported} of ${evidence.sentences.length} sentences have no support in the passages.`));
  if (passages.size) box.append(made("h4", "", "Cited passages"), ...[...passages.values()].map(({ root }) => root));
  return box;
}

function shownSentence({ sentence, citations, supported, spans }, passages) {
  const node = made("span", "sentence");
  const text = made("span", supported === false ? "unsupported" : "", sentence);
  node.append(text);
  if (supported === false) node.append(" ", made("span", "badge", "⚠ no support"));
  for (const number of citations) {
    const passage = passages.get(number);
    if (!passage) continue;
    const holds = spans.some((span) => span.passage === number);
    const cite = button(`[${number}]`, () => open(passage, sentence), `Passage ${number}, ${passage.document}: ${holds ? "supports this sentence" : "does not support this sentence"}`);
    cite.className = holds ? "cite" : "cite weak";
    node.append(" ", cite);
  }
  return node;
}

function open({ root, marks, number }, sentence) {
  root.open = true;
  for (const { node, of } of marks) node.className = of === sentence ? "now" : "";
  root.querySelector("summary").focus();
  const mark = marks.find(({ of }) => of === sentence);
  if (mark && mark.node.scrollIntoView) mark.node.scrollIntoView({ block: "nearest" });
  announce(mark ? `Passage ${number}: ${mark.node.textContent}` : `Passage ${number} does not support this sentence.`);
}

// A passage with the parts marked that support a sentence. Overlapping parts are marked once, from the first on.
function shownPassage({ number, document: id, title, text }, sentences) {
  const characters = Array.from(text); // places count characters, not UTF-16 units
  const spans = sentences.flatMap(({ sentence, spans: own }) => own.filter((span) => span.passage === number).map((span) => ({ ...span, of: sentence })));
  spans.sort((one, other) => one.start - other.start);
  const body = written("p", "text", "");
  const marks = [];
  let at = 0;
  for (const span of spans) {
    const start = Math.max(span.start, at);
    if (start >= span.end) continue;
    body.append(characters.slice(at, start).join(""));
    const node = made("mark", "", characters.slice(start, span.end).join(""));
    marks.push({ node, of: span.of });
    body.append(node);
    at = span.end;
  }
  body.append(characters.slice(at).join(""));
  const root = details("passage", made("span", "", `[${number}] `, made("code", "", id), ` ${title}`), body);
  return { root, marks, number, document: id };
}
