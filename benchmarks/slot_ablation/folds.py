"""Test sets whose topics are served by the adapters of their fold, and the ablations of the folds as one ablation."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from pathlib import Path
from typing import Any

from searchlora.data.collection import Corpus
from searchlora.eval.trec import Qrels, read_run, write_run
from searchlora.experiments.ablation_result import Ablation
from searchlora.experiments.spec import Source, file_name
from searchlora.systems.fixed import FixedResults
from searchlora.systems.measure import measure

SEED = 13

Costs = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Fold:
    """Topics, and the adapters in the slots of the pipeline that were not trained on them.

    Attributes:
        number: Ends the names of the fold's adapters, as in `chorus-judge-1`; None where there is one fold only.
        slots: Parameter of the pipeline -> its value, for adapters their name.
        topics: Rows with `id`, `query` and what stages read.
    """

    number: int | None
    slots: Mapping[str, str | int]
    topics: Sequence[Mapping[str, Any]]

    def without_number(self, name: str) -> str:
        """The name of an adapter, or a text with such names, that is the same in all folds."""
        return name if self.number is None else re.sub(rf"-{self.number}(?![\w-])", "", name)


@dataclass(frozen=True)
class TestSet:
    """A public collection with test topics in folds.

    Attributes:
        pipeline: The built-in pipeline, or the file of one.
        qrels: Judgments of all topics.
        measures: The first is tested.
        cluster: Field of the topics with the group of dependent topics.
        adapters_only: Whether to change the slots of adapters only, and not the retrievers.
    """

    name: str
    pipeline: str
    corpus: Corpus
    folds: Sequence[Fold]
    qrels: Qrels
    measures: Sequence[str]
    cluster: str | None = None
    adapters_only: bool = False

    __test__ = False  # no test of pytest

    @property
    def topics(self) -> int:
        """Number of topics in all folds."""
        return sum(len(fold.topics) for fold in self.folds)

    def sampled(self, limit: int | None = None) -> TestSet:
        """The test set with at most `limit` topics, drawn with a fixed seed; None: with all."""
        ids = sorted(str(topic["id"]) for fold in self.folds for topic in fold.topics)
        drawn = set(random.Random(SEED).sample(ids, min(limit or len(ids), len(ids))))
        folds = [
            replace(fold, topics=[topic for topic in fold.topics if str(topic["id"]) in drawn]) for fold in self.folds
        ]
        return replace(self, folds=[fold for fold in folds if fold.topics])


def merged(test: TestSet, ablations: Sequence[Ablation], folder: Path) -> Ablation:
    """The ablations of the folds of a test set as one, over the topics of all folds.

    The variants are those that every fold has. Differences and tests are computed anew over all topics, and costs are
    means over them.

    Args:
        ablations: One for each fold of the test set.
        folder: Folder for the runs over all topics.
    """
    first, *others = ablations
    if not others:
        return first
    named = [
        {fold.without_number(variant.name): variant for variant in ablation.variants}
        for fold, ablation in zip(test.folds, ablations, strict=True)
    ]
    names = [name for name in named[0] if all(name in names_of_fold for names_of_fold in named)]
    experiments = [ablation.experimented for ablation in ablations]
    runs, systems = {}, []
    fields = {topic: values for result in experiments for topic, values in result.topics.fields.items()}
    rows = [{"id": topic, **values} for topic, values in fields.items()]
    for name in names:
        of_folds = [fold[name].name for fold in named]
        run: dict[str, Mapping[str, float]] = {}
        invalid: dict[str, str] = {}
        for result, own in zip(experiments, of_folds, strict=True):
            run.update(read_run(result.runs[own].path))
            invalid.update(result.systems[own].raw.invalid or {})
        runs[name] = Source(path=folder / f"{file_name(name)}.trec", format="trec")
        folder.mkdir(parents=True, exist_ok=True)
        write_run(runs[name].path, run, file_name(name))
        systems.append(FixedResults(name, rows, run=run, invalid=invalid))
    qrels = {topic: grades for result in experiments for topic, grades in result.topics.qrels.items()}
    settings = {name: first.experimented.spec.systems[named[0][name].name] for name in names}
    spec = first.experimented.spec.model_copy(update={"systems": settings})
    topics = replace(first.experimented.topics, spec=spec, fields=fields, qrels=qrels)
    measurement = measure(systems, rows, topics.measures(), candidate=spec.candidate, baseline=spec.baseline)
    rename = test.folds[0].without_number
    return Ablation(
        slots=tuple(
            replace(slot, name=rename(slot.name), adapter=rename(slot.adapter.split("@")[0]) if slot.adapter else None)
            for slot in first.slots
        ),
        variants=tuple(
            replace(named[0][name], name=name, slots=tuple(map(rename, named[0][name].slots))) for name in names
        ),
        experimented=replace(first.experimented, spec=spec, topics=topics, runs=runs, measurement=measurement),
        costs=_mean_costs(test, ablations, names),
        left_out={
            fold.without_number(name): why
            for fold, ablation in zip(test.folds, ablations, strict=True)
            for name, why in ablation.left_out.items()
        },
    )


def _mean_costs(test: TestSet, ablations: Sequence[Ablation], names: Sequence[str]) -> Costs:
    """Costs per topic over all folds; those that a fold did not measure are left out."""
    parts: list[tuple[int, Costs]] = []
    for fold, ablation in zip(test.folds, ablations, strict=True):
        renamed = {
            fold.without_number(variant): {fold.without_number(slot): costs for slot, costs in of_variant.items()}
            for variant, of_variant in ablation.costs.items()
        }
        parts.append((len(ablation.experimented.topics.qrels), renamed))
    total = sum(count for count, _ in parts)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        for slot in parts[0][1].get(name, {}):
            part = [(count, costs.get(name, {}).get(slot, {})) for count, costs in parts]
            kinds = [kind for kind in part[0][1] if all(kind in costs for _, costs in part)]
            found.setdefault(name, {})[slot] = {
                kind: fsum(count * costs[kind] for count, costs in part) / total for kind in kinds
            }
    return found
