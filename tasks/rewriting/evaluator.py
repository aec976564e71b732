"""Evaluation of rewrites by retrieval; similarity to a reference rewrite is reported beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from searchlora.eval.aggregate import corpus_bleu
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.measures import retrieval_notes, retrieval_values, rouge_l, with_relevant
from searchlora.eval.text_identity import words
from searchlora.outputs import InvalidOutput
from searchlora.records import Record
from searchlora.task import EvaluationInput

MEASURES = ("nDCG@10", "MRR@10", "Recall@10", "Recall@100")


def evaluate(inputs: EvaluationInput) -> Evaluation:
    """Evaluate rewrites over all records; the original query replaces an invalid output.

    Measures:
        nDCG@10 (headline), MRR@10, Recall@10, Recall@100: of the run retrieved with the rewrites, by ir-measures, where
            there are a run and judgments. If `relevant` is 2, the names are MRR(rel=2)@10 and so on.
        ROUGE-L: F-measure against the reference rewrite (Lin 2004); the headline without a run.
        left alone: 1 where a query that needs no rewrite is unchanged up to case, punctuation and white space.
        protected words kept: the share of a record's protected words that the rewrite contains. Protected are the
            record's own (such as brands from the builder's option) and the numbers and article codes that query and
            reference share.
        invalid: 1 where the output could not be parsed.
        BLEU: corpus BLEU against the reference rewrites, as sacrebleu computes it; an aggregate.
    """
    records, ids, run = inputs.records, inputs.ids, inputs.run
    texts = [
        str(record["query"]) if isinstance(output, InvalidOutput) else str(output)
        for record, output in zip(records, inputs.outputs, strict=True)
    ]
    values: dict[str, dict[str, float]] = {}
    notes: tuple[str, ...] = ()
    qrels = inputs.qrels or {}
    own = {topic: qrels[topic] for topic in ids if topic in qrels}
    measures = tuple(with_relevant(name, inputs.relevant) for name in MEASURES)
    if run is not None and own:
        values.update(retrieval_values(run, own, measures))
        notes = retrieval_notes(run, own)
    else:
        notes = ("Without a run and judgments only similarity to the reference is measured, not retrieval.",)
    aggregates = {}
    if referenced := [row for row, record in enumerate(records) if "rewrite" in record]:
        rewrites = [texts[row] for row in referenced]
        references = [str(records[row]["rewrite"]) for row in referenced]
        values["ROUGE-L"] = dict(zip([ids[row] for row in referenced], rouge_l(rewrites, references), strict=True))
        by_id = (dict(zip([ids[row] for row in referenced], texts, strict=True)) for texts in (rewrites, references))
        aggregates["BLEU"] = corpus_bleu(*by_id)
    values["left alone"] = {
        id_: float(words(text) == words(record["query"]))
        for id_, record, text in zip(ids, records, texts, strict=True)
        if record.get("needs_rewrite") is False
    }
    values["protected words kept"] = {
        id_: _kept(protected, text)
        for id_, record, text in zip(ids, records, texts, strict=True)
        if (protected := _protected(record))
    }
    values["invalid"] = {id_: float(id_ in inputs.invalid) for id_ in ids}
    return Evaluation(
        headline=MEASURES[0] if MEASURES[0] in values else "ROUGE-L",
        values={measure: rows for measure, rows in values.items() if rows},
        clusters=inputs.clusters,
        slices=_slices(records),
        invalid=inputs.invalid,
        aggregates=aggregates,
        tested=measures if MEASURES[0] in values else ("ROUGE-L",),
        notes=notes,
        less_is_better=("invalid",),
    )


def _slices(records: Sequence[Record]) -> Mapping[str, Mapping[str, str]]:
    slices: dict[str, dict[str, str]] = {}
    for record in records:
        for name, value in _slice_values(record).items():
            slices.setdefault(name, {})[str(record["id"])] = value
    return slices


def _slice_values(record: Record) -> dict[str, str]:
    values = {}
    if "needs_rewrite" in record:
        values["needs a rewrite"] = "yes" if record["needs_rewrite"] else "no"
    if "turn" in record:
        values["turn"] = str(record["turn"]) if record["turn"] < 6 else "6 and later"
    if "kind" in record:
        values["kind"] = str(record["kind"])
    return values


def _protected(record: Record) -> list[str]:
    """The record's protected words, and the words with a digit that query and reference share."""
    reference = set(words(record.get("rewrite", "")))
    codes = [word for word in words(record["query"]) if word in reference and any(map(str.isdigit, word))]
    return list(dict.fromkeys([*map(str.lower, record.get("protected", [])), *codes]))


def _kept(protected: Sequence[str], text: str) -> float:
    """The share of protected words or phrases that a text contains, ignoring case."""
    padded = f" {' '.join(words(text))} "
    return sum(f" {' '.join(words(phrase))} " in padded for phrase in protected) / len(protected)
