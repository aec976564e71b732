"""Vectors are measured by what they find, or by the classes that they tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.eval.evaluation import Evaluation
from searchlora.eval.labels import confusion_of
from searchlora.eval.measures import RETRIEVAL_MEASURES, retrieval_notes, retrieval_values, with_relevant
from searchlora.eval.pooled import macro_f1
from searchlora.eval.trec import Qrels, Run
from searchlora.outputs import InvalidOutput
from searchlora.records import Record


def evaluate(
    records: Sequence[Record],
    outputs: Sequence[Any | InvalidOutput],
    *,
    run: Run | None = None,
    qrels: Qrels | None = None,
    relevant: int = 1,
) -> Evaluation:
    """Measure runs (records without a label) or predicted classes (records with one).

    Measures:
        nDCG@10 (headline), MRR@10, Recall@10, Recall@100: of the run, by ir-measures, over every record with a
            judgment. Where `relevant` is 2, MRR(rel=2)@10 and so on.
        macro-F1 (headline): the mean F1 of the classes that stand in the records, each of the same weight.
        accuracy: 1 where the class is right.
    """
    clusters = {str(record["id"]): str(record["group"]) for record in records}
    slices = {"kind": {str(record["id"]): str(record["kind"]) for record in records if "kind" in record}}
    sliced = {name: rows for name, rows in slices.items() if rows}
    if records and "label" in records[0]:
        return _classes(records, outputs, clusters, sliced)
    own = {topic: qrels[topic] for topic in clusters if topic in qrels} if qrels else {}
    if run is None or not own:
        return Evaluation("nDCG@10", {}, clusters, notes=("There was no run or no judgment, so nothing is measured.",))
    names = [with_relevant(name, relevant) for name in RETRIEVAL_MEASURES]
    return Evaluation(
        headline=names[0],
        values=retrieval_values(run, own, names),
        clusters=clusters,
        slices=sliced,
        tested=tuple(names),
        notes=retrieval_notes(run, own),
    )


def _classes(
    records: Sequence[Record],
    outputs: Sequence[Any | InvalidOutput],
    clusters: Mapping[str, str],
    slices: Mapping[str, Mapping[str, str]],
) -> Evaluation:
    gold = {str(record["id"]): str(record["label"]) for record in records}
    said = {
        row: None if isinstance(output, InvalidOutput) else str(output)
        for row, output in zip(gold, outputs, strict=True)
    }
    labels = sorted({*gold.values(), *(label for label in said.values() if label is not None)})
    return Evaluation(
        headline="macro-F1",
        values={"accuracy": {row: float(said[row] == label) for row, label in gold.items()}},
        clusters=clusters,
        slices=slices,
        pooled={"macro-F1": macro_f1(gold, said, labels)},
        confusions={"Classes": confusion_of(gold, said, labels)},
        tested=("macro-F1", "accuracy"),
    )
