"""Training of the adapters and grading of all 4,300 passages; adapters and grades are stored and reused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import merged_base
from benchmarks.judgment_trecdl19.folds import FOLDS, Topics, fold_dataset
from benchmarks.judgment_trecdl19.warm import warm_adapter
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.experiments.judge.grade_log import grade_records
from searchlora.experiments.judge.llm_judge import Judge, load_judge
from searchlora.experiments.train import train_or_reuse
from searchlora.files import atomic_text
from searchlora.outputs import from_json, to_json
from searchlora.progress import Steps

BASE = "smollm2-135m-instruct-q4_1"
NAME = "dl19-judge"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Answers:
    """Outputs before tuned values are applied.

    Attributes:
        adapter, base: Id of a pair -> output. The adapter of a pair was not trained on its query.
        tuned: The values tuned on the validation queries of each fold.
        training: Name of each adapter -> rows, steps, tokens, seconds.
    """

    adapter: Mapping[str, Any]
    base: Mapping[str, Any]
    tuned: Sequence[Mapping[str, Any]]
    training: Mapping[str, Mapping[str, Any]]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        stored = {
            name: {id_: to_json(each) for id_, each in getattr(self, name).items()} for name in ("adapter", "base")
        }
        with atomic_text(path) as out:
            json.dump({**stored, "tuned": self.tuned, "training": self.training}, out)

    @classmethod
    def load(cls, path: Path) -> Answers:
        """Read what `save` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        outputs = {name: {id_: from_json(each) for id_, each in stored[name].items()} for name in ("adapter", "base")}
        return cls(outputs["adapter"], outputs["base"], stored["tuned"], stored["training"])


def answer(topics: Topics, data: Path, work: Path, steps: Steps) -> Answers:
    """Train missing adapters and grade ungraded passages."""
    store = Store(work / "store")
    warm = warm_adapter(data, work, steps)
    first = merged_base(warm, work / "merged")
    adapters = []
    for number in range(FOLDS):
        dataset = fold_dataset(topics, number, work / f"fold{number + 1}")
        name, recipe = f"{NAME}-{number + 1}", HERE / "fold.yaml"
        settings = (f"base={first}",)
        adapters.append(
            train_or_reuse(
                "judgment", dataset.folder, name, recipe=recipe, overrides=settings, store=store, steps=steps
            )
        )
    by_adapter: dict[str, Any] = {}
    for topics_of_fold, stored in zip(topics.folds(), adapters, strict=True):
        judge = load_judge(adapter=stored.reference, base=None, task=None, generate=False, store=store)
        by_adapter |= _graded(judge, topics, topics_of_fold, work / "graded" / stored.reference, steps)
    judge = load_judge(adapter=None, base=BASE, task="judgment", generate=False, store=store)
    by_base = _graded(judge, topics, list(topics.pairs), work / "graded" / "base", steps)
    training = {each.reference: _about(each) for each in (warm, *adapters)}
    return Answers(by_adapter, by_base, [dict(each.manifest.tuned) for each in adapters], training)


def _graded(judge: Judge, topics: Topics, names: Sequence[str], folder: Path, steps: Steps) -> dict[str, Any]:
    """The outputs by id, before tuned values are applied."""
    plain = replace(judge, task=judge.task.bound(judge.task.settings))
    records = topics.records(names, graded=False)
    outputs = grade_records(plain, records, folder, steps(f"Grading: {judge.reference}"))
    return {record["id"]: output for record, output in zip(records, outputs, strict=True)}


def _about(stored: StoredAdapter) -> dict[str, Any]:
    return {key: stored.manifest.training[key] for key in ("rows", "steps", "tokens", "seconds")}
