// An answer: each sentence with its citations, sentences without support marked, and the cited passages with the parts
// that support them. What supports what is the server's word: `evidence` of /v1/search.

import { announce, button, details, made, written } from "./elements.js";

export function shownAnswer(text, evidence) {
  if (!evidence) return made("section", "answer card", made("h3", "", "Answer"), written("p", "", text));
  const passages = new Map();
  for (const passage of evidence.passages) passages.set(passage.number, shownPassage(passage, evidence.sentences));
  const sentences = written("p", "", "");
  evidence.sentences.forEach((each, place) => sentences.append(shownSentence(each, place, passages), " "));
  const box = made("section", "answer card", made("h3", "", "Answer"), sentences);
  const unsupported = evidence.sentences.filter(({ supported }) => supported === false).length;
  if (unsupported) box.append(made("p", "unsupported-count", `${unsupported} of ${evidence.sentences.length} sentences have no support in the passages.`));
  if (passages.size) box.append(made("h4", "", "Cited passages"), ...[...passages.values()].map(({ root }) => root));
  return box;
}

function shownSentence({ sentence, citations, supported, support }, place, passages) {
  const node = made("span", "sentence");
  const text = made("span", supported === false ? "unsupported" : "", sentence);
  node.append(text);
  if (supported === false) node.append(" ", made("span", "badge", "⚠ no support"));
  for (const [index, number] of citations.entries()) {
    const passage = passages.get(number);
    if (!passage) continue;
    const how = SUPPORT.get(support[index]);
    const cite = button(`[${number}]`, () => open(passage, place, support[index]), `Passage ${number}, ${passage.document}: ${how}`);
    cite.className = support[index] === false ? "cite weak" : "cite";
    node.append(" ", cite);
  }
  return node;
}

// What a passage does for a sentence that cites it; null where the sentence has no content words.
const SUPPORT = new Map([[true, "supports this sentence"], [false, "does not support this sentence"], [null, "this sentence states nothing to support"]]);

function open({ root, marks, parts, number }, sentence, support) {
  root.open = true;
  for (const { node, of } of marks) node.className = of.has(sentence) ? "now" : "";
  root.querySelector("summary").focus();
  const mark = marks.find(({ of }) => of.has(sentence));
  if (mark && mark.node.scrollIntoView) mark.node.scrollIntoView({ block: "nearest" });
  const supporting = parts.filter(({ of }) => of === sentence).map(({ text }) => text).join(" … ");
  const without = support ? "supports this sentence by its title" : SUPPORT.get(support);
  announce(`Passage ${number}: ${supporting || `${without}.`}`);
}

// A passage with the parts marked that support sentences. Parts of several sentences may overlap, or be the same: a mark
// goes from one end of a part to the next, and knows all sentences that it supports.
function shownPassage({ number, document: id, title, text }, sentences) {
  const characters = Array.from(text); // places count characters, not UTF-16 units
  const between = (start, end) => characters.slice(start, end).join("");
  const parts = sentences.flatMap(({ spans }, of) => spans.filter((span) => span.passage === number)
    .map(({ start, end }) => ({ of, start, end, text: between(start, end) })));
  const ends = new Set([0, characters.length, ...parts.flatMap(({ start, end }) => [start, end])]);
  const places = [...ends].sort((one, other) => one - other);
  const body = written("p", "text", "");
  const marks = [];
  for (let place = 1; place < places.length; place += 1) {
    const [from, to] = [places[place - 1], places[place]];
    const of = new Set(parts.filter(({ start, end }) => start <= from && to <= end).map((part) => part.of));
    const piece = between(from, to);
    if (of.size) marks.push({ node: made("mark", "", piece), of });
    body.append(of.size ? marks[marks.length - 1].node : piece);
  }
  const root = details("passage", made("span", "", `[${number}] `, made("code", "", id), ` ${title}`), body);
  return { root, marks, parts, number, document: id };
}
