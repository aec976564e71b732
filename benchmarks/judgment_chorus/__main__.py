"""Relevance judgment of a real shop's products beside the agreement of three people.

    python -m benchmarks.judgment_chorus               train, grade, evaluate
    python -m benchmarks.judgment_chorus --evaluate    evaluate the grades in benchmarks/work; no model is loaded

Chorus: 3,188 pairs of 135 queries, each graded by three people. Three folds by query: each query is graded by an
adapter that was trained on the other folds, on the shares of the raters' grades (soft labels) and with RankNet. Its
training starts from the judge of passages that `judgment_trecdl19` trains. The quadratic kappa of the adapter with each
person is shown beside that of people with each other, the ceiling. Datasets, adapters and grades in
`benchmarks/work/judgment_chorus` are reused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, copied, named_comparison, real_data, save, training_figures
from benchmarks.judges import (
    ADAPTER,
    BASE,
    BOOSTED,
    boosted_with_adapter,
    from_graded,
    graded,
    judgment_task,
    labels,
    over_encoder,
    tuned_and_not,
    with_measures,
)
from benchmarks.judgment_chorus.folds import FOLDS, OPTIONS, VALIDATING, Chorus
from benchmarks.judgment_trecdl19.__main__ import NAME as WEB
from benchmarks.judgment_trecdl19.answering import NAME as WEB_JUDGE
from searchlora.adapters.store import Store
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.judge.card import judge_card, to_json
from searchlora.eval.judge.rater_agreement import ratings_agreement
from searchlora.eval.judgments.ratings import Rating
from searchlora.eval.trec import Qrels
from searchlora.experiments.judge.llm_judge import load_judge
from searchlora.experiments.options import DEFAULT_ENCODER, TrainingOptions
from searchlora.experiments.train import train
from searchlora.files import atomic_text
from searchlora.outputs import Grade
from searchlora.progress import Steps
from searchlora.systems.encoder_baseline import FrozenEncoder
from searchlora.task import EvaluationInput
from searchlora.tasks.judgment.baselines import fitted_baselines
from searchlora.tasks.judgment.evaluator import (
    BIAS,
    BINARY,
    CALIBRATION,
    CALIBRATION_RATERS,
    KAPPA,
    MAE,
    QUADRATIC,
)

NAME = "judgment_chorus"
RECIPE = Path(__file__).parent / "recipe.yaml"

MEASURES = (QUADRATIC, KAPPA, BINARY, MAE, BIAS, CALIBRATION, CALIBRATION_RATERS)


def main() -> None:
    data, work = real_data(), WORK / NAME
    work.mkdir(parents=True, exist_ok=True)
    chorus = Chorus.read(data, work / "all")
    file = work / "answers.json"
    if "--evaluate" not in sys.argv:
        with progress_bars() as steps:
            answer(chorus, work, file, steps)
    evaluate(chorus, json.loads(file.read_text(encoding="utf-8")))


def answer(chorus: Chorus, work: Path, file: Path, steps: Steps) -> None:
    """Train missing adapters, grade ungraded pairs, and write the outputs, before tuned values are applied."""
    store = Store(work / "store")
    copied(Store(WORK / WEB / "store"), WEB_JUDGE, store.root, f"Train it: python -m benchmarks.{WEB}.")
    adapter: dict[str, Any] = {}
    values, training = [], {}
    for number, groups in enumerate(chorus.folds()):
        dataset = chorus.dataset(number, work / f"fold{number + 1}")
        stored = train(
            "judgment",
            dataset.folder,
            f"chorus-judge-{number + 1}",
            TrainingOptions(recipe=RECIPE, start_from=WEB_JUDGE, reuse=True),
            store=store,
            steps=steps,
            log=print,
        )
        judge = load_judge(adapter=stored.reference, base=None, task=None, generate=False, store=store)
        adapter |= graded(judge, chorus.of(groups), work / "graded" / stored.reference, steps)
        values.append(dict(stored.manifest.tuned))
        training[stored.reference] = training_figures(stored)
    bare = load_judge(adapter=None, base=BASE, task="judgment", generate=False, store=store, settings=work / "fold1")
    base = graded(bare, chorus.records, work / "graded" / "base", steps)
    with atomic_text(file) as out:
        json.dump({"adapter": adapter, "base": base, "tuned": values, "training": training}, out)


def judges(chorus: Chorus, answers: Mapping[str, Any]) -> dict[str, dict[str, Grade]]:
    """System -> id of a pair -> grade. Base and baselines are fitted on the other folds of a pair."""
    found: dict[str, dict[str, Grade]] = {}
    encoder = FrozenEncoder(DEFAULT_ENCODER)
    adapter, base = from_graded(answers["adapter"]), from_graded(answers["base"])
    for number, groups in enumerate(chorus.folds()):
        records = chorus.of(groups)
        others = chorus.of([group for fold in chorus.folds() for group in fold if group not in groups])
        for name, grades in fitted_baselines(records, others, judgment_task().grades).items():
            found.setdefault(name, {}).update(zip((record["id"] for record in records), grades, strict=True))
        by_system = over_encoder(records, others, encoder)
        by_system |= tuned_and_not(records, adapter, base, answers["tuned"][number], others)
        by_system[BOOSTED] = boosted_with_adapter(records, others, encoder, adapter)
        for name, by_id in by_system.items():
            found.setdefault(name, {}).update(by_id)
    return found


def evaluate(chorus: Chorus, answers: Mapping[str, Any]) -> None:
    """Write all results from the grades."""
    systems = judges(chorus, answers)
    evaluations = {
        name: judgment_task().evaluate(
            EvaluationInput(chorus.records, [grades[record["id"]] for record in chorus.records])
        )
        for name, grades in systems.items()
    }
    shown = {name: with_measures(evaluation, MEASURES) for name, evaluation in evaluations.items()}
    comparison = named_comparison(shown, {}, ADAPTER, QUADRATIC, BINARY)
    gold = labels({record["id"]: Grade(record["grade"]) for record in chorus.records})
    judged = labels(systems[ADAPTER])
    card = judge_card(gold, judged, name=ADAPTER, raters=chorus.raters)
    about = {
        "caption": "figures over all pairs against the majority of three people, and 95% interval by query",
        "design": {"folds": FOLDS, "validating_queries": VALIDATING, "characters": OPTIONS["characters"]},
        "quadratic_kappa_of_people": of_people(chorus),
        "quadratic_kappa_with_each_person": with_people(chorus, judged),
        "tuned": answers["tuned"],
        "training": answers["training"],
        "cards": {"adapter": to_json(card)},
    }
    save(NAME, comparison, about)
    print_comparison(comparison)
    print("people with each other:", json.dumps(about["quadratic_kappa_of_people"], indent=1))
    print("adapter with each person:", json.dumps(about["quadratic_kappa_with_each_person"], indent=1))


def of_people(chorus: Chorus) -> dict[str, dict[str, float]]:
    """Pair of people -> quadratic kappa with its interval by query: the ceiling."""
    return {f"{pair.a}, {pair.b}": _figure(pair.weighted) for pair in _agreement(chorus.raters).rater_pairs}


def with_people(chorus: Chorus, judged: Qrels) -> dict[str, dict[str, float]]:
    """Person -> quadratic kappa of the judge with that person, over the same pairs as `of_people`."""
    found = {}
    for rater, qrels in chorus.raters.items():
        (pair,) = _agreement({"adapter": judged, rater: qrels}).rater_pairs
        found[rater] = _figure(pair.weighted)
    return found


def _agreement(raters: Mapping[str, Qrels]) -> Any:
    ratings = [
        Rating(topic, document, grade, rater, "", 0.0)
        for rater, qrels in raters.items()
        for topic, row in qrels.items()
        for document, grade in row.items()
    ]
    return ratings_agreement(ratings)


def _figure(figure: Any) -> dict[str, float]:
    return {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}


if __name__ == "__main__":
    main()
