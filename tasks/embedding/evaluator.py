"""Evaluation of an encoder by retrieval, or by classification."""

from __future__ import annotations

from searchlora.eval.aggregate import macro_f1
from searchlora.eval.evaluation import Evaluation, confusion_matrix
from searchlora.eval.measures import RETRIEVAL_MEASURES, retrieval_notes, retrieval_values, with_relevant
from searchlora.outputs import InvalidOutput
from searchlora.task import EvaluationInput


def evaluate(inputs: EvaluationInput) -> Evaluation:
    """Evaluate a run (records without a label) or predicted classes (records with a label).

    Retrieval:
        nDCG@10 (headline), MRR@10, Recall@10, Recall@100: of the run, by ir-measures, over every record with a
            judgment. If `relevant` is 2, the names are MRR(rel=2)@10 and so on.
    Classification:
        macro-F1 (headline): unweighted mean of the F1 of each class in the records.
        accuracy: 1 where the class is right.

    Args:
        inputs: For classification, outputs are class names or `InvalidOutput`; for retrieval they are not used.
    """
    if inputs.records and "label" in inputs.records[0]:
        return _classes(inputs)
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


def _classes(inputs: EvaluationInput) -> Evaluation:
    gold = {str(record["id"]): str(record["label"]) for record in inputs.records}
    predicted = {
        id_: None if isinstance(output, InvalidOutput) else str(output)
        for id_, output in zip(gold, inputs.outputs, strict=True)
    }
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
