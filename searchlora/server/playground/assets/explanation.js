// Why a document has its rank, or is missing: the stages of a search with its rank after each.

import { announce, made, rounded, shown, table } from "./elements.js";
import { attempt, send } from "./requests.js";

// `atHit`: the document is a hit, at which the explanation opens.
export const explain = (side, documentId, atHit = false) => attempt(async () => {
  if (!documentId || !side.query) return;
  if (side.explaining) side.explaining.abort();
  const { signal } = side.explaining = new AbortController();
  const box = side.explanation;
  side.explained = atHit ? documentId : null;
  side.placeExplanation();
  const heading = made("h3", "", `Document ${documentId}`);
  box.replaceChildren(heading, made("p", "", "Explaining …"));
  box.hidden = false;
  announce(`Explaining ${documentId}.`);
  const body = { ...side.searched, query: side.query, fields: side.fields, explain: documentId };
  try {
    const explanation = await (await send("POST", "/v1/search", body, signal)).json();
    signal.throwIfAborted();
    box.replaceChildren(heading, made("p", "verdict", `${explanation.verdict}.`), table(["Stage", "Rank", "Hits", "Why"], explanation.stages.map(row)));
    box.focus();
    announce(explanation.verdict);
  } catch (error) {
    if (!signal.aborted) box.hidden = true; // else it is that of a later request
    throw error;
  }
});

function row({ stage, rank, hits, notes, retrieved, wrote }) {
  const why = [...notes, ...terms(retrieved), ...Object.entries(wrote).map((entry) => entry.map(shown).join(": "))];
  return [stage, rank === null ? null : String(rank), hits === null ? null : String(hits), why.join("; ")];
}

function terms(retrieved) {
  if (!retrieved) return [];
  if (retrieved.failed) return [`${retrieved.retriever} failed: ${retrieved.failed}`];
  const words = Object.entries(retrieved.terms).map(([word, score]) => (score ? `${word} adds ${rounded(score)}` : `${word} does not occur`));
  const beyond = retrieved.rank !== null && retrieved.rank > retrieved.k ? [`${retrieved.retriever}: rank ${retrieved.rank}`] : [];
  return [...beyond, ...words, ...retrieved.parts.flatMap(terms)];
}
