"""Evaluation of embeddings by retrieval and by classification, over all rows."""

from __future__ import annotations

import pytest
from sklearn.metrics import accuracy_score, f1_score

from searchlora.eval.measures import retrieval_values
from searchlora.outputs import InvalidOutput
from searchlora.task import EvaluationInput, load_encoder_task

TASK = load_encoder_task("embedding")
FOUND = [
    {"id": f"q{n}", "group": f"g{n // 2}", "query": "x", "positives": ["y"], "kind": "ab"[n % 2]} for n in range(4)
]
CLASSES = [{"id": f"t{n}", "group": f"t{n}", "query": "x", "label": "abc"[n % 3]} for n in range(9)]


def test_retrieval_is_evaluated_over_every_judged_record():
    qrels = {"q0": {"d": 1}, "q1": {"e": 2, "d": 1}, "q2": {"d": 1}, "other": {"d": 1}}
    run = {"q0": {"d": 1.0, "e": 0.5}, "q1": {"d": 0.4, "e": 0.3}, "q3": {"d": 1.0}}
    found = TASK.evaluate(EvaluationInput(FOUND, [None] * 4, run=run, qrels=qrels))
    own = {topic: grades for topic, grades in qrels.items() if topic != "other"}
    assert found.headline == "nDCG@10"
    assert found.values == retrieval_values(run, own, ["nDCG@10", "MRR@10", "Recall@10", "Recall@100"])
    assert found.values["nDCG@10"]["q2"] == 0.0
    assert (found.clusters["q1"], found.slices["kind"]["q1"]) == ("g0", "b")
    assert (
        TASK.evaluate(EvaluationInput(FOUND, [None] * 4, run=run, qrels=qrels, relevant=2)).values["MRR(rel=2)@10"][
            "q1"
        ]
        == 0.5
    )
    assert "nothing is measured" in TASK.evaluate(EvaluationInput(FOUND, [None] * 4)).notes[0]


def test_classification_measures_equal_scikit_learn():
    outputs = ["a", "b", "c", "b", "b", "z", "a", "c", InvalidOutput("?", "no class")]
    gold, predicted = [record["label"] for record in CLASSES], [o if isinstance(o, str) else "invalid" for o in outputs]
    found = TASK.evaluate(EvaluationInput(CLASSES, outputs))
    assert found.headline == "macro-F1"
    assert found.mean("accuracy") == accuracy_score(gold, predicted)
    wanted = f1_score(gold, predicted, average="macro", labels=["a", "b", "c"], zero_division=0)
    assert found.aggregates["macro-F1"].value == pytest.approx(wanted)
    assert found.confusions["Classes"].counts[0] == (2, 1, 0, 0, 0)


def test_the_most_frequent_class_comes_from_training(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"label": "b"}\n{"label": "a"}\n{"label": "b"}\n')
    assert TASK.baselines(CLASSES, tmp_path) == {"commonest class": ["b"] * 9}
    assert TASK.baselines(FOUND, tmp_path) == {}
