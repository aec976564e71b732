"""The embedding task: train an encoder for dense retrieval or for classification."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.aggregate import macro_f1
from searchlora.eval.evaluation import Evaluation, confusion_matrix
from searchlora.eval.measures import RETRIEVAL_MEASURES, retrieval_notes, retrieval_values, with_relevant
from searchlora.records import Options, Record
from searchlora.task import EncoderTask, EvaluationInput
from searchlora.tasks.embedding.dataset import FORMATS, check_kind

#: Name of the baseline of labelled records.
COMMONEST = "commonest class"


class EmbeddingTask(EncoderTask):
    """Texts -> vectors, so that queries are close to relevant texts, or texts of one class close to each other."""

    name = "embedding"
    version = 1
    formats = FORMATS

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        """No settings. Raises `DataError` for a mix of labelled records and records with positives."""
        del options
        check_kind(records)
        return self.default_settings

    def query(self, record: Record) -> str:
        return str(record["query"])

    def positives(self, record: Record) -> Sequence[str]:
        return tuple(record.get("positives", ()))

    def negatives(self, record: Record) -> Sequence[str]:
        return tuple(record.get("negatives", ()))

    def label(self, record: Record) -> str | None:
        return record.get("label")

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        """Evaluate a run (records without a label) or predicted classes (records with a label).

        Retrieval:
            nDCG@10 (headline), MRR@10, Recall@10, Recall@100: of the run, by ir-measures, over every record with a
                judgment. If `relevant` is 2, the names are MRR(rel=2)@10 and so on.
        Classification:
            macro-F1 (headline): unweighted mean of the F1 of each class in the records.
            accuracy: 1 where the class is right.
        """
        labelled = inputs.records and "label" in inputs.records[0]
        return _evaluate_classes(inputs) if labelled else _evaluate_run(inputs)

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[Any]]:
        """`commonest class` of the training split, for labelled records; BM25 is added by the command `evaluate`."""
        if not records or "label" not in records[0]:
            return {}
        with (dataset / "train.jsonl").open(encoding="utf-8") as lines:
            counts = Counter(json.loads(line)["label"] for line in lines)
        if not counts:
            return {}
        commonest = min(counts, key=lambda label: (-counts[label], label))
        return {COMMONEST: [commonest] * len(records)}

    def learned_baselines(self, records: Sequence[Record]) -> frozenset[str]:
        return frozenset({COMMONEST} if records and "label" in records[0] else ())


def _evaluate_run(inputs: EvaluationInput) -> Evaluation:
    clusters, run = inputs.clusters, inputs.run
    own = {topic: grades for topic, grades in (inputs.qrels or {}).items() if topic in clusters}
    if run is None or not own:
        return Evaluation("nDCG@10", {}, clusters, notes=("Without a run and judgments nothing is measured.",))
    names = [with_relevant(name, inputs.relevant) for name in RETRIEVAL_MEASURES]
    return Evaluation(
        headline=names[0],
        values=retrieval_values(run, own, names),
        clusters=clusters,
        slices=inputs.slices("kind"),
        tested=tuple(names),
        notes=retrieval_notes(run, own),
    )


def _evaluate_classes(inputs: EvaluationInput) -> Evaluation:
    gold = {str(record["id"]): str(record["label"]) for record in inputs.records}
    predicted = {id_: None if output is None else str(output) for id_, output in inputs.valid.items()}
    labels = sorted({*gold.values(), *(label for label in predicted.values() if label is not None)})
    return Evaluation(
        headline="macro-F1",
        values={"accuracy": {id_: float(predicted[id_] == label) for id_, label in gold.items()}},
        clusters=inputs.clusters,
        slices=inputs.slices("kind"),
        aggregates={"macro-F1": macro_f1(gold, predicted, labels)},
        confusions={"Classes": confusion_matrix(gold, predicted, labels)},
        tested=("macro-F1", "accuracy"),
    )
