"""Rank correlation of systems under human and judge grades: Kendall's tau and tau-ap, with intervals by topic.

Sources: Kendall (1945), The treatment of ties in ranking problems (tau-b); Yilmaz, Aslam and Robertson, A new rank
correlation coefficient for information retrieval (SIGIR 2008): tau-ap, which weighs errors among the best systems more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.agreement import Floats
from searchlora.eval.intervals import batches, cluster_draws
from searchlora.eval.judge.labels import Labels, common_pairs, restrict, size
from searchlora.eval.measures import retrieval_values
from searchlora.eval.resampling import Estimate
from searchlora.eval.trec import Qrels, Run

#: system -> topic -> value of a measure
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class SystemOrder:
    """Correlation of the order of systems under human grades with the order under a judge's grades.

    Attributes:
        measure: The measure whose mean over topics orders the systems.
        systems: Best first under the human grades, ties by name.
        human, judge: Mean of each system under human and judge grades, in the order of `systems`.
        tau, tau_ap: Over all systems. In these figures `n` counts systems and `queries` counts topics.
        top: Number of best systems by human grades.
        tau_top, tau_ap_top: Over the best systems.
        notes: Topics and pairs that were left out.
    """

    measure: str
    systems: tuple[str, ...]
    human: tuple[float, ...]
    judge: tuple[float, ...]
    tau: Estimate
    tau_ap: Estimate
    top: int
    tau_top: Estimate
    tau_ap_top: Estimate
    notes: tuple[str, ...] = ()


def kendall_tau(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Kendall's tau-b of two scorings of the same systems; nan if one of them ties all systems.

    Raises:
        UsageError: when the systems differ, or are fewer than two.

    Examples:
        >>> round(kendall_tau({"a": 0.9, "b": 0.5, "c": 0.1}, {"a": 0.8, "b": 0.2, "c": 0.3}), 3)
        0.333
    """
    return float(_tau(*_columns(a, b)))


def tau_ap(truth: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Tau-ap (Yilmaz et al.): mean proportion of correctly ordered systems above each rank of `other`.

    1 for the same order, −1 for the reverse. Not symmetric. **Ties** count as the mean over all orders of the tied
    systems, in `truth` and in `other`: a pair tied in `truth` is half correct, and a system of a group tied in `other`
    takes each position of the group with equal probability.

    Raises:
        UsageError: when the systems differ, or are fewer than two.

    Examples:
        >>> truth = {"a": 0.9, "b": 0.5, "c": 0.1}
        >>> tau_ap(truth, {"a": 0.8, "b": 0.2, "c": 0.3}), tau_ap(truth, {"a": 0.2, "b": 0.8, "c": 0.1})
        (0.5, 0.0)
    """
    return float(_tau_ap(*_columns(truth, other)))


def order_agreement(
    human: Values, judge: Values, *, measure: str, top: int = 5, resamples: int = 10_000, seed: int = 0
) -> SystemOrder:
    """Compare the order of systems under human and judge grades, with intervals by resampling topics.

    Both sides are resampled with the same topics. The best systems stay those of the observed human order.

    Args:
        human, judge: Value of each system and topic, measured with the human and the judge's qrels.
        measure: Name of the measure, for the result.
        top: Number of best systems; all systems if there are fewer.

    Raises:
        UsageError: when the systems of both sides differ, there are fewer than two, `top` is below 2, or no topic is
            common to all.
    """
    if set(human) != set(judge):
        raise UsageError(f"systems that only one side has: {', '.join(sorted(set(human) ^ set(judge)))}")
    if len(human) < 2 or top < 2:
        raise UsageError("an order needs at least two systems")
    topics = _common(human, judge)
    means = {name: float(np.mean([human[name][topic] for topic in topics])) for name in human}
    systems = tuple(sorted(means, key=lambda name: (-means[name], name)))
    sides = [np.array([[side[name][topic] for name in systems] for topic in topics]) for side in (human, judge)]
    top = min(top, len(systems))
    best = [side[:, :top] for side in sides]
    overall, among_best = (_figures(values[0], values[1], resamples, seed) for values in (sides, best))
    all_topics = {topic for side in (human, judge) for values in side.values() for topic in values}
    left_out = len(all_topics) - len(topics)
    return SystemOrder(
        measure=measure,
        systems=systems,
        human=tuple(sides[0].mean(axis=0).tolist()),
        judge=tuple(sides[1].mean(axis=0).tolist()),
        tau=overall[0],
        tau_ap=overall[1],
        top=top,
        tau_top=among_best[0],
        tau_ap_top=among_best[1],
        notes=(f"{left_out} topics without a value for every system on both sides are left out.",) if left_out else (),
    )


def drawn_topics(topics: int, resamples: int, cells: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each topic was drawn, in batches of (resamples of the batch, topics); a resample takes `cells`."""
    for batch in batches(resamples, cells):
        yield cluster_draws(batch, topics, rng)


def _common(human: Values, judge: Values) -> list[str]:
    rows = [*human.values(), *judge.values()]
    topics = [topic for topic in rows[0] if all(topic in row for row in rows)]
    if not topics:
        raise UsageError("no topic has a value for every system under both sets of grades")
    return topics


def _figures(human: Floats, judge: Floats, resamples: int, seed: int) -> list[Estimate]:
    """tau and tau-ap of values `(topics, systems)`."""
    topics, systems = human.shape
    resampled: tuple[list[Floats], list[Floats]] = ([], [])
    # Each resample needs several matrices of systems by systems.
    for counts in drawn_topics(topics, resamples, max(topics, 4 * systems**2), np.random.default_rng(seed)):
        a, b = (_rounded(counts @ side / topics) for side in (human, judge))
        resampled[0].append(_tau(a, b))
        resampled[1].append(_tau_ap(a, b))
    a, b = (_rounded(side.mean(axis=0)) for side in (human, judge))
    values = [float(_tau(a, b)), float(_tau_ap(a, b))]
    return [
        Estimate(value, *_interval(value, np.concatenate(parts), topics), systems, topics)
        for value, parts in zip(values, resampled, strict=True)
    ]


def _interval(value: float, resampled: Floats, topics: int) -> tuple[float, float]:
    defined = resampled[~np.isnan(resampled)]
    if topics < 2 or math.isnan(value) or len(defined) < len(resampled) / 2:
        return math.nan, math.nan
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(max(min(low, 2 * value - high), -1)), float(min(max(high, 2 * value - low), 1))


def _rounded(means: Floats) -> Floats:
    """Means rounded to 12 digits, so that differences of floating-point summation order are ties."""
    return np.asarray(np.round(means, 12))


def _tau(a: Floats, b: Floats) -> Floats:
    """tau-b of scores `(..., systems)`: `(...)`."""
    first, second = (np.sign(side[..., :, None] - side[..., None, :]) for side in (a, b))
    untied = np.sqrt((first**2).sum(axis=(-2, -1)) * (second**2).sum(axis=(-2, -1)))
    both = (first * second).sum(axis=(-2, -1))
    return np.asarray(np.divide(both, untied, out=np.full(np.shape(both), np.nan), where=untied > 0))


def _tau_ap(truth: Floats, other: Floats) -> Floats:
    """tau-ap of scores `(..., systems)`: `(...)`, ties as the mean over their orders."""
    systems = truth.shape[-1]
    # correct[i, j]: 1 if the truth ranks j above i, 0.5 for a tie.
    correct = (np.sign(truth[..., None, :] - truth[..., :, None]) + 1) / 2
    gap = other[..., None, :] - other[..., :, None]
    tied = (gap == 0) & ~np.eye(systems, dtype=bool)
    above, beside = (gap > 0).sum(axis=-1), tied.sum(axis=-1)
    correct_above, correct_beside = (correct * (gap > 0)).sum(axis=-1), (correct * tied).sum(axis=-1)
    proportion = correct_beside / np.maximum(beside, 1)
    total = np.zeros(above.shape)
    # A system of a tied group is below 0, 1, … systems of its group with equal probability.
    for ahead in range(int(beside.max()) + 1):
        possible = (beside >= ahead) & (above + ahead > 0)
        part = (correct_above + ahead * proportion) / np.maximum(above + ahead, 1) / (beside + 1)
        total += np.where(possible, part, 0)
    return np.asarray(2 * total.sum(axis=-1) / (systems - 1) - 1)


def _columns(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[Floats, Floats]:
    if set(a) != set(b):
        raise UsageError(f"systems that only one side has: {', '.join(sorted(set(a) ^ set(b)))}")
    if len(a) < 2:
        raise UsageError("an order needs at least two systems")
    return np.array([a[name] for name in a], dtype=float), np.array([b[name] for name in a], dtype=float)


def order_of_runs(
    human: Qrels,
    judge: Labels,
    runs: Mapping[str, Run],
    *,
    measure: str = "nDCG@10",
    scale: Sequence[int] = (0, 1, 2, 3),
    top: int = 5,
    resamples: int = 10_000,
    seed: int = 0,
) -> SystemOrder:
    """Measure every run with human and judge grades and compare the orders.

    Only pairs labelled by both are used, so that the orders differ by the grades alone. An invalid answer of the judge
    counts as unjudged; the notes count them.

    Raises:
        UsageError: for fewer than two runs, an unknown measure, or if no pair is graded by both.
    """
    shared = common_pairs([human, judge])
    invalid = {
        (topic, document) for topic, document in shared if judge[topic][document] not in scale
    }  # fmt: skip
    if shared == invalid:
        raise UsageError(
            "the judge has no grade for any human-graded pair, so runs cannot be ordered", fix="Omit the runs."
        )
    sides = [_valid_grades(restrict(labels, shared - skip)) for labels, skip in ((human, set()), (judge, invalid))]
    values = [
        {name: retrieval_values(run, side, [measure])[measure] for name, run in runs.items()} for side in sides
    ]  # fmt: skip
    order = order_agreement(values[0], values[1], measure=measure, top=top, resamples=resamples, seed=seed)
    notes = list(order.notes)
    if left_out := size(human) - len(shared):
        notes.append(f"{left_out} of {size(human)} human-graded pairs have no label of the judge and are left out.")
    if invalid:
        notes.append(f"{len(invalid)} pairs with an invalid answer count as unjudged under the judge's grades.")
    return replace(order, notes=tuple(notes))


def _valid_grades(labels: Labels) -> dict[str, dict[str, int]]:
    rows = {topic: {d: grade for d, grade in row.items() if grade is not None} for topic, row in labels.items()}
    return {topic: row for topic, row in rows.items() if row}
