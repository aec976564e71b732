"""Do a judge's grades order systems as people's grades do? Kendall's tau and tau-ap, overall and among the best.

Sources: Kendall (1945), The treatment of ties in ranking problems (tau-b); Yilmaz, Aslam and Robertson, A new rank
correlation coefficient for information retrieval (SIGIR 2008), tau-ap: mistakes among the best systems weigh more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.judge.agreement import Floats
from searchlora.eval.judge.labels import Labels, common, only, size
from searchlora.eval.measures import retrieval_values
from searchlora.eval.resampling import Figure, drawn_queries
from searchlora.eval.trec import Qrels, Run

#: system -> topic -> value of a measure
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class SystemOrder:
    """How far the order of systems under a judge's grades is the one under people's grades.

    Attributes:
        measure: What the systems are ordered by, its mean over the topics.
        systems: Best first under the human grades, ties by name.
        human, judge: Their means, in that order.
        tau, tau_ap: Over all systems. In these figures n counts systems and `queries` topics.
        top: How many systems of the human order the figures among the best are over.
        tau_top, tau_ap_top: Among those.
        notes: What was left out.
    """

    measure: str
    systems: tuple[str, ...]
    human: tuple[float, ...]
    judge: tuple[float, ...]
    tau: Figure
    tau_ap: Figure
    top: int
    tau_top: Figure
    tau_ap_top: Figure
    notes: tuple[str, ...] = ()


def kendall_tau(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Kendall's tau-b of two scorings of the same systems; nan where one of them ties them all.

    Raises:
        UsageError: when they are not the same systems, or fewer than two.
    """
    return float(_tau(*_columns(a, b)))


def tau_ap(truth: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Yilmaz's tau-ap: how far `other` has above each of its systems those that are better in `truth`.

    1 for the same order, −1 for the reverse. Not symmetric. **Ties** count as the mean over all orders that the tied
    systems could stand in, in `truth` and in `other`: a pair tied in the truth is half right, and a place in a group
    tied in `other` is any of the group's places.

    Raises:
        UsageError: when they are not the same systems, or fewer than two.
    """
    return float(_tau_ap(*_columns(truth, other)))


def order_agreement(
    human: Values, judge: Values, *, measure: str, top: int = 5, resamples: int = 10_000, seed: int = 0
) -> SystemOrder:
    """Compare the order of systems under human and judge's grades, with intervals by resampling topics.

    Both sides are resampled by the same topics. The systems among the best stay those of the observed human order.

    Args:
        human, judge: The values of each system and topic, measured with the qrels of each.
        measure: Their name, for the record.
        top: How many systems count as the best; all of them where there are fewer.

    Raises:
        UsageError: when the two sides have not the same systems, there are fewer than two, `top` is below 2, or no
            topic is common to all.
    """
    if set(human) != set(judge):
        raise UsageError(f"systems that only one side has: {', '.join(sorted(set(human) ^ set(judge)))}")
    if len(human) < 2 or top < 2:
        raise UsageError("an order needs two systems at least")
    topics = _common(human, judge)
    means = {name: float(np.mean([human[name][topic] for topic in topics])) for name in human}
    systems = tuple(sorted(means, key=lambda name: (-means[name], name)))
    sides = [np.array([[side[name][topic] for name in systems] for topic in topics]) for side in (human, judge)]
    top = min(top, len(systems))
    best = [side[:, :top] for side in sides]
    found = [_figures(at[0], at[1], resamples, seed) for at in (sides, best)]
    everything = {topic for side in (human, judge) for values in side.values() for topic in values}
    left_out = len(everything) - len(topics)
    return SystemOrder(
        measure=measure,
        systems=systems,
        human=tuple(sides[0].mean(axis=0).tolist()),
        judge=tuple(sides[1].mean(axis=0).tolist()),
        tau=found[0][0],
        tau_ap=found[0][1],
        top=top,
        tau_top=found[1][0],
        tau_ap_top=found[1][1],
        notes=(f"{left_out} topics without a value for every system on both sides are left out.",) if left_out else (),
    )


def _common(human: Values, judge: Values) -> list[str]:
    rows = [*human.values(), *judge.values()]
    topics = [topic for topic in rows[0] if all(topic in row for row in rows)]
    if not topics:
        raise UsageError("no topic has a value for every system under both sets of grades")
    return topics


def _figures(human: Floats, judge: Floats, resamples: int, seed: int) -> list[Figure]:
    """tau and tau-ap of values `(topics, systems)`."""
    topics, systems = human.shape
    drawn: tuple[list[Floats], list[Floats]] = ([], [])
    # Per resample there is a matrix of systems by systems, several times over.
    for times in drawn_queries(topics, resamples, max(topics, 4 * systems**2), np.random.default_rng(seed)):
        a, b = (_steady(times @ side / topics) for side in (human, judge))
        drawn[0].append(_tau(a, b))
        drawn[1].append(_tau_ap(a, b))
    a, b = (_steady(side.mean(axis=0)) for side in (human, judge))
    values = [float(_tau(a, b)), float(_tau_ap(a, b))]
    return [
        Figure(value, *_ends(value, np.concatenate(resampled), topics), systems, topics)
        for value, resampled in zip(values, drawn, strict=True)
    ]


def _ends(value: float, resampled: Floats, topics: int) -> tuple[float, float]:
    known = resampled[~np.isnan(resampled)]
    if topics < 2 or math.isnan(value) or len(known) < len(resampled) / 2:
        return math.nan, math.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return float(max(min(low, 2 * value - high), -1)), float(min(max(high, 2 * value - low), 1))


def _steady(means: Floats) -> Floats:
    """Sums in another order differ in their last digits; what is equal but for those is a tie."""
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
    # right[i, j]: how far the truth has j above i.
    right = (np.sign(truth[..., None, :] - truth[..., :, None]) + 1) / 2
    gap = other[..., None, :] - other[..., :, None]
    tied = (gap == 0) & ~np.eye(systems, dtype=bool)
    above, beside = (gap > 0).sum(axis=-1), tied.sum(axis=-1)
    right_above, right_beside = (right * (gap > 0)).sum(axis=-1), (right * tied).sum(axis=-1)
    share = right_beside / np.maximum(beside, 1)
    total = np.zeros(above.shape)
    # A system of a tied group stands below 0, 1, … of its group, each as likely.
    for ahead in range(int(beside.max()) + 1):
        stands = (beside >= ahead) & (above + ahead > 0)
        part = (right_above + ahead * share) / np.maximum(above + ahead, 1) / (beside + 1)
        total += np.where(stands, part, 0)
    return np.asarray(2 * total.sum(axis=-1) / (systems - 1) - 1)


def _columns(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[Floats, Floats]:
    if set(a) != set(b):
        raise UsageError(f"systems that only one side has: {', '.join(sorted(set(a) ^ set(b)))}")
    if len(a) < 2:
        raise UsageError("an order needs two systems at least")
    return np.array([a[name] for name in a], dtype=float), np.array([b[name] for name in a], dtype=float)


# MERGE-DOC eval/judge/order_of_runs.py
# """The order of runs under people's grades and under a judge's, over the pairs that both graded."""


def order_of_runs(
    human: Qrels,
    judged: Labels,
    runs: Mapping[str, Run],
    *,
    measure: str = "nDCG@10",
    scale: Sequence[int] = (0, 1, 2, 3),
    top: int = 5,
    resamples: int = 10_000,
    seed: int = 0,
) -> SystemOrder:
    """Measure every run with both sets of grades and compare the orders.

    Only pairs that both graded are used, so that the orders differ by the grades alone and not by what was judged. An
    answer of the judge that is no grade stands for no judgment; the notes say how many there are.

    Raises:
        UsageError: for fewer than two runs, an unknown measure, or no pair that both graded.
    """
    shared = common([human, judged])
    invalid = {
        (topic, document) for topic, document in shared if judged[topic][document] not in scale
    }  # fmt: skip
    if shared == invalid:
        raise UsageError(
            "the judge gave no grade to any pair that people graded, so it orders no runs", fix="Leave the runs out."
        )
    sides = [_graded(only(labels, shared - skipped)) for labels, skipped in ((human, set()), (judged, invalid))]
    values = [
        {name: retrieval_values(run, side, [measure])[measure] for name, run in runs.items()} for side in sides
    ]  # fmt: skip
    found = order_agreement(values[0], values[1], measure=measure, top=top, resamples=resamples, seed=seed)
    notes = list(found.notes)
    if left_out := size(human) - len(shared):
        notes.append(
            f"{left_out} of {size(human)} pairs that people graded are not graded by the judge and are left out."
        )
    if invalid:
        notes.append(f"{len(invalid)} pairs whose answer is no grade stand as unjudged on the judge's side.")
    return replace(found, notes=tuple(notes))


def _graded(labels: Labels) -> dict[str, dict[str, int]]:
    rows = {topic: {d: grade for d, grade in row.items() if grade is not None} for topic, row in labels.items()}
    return {topic: row for topic, row in rows.items() if row}
