"""Compared systems: judges by their agreement with people, and rerankings of BM25 passages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.judgment_trecdl19.answering import Answers
from benchmarks.judgment_trecdl19.folds import Topics
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation, evaluate_run
from searchlora.eval.trec import Qrels, Run, ranked
from searchlora.outputs import Grade
from searchlora.records import Hit, Record
from searchlora.task import EvaluationInput, load_task
from searchlora.tasks.judgment import JudgmentTask
from searchlora.tasks.judgment.baselines import BM25, COMMONEST, fitted_baselines
from searchlora.tasks.judgment.evaluator import ALPHA, BIAS, BINARY, CALIBRATION, KAPPA, MAE, QUADRATIC
from searchlora.tasks.judgment.tuning import tuned, with_tuning

ADAPTER, ADAPTER_TUNED = "adapter, likeliest grade", "adapter"
ZERO_SHOT, ZERO_SHOT_TUNED = "base zero-shot", "base zero-shot, tuned"
MEASURES = (KAPPA, BINARY, QUADRATIC, ALPHA, MAE, BIAS)

#: Constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009).
_CONSTANT = 60


def task() -> JudgmentTask:
    """The task with default settings."""
    found = load_task("judgment")
    assert isinstance(found, JudgmentTask)
    return found


def judges(topics: Topics, answers: Answers) -> dict[str, dict[str, Grade]]:
    """System -> id of a graded pair -> grade by a model that was not trained on its fold.

    The adapter is tuned on the validation queries of its fold. The base is tuned, and the baselines are fitted, on all
    graded pairs of the other folds. BM25 scores are those of the retrieval over all of MS MARCO.
    """
    scale = task().grades
    bm25 = {f"{pair['topic']} {pair['document']}": pair["score"] for pairs in topics.pairs.values() for pair in pairs}
    found: dict[str, dict[str, Grade]] = {
        name: {} for name in (COMMONEST, BM25, ZERO_SHOT, ZERO_SHOT_TUNED, ADAPTER, ADAPTER_TUNED)
    }
    for number, test in enumerate(topics.folds()):
        records = topics.records(test)
        others = topics.records([topic for topic in topics.pairs if topic not in test])
        values = tuned(others, [answers.base[each["id"]] for each in others], scale)
        for name, grades in fitted_baselines(
            records, others, scale, score=lambda rows: [bm25[each["id"]] for each in rows]
        ).items():
            found[name] |= {record["id"]: grade for record, grade in zip(records, grades, strict=True)}
        for record in records:
            id_ = record["id"]
            found[ZERO_SHOT][id_] = answers.base[id_]
            found[ZERO_SHOT_TUNED][id_] = with_tuning(answers.base[id_], values, scale)
            found[ADAPTER][id_] = answers.adapter[id_]
            found[ADAPTER_TUNED][id_] = with_tuning(answers.adapter[id_], answers.tuned[number], scale)
    return found


def agreement(topics: Topics, systems: Mapping[str, Mapping[str, Grade]]) -> tuple[Comparison, dict[str, Evaluation]]:
    """Agreement of the judges with people over all graded pairs; the adapter is compared with each other judge."""
    records: list[Record] = list(topics.records(list(topics.pairs)))
    found = {
        name: task().evaluate(EvaluationInput(records, [grades[str(record["id"])] for record in records]))
        for name, grades in systems.items()
    }
    return compare({name: _shown(each) for name, each in found.items()}, candidate=ADAPTER_TUNED), found


def runs(topics: Topics, answers: Answers) -> dict[str, Run]:
    """The 100 BM25 passages of each query in BM25 order, and in the order of expected grades."""
    bm25 = {topic: {pair["document"]: pair["score"] for pair in pairs} for topic, pairs in topics.pairs.items()}
    adapter, base = (_reranked(topics, outputs) for outputs in (answers.adapter, answers.base))
    return {"BM25": bm25, "base zero-shot": base, "adapter": adapter, "BM25 and adapter, fused": _fused(bm25, adapter)}


def reranking(found: Mapping[str, Run], qrels: Qrels) -> Comparison:
    """Compare the rerankings by nDCG@10; the adapter with each other one."""
    evaluations = {
        name: evaluate_run(run, qrels, measures=("nDCG@10", "MRR@10"), relevant=2) for name, run in found.items()
    }
    return compare(evaluations, candidate="adapter", measures=("nDCG@10", "MRR(rel=2)@10"))


def labels(systems: Mapping[str, Mapping[str, Grade]], name: str) -> dict[str, dict[str, int]]:
    """The grades of a judge as qrels."""
    found: dict[str, dict[str, int]] = {}
    for id_, grade in systems[name].items():
        topic, document = id_.split()
        found.setdefault(topic, {})[document] = grade.value
    return found


def calibration(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """Expected calibration error of the probability of relevance, for judges with probabilities."""
    return {
        name: each.aggregates[CALIBRATION].value for name, each in evaluations.items() if CALIBRATION in each.aggregates
    }


def _shown(evaluation: Evaluation) -> Evaluation:
    """The evaluation with the measures of the tables only."""
    return replace(
        evaluation,
        values={name: evaluation.values[name] for name in MEASURES if name in evaluation.values},
        aggregates={name: evaluation.aggregates[name] for name in MEASURES if name in evaluation.aggregates},
    )


def _reranked(topics: Topics, outputs: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Rerank the BM25 hits with the stage of the task."""
    found = {}
    for topic, pairs in topics.pairs.items():
        passages = [{"id": pair["document"], "text": pair["passage"], "score": pair["score"]} for pair in pairs]
        hits = [Hit(pair["document"], pair["score"]) for pair in pairs]
        search = {"id": topic, "query": pairs[0]["query"], "hits": hits, "passages": passages}
        changed = task().updates(search, [outputs[record["id"]] for record in task().records_from(search)])
        found[topic] = {hit.document: hit.score for hit in changed["hits"]}
    return found


def _fused(*parts: Run) -> dict[str, dict[str, float]]:
    fused: dict[str, dict[str, float]] = {}
    for part in parts:
        for topic, scores in part.items():
            row = fused.setdefault(topic, {})
            for rank, document in enumerate(ranked(scores), start=1):
                row[document] = row.get(document, 0.0) + 1 / (_CONSTANT + rank)
    return fused
