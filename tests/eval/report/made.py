"""Synthetic evaluations that use every section of a report, generated from a seed."""

from __future__ import annotations

import random
from dataclasses import replace

from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation, evaluate_run

DOCUMENTS = [f"d{number}" for number in range(40)]


def topics(count: int = 40) -> dict[str, dict[str, object]]:
    kinds = ("short", "long", "odd")
    return {f"q{number}": {"query": f"query number {number}", "kind": kinds[number % 3]} for number in range(count)}


def qrels(count: int = 40) -> dict[str, dict[str, int]]:
    rng = random.Random(5)
    return {topic: {doc: rng.choice((0, 0, 1, 2)) for doc in rng.sample(DOCUMENTS, 20)} for topic in topics(count)}


def run(skill: float, seed: int, count: int = 40) -> dict[str, dict[str, float]]:
    rng = random.Random(seed)
    return {
        topic: {doc: skill * grades.get(doc, 0) + rng.gauss(0, 1) for doc in rng.sample(DOCUMENTS, 15)}
        for topic, grades in qrels(count).items()
    }


def evaluation(skill: float, seed: int, count: int = 40, **more: object) -> Evaluation:
    found = evaluate_run(
        run(skill, seed, count), qrels(count), measures=("nDCG@10", "MRR@10"), topics=topics(count), slices=("kind",),
        costs={"ms per query": 10.0 * seed, "new tokens per query": 3.0},
    )  # fmt: skip
    return replace(found, **more)


SYSTEMS = {"weak": (0.0, 1), "base": (0.4, 2), "strong": (1.5, 3)}


def comparison(candidate: str | None, baseline: str | None, **more: dict[str, object]) -> Comparison:
    """`weak`, `base` and `strong`; `more` changes the evaluation of a system."""
    systems = {name: evaluation(*made, **more.get(name, {})) for name, made in SYSTEMS.items()}
    return compare(systems, candidate=candidate, baseline=baseline, resamples=400)
