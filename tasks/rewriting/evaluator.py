"""Rewrites are scored by what they retrieve; likeness to the reference stands beside that, never for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.eval.evaluation import Evaluation
from searchlora.eval.measures import corpus_bleu, retrieval_notes, retrieval_values, rouge_l, with_relevant
from searchlora.outputs import InvalidOutput
from searchlora.records import Record
from searchlora.task import EvaluationInput

MEASURES = ("nDCG@10", "MRR@10", "Recall@10", "Recall@100")
_WORD = re.compile(r"\w+")


def evaluate(inputs: EvaluationInput) -> Evaluation:
    """Measure rewrites, one per record, over all records; in place of an invalid one the query as typed counts.

    Measures:
        nDCG@10, MRR@10, Recall@10, Recall@100: of the run retrieved with the rewrites, by ir-measures, where there are
            a run and judgments. nDCG@10 is the headline. Where `relevant` is 2, MRR(rel=2)@10 and so on.
        ROUGE-L: F-measure against the reference, of the rows that have one (Lin 2004), the headline without a run.
        left alone: of the records that need no rewrite, 1 where the query came out as it went in, but for case,
            punctuation and white space.
        protected words kept: of the records with protected words, the share of these that the rewrite holds. Protected
            are the record's own (brands of a list, see the builder's option) and, where there is a reference, numbers
            and article codes of the query that the reference keeps too.
        invalid: 1 where the output did not parse.
        BLEU (total): of all rewrites against the references, by sacrebleu.
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
        notes = ("There was no run or no judgment, so this is likeness to the reference, not whether a rewrite finds.",)
    totals = {}
    if referenced := [place for place, record in enumerate(records) if "rewrite" in record]:
        ours = [texts[place] for place in referenced]
        references = [str(records[place]["rewrite"]) for place in referenced]
        values["ROUGE-L"] = dict(zip([ids[place] for place in referenced], rouge_l(ours, references), strict=True))
        totals["BLEU"] = corpus_bleu(ours, references)
    values["left alone"] = {
        id_: float(_words(text) == _words(record["query"]))
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
        totals=totals,
        tested=measures if MEASURES[0] in values else ("ROUGE-L",),
        notes=notes,
    )


def _slices(records: Sequence[Record]) -> Mapping[str, Mapping[str, str]]:
    slices: dict[str, dict[str, str]] = {}
    for record in records:
        for name, value in _places(record).items():
            slices.setdefault(name, {})[str(record["id"])] = value
    return slices


def _places(record: Record) -> dict[str, str]:
    places = {}
    if "needs_rewrite" in record:
        places["needs a rewrite"] = "yes" if record["needs_rewrite"] else "no"
    if "turn" in record:
        places["turn"] = str(record["turn"]) if record["turn"] < 6 else "6 and later"
    if "kind" in record:
        places["kind"] = str(record["kind"])
    return places


def _protected(record: Record) -> list[str]:
    """The record's own protected words, and words with a digit that stand in query and reference alike."""
    reference = set(_words(record.get("rewrite", "")))
    codes = [word for word in _words(record["query"]) if word in reference and any(map(str.isdigit, word))]
    return list(dict.fromkeys([*map(str.lower, record.get("protected", [])), *codes]))


def _kept(protected: Sequence[str], text: str) -> float:
    """The share of protected words (or runs of words) that stand in a text, whatever their case."""
    words = f" {' '.join(_words(text))} "
    return sum(f" {' '.join(_words(each))} " in words for each in protected) / len(protected)


def _words(text: Any) -> list[str]:
    return _WORD.findall(str(text).lower())
