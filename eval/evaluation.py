"""Evaluation of one system: values per row, so that every mean has an n, an interval and a paired comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.aggregate import Aggregate
from searchlora.eval.calibration import CurvePoint
from searchlora.eval.measures import RETRIEVAL_MEASURES, retrieval_notes, retrieval_values, with_relevant
from searchlora.eval.trec import Qrels, Run
from searchlora.eval.unjudged import unjudged_values

#: Measure that is 1 for a topic without results; its mean is the zero-result rate.
ZERO_RESULTS = "zero results"

#: The column of a confusion matrix that counts invalid outputs.
INVALID = "invalid"

#: A numeric slice field with more values than this is divided into thirds; another field with more than the second is
#: an error.
_MAX_NUMERIC, _MAX_VALUES = 10, 50


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: a row of counts for each gold label; the columns are predicted labels and `invalid`."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Evaluation:
    """The measured outputs of one system.

    Attributes:
        headline: The main measure, in `values` or `aggregates`.
        values: Measure -> row id -> value. A measure may be defined on some rows only.
        clusters: Row id -> its cluster: the dialogue, query or session whose rows are not independent. Intervals and
            tests resample whole clusters. A row without one is its own cluster.
        slices: Slice name -> row id -> value, for example `turn -> "12" -> "3"`.
        invalid: Row id -> why its output did not parse. These rows are also in `values`, as fallback or worst value.
        tested: The measures whose differences between systems are tested; others are only shown, since p values are
            corrected for their number. Empty: all measures.
        notes: Definitions and omissions that a reader of the figures must know.
        unjudged: Measure -> row id -> value, about unjudged documents (`eval.unjudged`).
        costs: Mean cost of a row, for example `ms per query`.
        circular: Why these figures are circular (the judge had a part in the system); empty: they are not.
        aggregates: Measure -> statistic of sums over rows, for measures that are not means, such as macro-F1 and kappa.
            No name may be in both. They have no slices.
        confusions, curves: By title.
        less_is_better: The measures of which smaller values are better (errors, lengths).
        zero_is_best: The aggregates of which 0 is best, such as a signed bias. Systems are not compared by them: the
            distance from 0 is not smooth where a good system is, so its bootstrap and test would not hold.
    """

    headline: str
    values: Mapping[str, Mapping[str, float]]
    clusters: Mapping[str, str] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    invalid: Mapping[str, str] = field(default_factory=dict)
    tested: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unjudged: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    circular: str = ""
    aggregates: Mapping[str, Aggregate] = field(default_factory=dict)
    confusions: Mapping[str, Confusion] = field(default_factory=dict)
    curves: Mapping[str, Sequence[CurvePoint]] = field(default_factory=dict)
    less_is_better: tuple[str, ...] = ()
    zero_is_best: tuple[str, ...] = ()

    def mean(self, measure: str) -> float:
        """The mean of a measure over its rows."""
        rows = self.values[measure]
        return sum(rows.values()) / len(rows)

    def figures(self) -> dict[str, float]:
        """Every mean and every aggregate, by name, over the rows of this system."""
        means = {measure: self.mean(measure) for measure in self.values}
        return means | {name: aggregate.value for name, aggregate in self.aggregates.items() if aggregate.cells}


def confusion_matrix(gold: Mapping[str, str], predicted: Mapping[str, str | None], labels: Sequence[str]) -> Confusion:
    """Count gold and predicted labels; None, and a value that is not a label, is in the column `invalid`.

    Args:
        gold, predicted: Row id -> label.
        labels: The order of rows and columns.

    Examples:
        >>> confusion_matrix({"1": "a", "2": "b"}, {"1": "b", "2": None}, ["a", "b"]).counts
        ((0, 1, 0), (0, 0, 1))
    """
    index_of = {label: index for index, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for row, label in gold.items():
        prediction = predicted[row]
        column = index_of.get(prediction, len(labels)) if prediction is not None else len(labels)
        counts[index_of[label]][column] += 1
    return Confusion(tuple(labels), (*labels, INVALID), tuple(map(tuple, counts)))


def evaluate_run(
    run: Run,
    qrels: Qrels,
    *,
    measures: Sequence[str] = RETRIEVAL_MEASURES,
    tested: Sequence[str] = (),
    topics: Mapping[str, Mapping[str, Any]] | None = None,
    slices: Sequence[str] = (),
    cluster: str | None = None,
    relevant: int = 1,
    unjudged: bool = True,
    costs: Mapping[str, float] | None = None,
    invalid: Mapping[str, str] | None = None,
    circular: str = "",
) -> Evaluation:
    """Measure a run over every topic of the qrels. A topic without results counts 0 and is in `zero results`.

    Args:
        measures: Names as in `measures.parse_measure`, the headline first.
        tested: The measures whose differences are tested; empty: all.
        topics: Topic -> its fields (`query` and others), for the next two arguments.
        slices: Fields to slice by. A numeric field with more than ten values is divided into thirds.
        cluster: The field that puts dependent topics into one cluster (an information need, a session).
        relevant: The lowest grade that counts as relevant in binary measures; it is added to their names as `rel=N`.
        unjudged: Whether to compute figures about unjudged documents (`eval.unjudged`).
        costs, circular: As in `Evaluation`.
        invalid: Topic -> why an output behind the run did not parse.

    Raises:
        UsageError: when a measure is unknown, a field occurs in no topic or has too many values to slice by, or there
            are no judgments.

    Examples:
        >>> run = {"q1": {"d1": 2.0, "d2": 1.0}}
        >>> evaluation = evaluate_run(run, {"q1": {"d2": 1}, "q2": {"d1": 1}}, measures=["MRR@10"])
        >>> evaluation.values["MRR@10"]
        {'q1': 0.5, 'q2': 0.0}
    """
    names = [with_relevant(name, relevant) for name in dict.fromkeys(measures)]
    judged = {topic: (topics or {}).get(topic, {}) for topic in qrels}
    notes = [*retrieval_notes(run, qrels), *_without_relevant(qrels, relevant)]
    values = retrieval_values(run, qrels, names)
    clusters = _field(judged, cluster) if cluster is not None else {}
    return Evaluation(
        headline=names[0],
        values={**values, ZERO_RESULTS: {topic: float(not run.get(topic)) for topic in qrels}},
        clusters={topic: str(clusters.get(topic, topic)) for topic in qrels},
        slices={field: _slice(judged, field, notes) for field in slices},
        tested=tuple(with_relevant(name, relevant) for name in tested or measures),
        unjudged=unjudged_values(run, qrels, values) if unjudged else {},
        costs=dict(costs or {}),
        invalid={topic: why for topic, why in (invalid or {}).items() if topic in qrels},
        circular=circular,
        notes=tuple(notes),
        less_is_better=(ZERO_RESULTS,),
    )


def _without_relevant(qrels: Qrels, relevant: int) -> list[str]:
    """A note on the topics without a relevant document: no system can gain there."""
    count = sum(all(grade < relevant for grade in grades.values()) for grades in qrels.values())
    if not count:
        return []
    return [
        f"{count} of {len(qrels)} topics have no document of grade {relevant} or more: measures of relevant documents "
        "are 0 there for every system."
    ]


def by_thirds(numbers: Mapping[str, float]) -> dict[str, str]:
    """Row id -> the range of the third that its number is in, for example `3 to 12`; equal numbers stay together.

    Examples:
        >>> by_thirds({"q1": 1, "q2": 2, "q3": 3, "q4": 4, "q5": 5, "q6": 6})["q4"]
        '3 to 4'
    """
    first, second = np.quantile(list(numbers.values()), [1 / 3, 2 / 3], method="inverted_cdf")
    thirds: dict[int, dict[str, float]] = {}
    for row, number in numbers.items():
        thirds.setdefault(0 if number <= first else 1 if number <= second else 2, {})[row] = number
    return {
        row: f"{_exact(min(members.values()))} to {_exact(max(members.values()))}"
        for members in thirds.values()
        for row in members
    }


def _field(topics: Mapping[str, Mapping[str, Any]], field: str) -> dict[str, Any]:
    """Topic -> value of the field, for the topics that have it."""
    values = {topic: fields[field] for topic, fields in topics.items() if fields.get(field) not in (None, "")}
    if not values:
        known = ", ".join(sorted({name for fields in topics.values() for name in fields})) or "none"
        raise UsageError(f"no judged topic has a field '{field}'", fix=f"Fields of the topics: {known}.")
    return values


def _slice(topics: Mapping[str, Mapping[str, Any]], field: str, notes: list[str]) -> dict[str, str]:
    values = _field(topics, field)
    if missing := len(topics) - len(values):
        notes.append(f"{missing} topics have no '{field}' and are in none of its slices.")
    distinct = len(set(map(str, values.values())))
    numbers = {topic: number for topic, value in values.items() if (number := _number(value)) is not None}
    if len(numbers) == len(values) and distinct > _MAX_NUMERIC:
        notes.append(f"{field} has {distinct} values and is divided into thirds.")
        return by_thirds(numbers)
    if distinct > _MAX_VALUES:
        raise UsageError(
            f"the field '{field}' has {distinct} values, too many to slice by",
            fix=f"At most {_MAX_VALUES} are possible.",
        )
    return {topic: _exact(value) if isinstance(value, float) else str(value) for topic, value in values.items()}


def _exact(number: float) -> str:
    """A number with all of its digits: rows are grouped by it, so a rounded one would join different values."""
    return repr(float(number)).removesuffix(".0")


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
