"""Draws of topics and labels: how often the watched interval holds, and how many labels a decision takes.

The topics of a collection are the population, so the true difference is known; topics are drawn from it with
replacement. In a draw without a difference the two systems change places on each topic with probability one
half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.statistics.few_labels.collections import Collection
from searchlora.eval.judge.few_labels import Decision, FewLabels, LabelWatch
from searchlora.eval.judge.label_plan import GainMeasure, LabelPlan

#: Every label is looked at up to here, and every fifth after it.
EVERY_LABEL = 200

#: Share of the draws in which a fixed number of topics shall decide.
POWER = 0.8


@dataclass(frozen=True)
class Draw:
    """One draw, labelled to the end.

    Attributes:
        covered: Whether the interval held at every look.
        decision, labels: The first decision and its number of labels; `open` and all pairs where none fell.
        differences: Difference of each topic with all labels.
        pairs: Pairs of the plan.
    """

    covered: bool
    decision: Decision
    labels: int
    differences: np.ndarray
    pairs: int


class Pair:
    """Two systems of a collection.

    Attributes:
        difference: The true difference, in the measure of the collection.
    """

    def __init__(self, collection: Collection, candidate: str, baseline: str) -> None:
        self.collection, self.systems = collection, (candidate, baseline)
        self.topics = list(collection.qrels)
        self.gains = GainMeasure.parse(collection.measure)
        self.difference = float(self._differences(self._plan(range(len(self.topics)), False, 0, None)).mean())

    def draws(self, number: int, *, judge: bool = True, null: bool = False) -> list[Draw]:
        """Draws with seeds 0 to `number` − 1."""
        return [self._draw(seed, judge, null) for seed in range(number)]

    def _draw(self, seed: int, judge: bool, null: bool) -> Draw:
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, len(self.topics), self.collection.topics).tolist()
        exchanged = rng.integers(0, 2, len(drawn)).tolist() if null else None
        plan = self._plan(drawn, judge, seed, exchanged)
        gains = self._labels(plan)
        watch, truth = LabelWatch(plan), 0.0 if null else self.difference
        looks = [watch.estimate(gains[:labels]) for labels in _looks(len(gains))]
        first: FewLabels = next((look for look in looks if look.decision != "open"), looks[-1])
        covered = all(look.low <= truth <= look.high for look in looks)
        return Draw(covered, first.decision, first.labels, self._differences(plan), len(gains))

    def _plan(self, drawn: Sequence[int], judge: bool, seed: int, exchanged: Sequence[int] | None) -> LabelPlan:
        """The plan for drawn topics; the n-th one has the id `n topic`, since a topic may be drawn twice."""
        candidate, baseline = (self.collection.runs[name] for name in self.systems)
        runs: tuple[dict[str, Mapping[str, float]], dict[str, Mapping[str, float]]] = ({}, {})
        judged = {}
        for place, number in enumerate(drawn):
            topic = self.topics[number]
            one, other = candidate.get(topic, {}), baseline.get(topic, {})
            name = f"{place} {topic}"
            runs[0][name], runs[1][name] = (other, one) if exchanged and exchanged[place] else (one, other)
            judged[name] = self.collection.judged.get(topic, {})
        return LabelPlan.of(*runs, self.collection.measure, judged if judge else None, seed=seed)

    def _labels(self, plan: LabelPlan) -> np.ndarray:
        qrels = self.collection.qrels
        grades = [qrels[pair.topic.split(" ", 1)[1]].get(pair.document, 0) for pair in plan.pairs]
        return np.array([self.gains.gain(grade) for grade in grades])

    def _differences(self, plan: LabelPlan) -> np.ndarray:
        number = {topic: place for place, topic in enumerate(plan.topics)}
        terms = np.array([pair.weight for pair in plan.pairs]) * self._labels(plan)
        return np.bincount([number[pair.topic] for pair in plan.pairs], terms, minlength=len(number))


def _looks(pairs: int) -> list[int]:
    first = range(20, min(EVERY_LABEL, pairs))
    return sorted({*first, *range(EVERY_LABEL, pairs, 5), pairs})


def t_decides(differences: np.ndarray) -> bool:
    """Whether the classical 95% interval of the mean excludes 0 (Student's t)."""
    error = differences.std(ddof=1) / len(differences) ** 0.5
    return bool(abs(differences.mean()) > stats.t.ppf(0.975, len(differences) - 1) * error)


def whole_topics(draws: Sequence[Draw]) -> float | None:
    """Labels with which a fixed number of whole topics decides in `POWER` of the draws; None if all topics do not.

    The number is that which a team would have to know before it labels.
    """
    topics = len(draws[0].differences)
    per_topic = float(np.mean([draw.pairs for draw in draws])) / topics
    for number in range(5, topics + 1):
        if np.mean([t_decides(draw.differences[:number]) for draw in draws]) >= POWER:
            return number * per_topic
    return None


def watched_classically(draws: Sequence[Draw]) -> float:
    """Share of the draws in which the classical interval excludes 0 after some topic, from the tenth on."""
    topics = len(draws[0].differences)
    return float(
        np.mean([any(t_decides(draw.differences[:number]) for number in range(10, topics + 1)) for draw in draws])
    )
