"""Compared systems: judges by their agreement with people, rerankings of BM25, and the order of real systems."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.judges import ADAPTER, ZERO_SHOT, judgment_task, labels, over_encoder, tuned_and_not, with_measures
from benchmarks.judgment_trecdl19.answering import ENCODER, Answers
from benchmarks.judgment_trecdl19.correlation import SystemOrder, order_of_runs
from benchmarks.judgment_trecdl19.pools import BM25, Pool, training_set, validation_topics
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation, evaluate_run
from searchlora.eval.trec import Qrels, Run
from searchlora.outputs import Grade
from searchlora.records import Hit
from searchlora.systems.encoder_baseline import FrozenEncoder
from searchlora.task import EvaluationInput
from searchlora.tasks.judgment.baselines import fitted_baselines
from searchlora.tasks.judgment.evaluator import ALPHA, BIAS, BINARY, CALIBRATION, KAPPA, MAE, QUADRATIC
from searchlora.tasks.judgment.reranking import EXPECTED_GRADE, LOG_ODDS, expected_grade
from searchlora.tasks.judgment.task import FIRST_STAGE, RANK_BY
from searchlora.tasks.judgment.tuning import best_thresholds, grade_of

FUSED = "adapter and BM25, weighted"
ENCODED, BOTH, FUSED_ENCODER = "MiniLM", "adapter and MiniLM", "adapter and MiniLM, weighted"
MEASURES = (KAPPA, BINARY, QUADRATIC, ALPHA, MAE, BIAS)

#: Scores of the judge to rank by, and weights of BM25 or of the encoder among which the validation queries choose.
SCORES = (EXPECTED_GRADE, LOG_ODDS)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)

OTHER = "adapter, other score"


def judges(test: Pool, pool: Pool, answers: Answers, work: Path) -> dict[str, dict[str, Grade]]:
    """System -> id of a graded pair of the test pool -> grade.

    Adapter and base are tuned on the validation queries; the baselines are fitted on its training rows, with
    BM25 scores over the passages of both pools.
    """
    scale = judgment_task().grades
    records = [test.record(pair) for pair in test.judged()]
    training = training_set(pool, work / "training")
    held_out = [pool.record(pair) for pair in pool.judged(validation_topics(pool))]
    found: dict[str, dict[str, Grade]] = {
        name: {record["id"]: grade for record, grade in zip(records, grades, strict=True)}
        for name, grades in fitted_baselines(records, training.records("train"), scale).items()
    }
    boosting = over_encoder(records, training.records("train"), FrozenEncoder(ENCODER))
    found |= {name: grades for name, grades in boosting.items() if "cosine" not in name}  # `ENCODED` is the cosine
    found |= tuned_and_not(records, answers.adapter, answers.base, answers.tuned, held_out)
    found[ENCODED] = _by_threshold(answers.cosines, records, held_out)
    found[BOTH] = _by_threshold(_summed(answers, held_out), records, held_out)
    return found


def _by_threshold(
    scores: Mapping[str, float], records: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]
) -> dict[str, Grade]:
    """The grades of records by their scores, with thresholds fitted on held-out records."""
    scale, fitted = judgment_task().grades, [scores[record["id"]] for record in held_out]
    gold, groups = [int(record["grade"]) for record in held_out], [str(record["group"]) for record in held_out]
    thresholds = best_thresholds(fitted, gold, groups, scale)
    return {record["id"]: Grade(grade_of(scores[record["id"]], thresholds, scale)) for record in records}


def _summed(answers: Answers, held_out: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The sum of the adapter's expected grade and the cosine, each divided by its deviation over held-out records."""
    scale = judgment_task().grades
    expected = {id_: expected_grade(output, scale) for id_, output in answers.adapter.items()}
    of_grades, of_cosines = (
        statistics.pstdev(scores[record["id"]] for record in held_out) or 1.0 for scores in (expected, answers.cosines)
    )
    return {id_: grade / of_grades + answers.cosines[id_] / of_cosines for id_, grade in expected.items()}


def agreement(test: Pool, systems: Mapping[str, Mapping[str, Grade]]) -> tuple[Comparison, dict[str, Evaluation]]:
    """The adapter compared with each other judge, and all evaluations."""
    records = [test.record(pair) for pair in test.judged()]
    found = {
        name: judgment_task().evaluate(EvaluationInput(records, [grades[str(record["id"])] for record in records]))
        for name, grades in systems.items()
    }
    return compare(
        {name: with_measures(outputs, MEASURES) for name, outputs in found.items()}, candidate=ADAPTER
    ), found


def runs(test: Pool, pool: Pool, answers: Answers) -> tuple[dict[str, Run], dict[str, Any]]:
    """BM25's 100 passages in its order and in those of the judges, and how score and weights were chosen."""
    held_out = validation_topics(pool)
    by_score = {by: _ndcg(fused(pool, held_out, answers.adapter, 0.0, by=by), pool.all_qrels) for by in SCORES}
    by = max(SCORES, key=by_score.__getitem__)
    (other,) = set(SCORES) - {by}
    best, chosen = dict[str, float](), dict[str, dict[float, float]]()
    for name, scores in (("BM25", None), (ENCODED, answers.cosines)):
        tried = {weight: fused(pool, held_out, answers.adapter, weight, scores, by=by) for weight in WEIGHTS}
        chosen[name] = values = {weight: _ndcg(run, pool.all_qrels) for weight, run in tried.items()}
        best[name] = max(WEIGHTS, key=lambda weight: (values[weight], -weight))
    topics = list(test.queries)
    found: dict[str, Run] = {
        "BM25": {topic: test.runs[BM25][topic] for topic in topics},
        ZERO_SHOT: fused(test, topics, answers.base, 0.0),
        ADAPTER: fused(test, topics, answers.adapter, 0.0, by=by),
        OTHER: fused(test, topics, answers.adapter, 0.0, by=other),
        FUSED: fused(test, topics, answers.adapter, best["BM25"], by=by),
        ENCODED: {
            topic: {document: answers.cosines[f"{topic} {document}"] for _, document in test.retrieved([topic])}
            for topic in topics
        },
        FUSED_ENCODER: fused(test, topics, answers.adapter, best[ENCODED], answers.cosines, by=by),
    }
    weights = {
        f"weight of {name}": {
            "chosen": best[name],
            "validation nDCG@10": {f"{weight:g}": value for weight, value in values.items()},
        }
        for name, values in chosen.items()
    }
    return found, {"score": {"chosen": by, "validation nDCG@10": by_score}, **weights}


def fused(
    pool: Pool,
    topics: Sequence[str],
    outputs: Mapping[str, Grade],
    weight: float,
    scores: Mapping[str, float] | None = None,
    *,
    by: str = EXPECTED_GRADE,
) -> dict[str, dict[str, float]]:
    """BM25's passages by the task's reranking stage: the judge's score plus a weighted first-stage score.

    Args:
        scores: Id of a pair -> first-stage score; None: that of BM25.
        by: The judge's score, of `SCORES`.
    """
    reranker = judgment_task().bound(judgment_task().settings, {FIRST_STAGE: weight, RANK_BY: by})
    found = {}
    for topic in topics:
        documents = [document for _, document in pool.retrieved([topic])]
        hits = [
            Hit(document, pool.runs[BM25][topic][document] if scores is None else scores[f"{topic} {document}"])
            for document in documents
        ]
        passages = [{"id": hit.document, "text": pool.passages[hit.document], "score": hit.score} for hit in hits]
        search = {"id": topic, "query": pool.queries[topic], "hits": hits, "passages": passages}
        changed = reranker.updates(search, [outputs[f"{topic} {document}"] for document in documents])
        found[topic] = {hit.document: hit.score for hit in changed["hits"]}
    return found


def _ndcg(run: Run, qrels: Qrels) -> float:
    values = evaluate_run(run, {topic: qrels[topic] for topic in run}, measures=("nDCG@10",)).values["nDCG@10"]
    return math.fsum(values.values()) / len(values)


def reranking(found: Mapping[str, Run], qrels: Qrels) -> Comparison:
    """Compare the rerankings by nDCG@10; the adapter with each other one."""
    evaluations = {
        name: evaluate_run(run, qrels, measures=("nDCG@10", "MRR@10"), relevant=2) for name, run in found.items()
    }
    return compare(evaluations, candidate=ADAPTER, measures=("nDCG@10", "MRR(rel=2)@10"))


def orders(test: Pool, systems: Mapping[str, Mapping[str, Grade]]) -> dict[str, SystemOrder]:
    """Judge -> agreement of the order of the pool's real systems by its grades with the order by human grades."""
    return {name: order_of_runs(test.qrels, labels(grades), test.runs) for name, grades in systems.items()}


def calibration(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """Expected calibration error of the probability of relevance, for judges with probabilities."""
    return {
        name: evaluation.aggregates[CALIBRATION].value
        for name, evaluation in evaluations.items()
        if CALIBRATION in evaluation.aggregates
    }
