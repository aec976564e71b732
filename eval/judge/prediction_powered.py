"""Few human labels and many of an LLM judge, made one mean whose interval holds however bad the judge is.

Prediction-powered inference: Angelopoulos, Bates, Fannjiang, Jordan and Zrnic (Science 382, 2023); with the tuning
parameter lambda of PPI++, Angelopoulos, Duchi and Zrnic (arXiv:2311.01453). The mean over the rows that people
labelled is moved by what the judge says of the others,

    value = mean(human) + lambda (mean(judged, other rows) - mean(judged, labelled rows)),

so that a judge's bias cancels. Lambda is the one of least variance, between 0 (people only) and 1.

**Interval**: studentised bootstrap, resampling whole clusters, labelled and other ones apart, lambda fitted anew in
each resample. By simulation (`benchmarks/prediction_powered`, which has the figures) it holds from 20 labelled topics
on, for any judge and for values as skewed as those of MRR. The normal interval of PPI++ is too short there, and
Student's fails for a poor system's MRR. At ten topics none holds where most values are 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from searchlora.errors import DataError, UsageError
from searchlora.eval.intervals import Floats, batches, bootstrap_interval, cluster_draws
from searchlora.eval.measures import retrieval_values
from searchlora.eval.trec import Qrels, Run

#: Fewer topics than these that people judged make no interval that could be believed.
MINIMUM_CLUSTERS = 10


@dataclass(frozen=True)
class PredictionPowered:
    """A mean from human labels and an LLM judge's, beside what the human labels alone say.

    Attributes:
        value, low, high: With the judge, and the 95% interval.
        human_only_value, human_only_low, human_only_high: Without it, by the project's usual interval.
        lam: Weight of the judge, 0 to 1.
        n_human: Rows that people labelled.
        n_judged: Rows that the judge labelled, those of people among them.
        clusters_human, clusters_judged: The same in clusters (topics).
        effective_n: How many rows people alone would have to label for the same standard error. About `n_human` where
            the judge is useless; it can come out a little below, which is the price of fitting lambda. From ten topics
            it says too much of a judge that errs rarely: by simulation 5 times `n_human` where 3 to 4 was true.
    """

    value: float
    low: float
    high: float
    human_only_value: float
    human_only_low: float
    human_only_high: float
    lam: float
    n_human: int
    n_judged: int
    clusters_human: int
    clusters_judged: int
    effective_n: float


def prediction_powered_mean(
    human: Mapping[str, float],
    judged: Mapping[str, float],
    clusters: Mapping[str, str] | None = None,
    *,
    lam: float | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PredictionPowered:
    """The mean over all rows like `judged`, of which people labelled the random few in `human`.

    The rows that people labelled must be a random sample of the judged ones, drawn by row or by whole cluster. Where
    they were chosen (the hard ones, the top ranks), no interval from them holds.

    The judge must not have seen the human labels used here: one calibrated on them looks better than it is.

    Args:
        human: Row (topic, or pair of query and document) -> what people found: a measure, a grade, relevant or not.
        judged: Row -> the same by the judge, the rows of `human` among them. Any unit: where it is not that of
            `human`, lambda adapts as far as 1 allows.
        clusters: Row -> topic. Whole topics are resampled, and the mean is about topics like these. None: every row
            on its own; of pairs, the mean is then about pairs of these very topics.
        lam: Lambda, instead of fitting it. 0: people only; 1: the first paper's estimator.
        resamples: Bootstrap resamples.

    Raises:
        DataError: when a labelled row was not judged, or a value is not finite.
        UsageError: when fewer than `MINIMUM_CLUSTERS` clusters have a human label, or lambda is not in 0 to 1.
    """
    if lam is not None and not 0 <= lam <= 1:
        raise UsageError(f"lambda is {lam}", fix="It goes from 0 (people only) to 1.")
    _check(human, judged, clusters)
    # Values less their means, so that squares lose no digits.
    shift = float(np.mean(list(human.values())))
    strata = Strata(_sums(human, judged, clusters or {}, shift))
    found = strata.estimate(lam)
    names = None if clusters is None else [clusters[row] for row in human]
    alone = bootstrap_interval(list(human.values()), names, resamples=resamples, seed=seed, level=level)
    low, high = alone
    if strata.useful:
        ends = interval(strata, found, lam, level, resamples, np.random.default_rng(seed))
        bounds = (*human.values(), *judged.values())
        low, high = max(ends[0] + shift, min(bounds)), min(ends[1] + shift, max(bounds))
    spent = 1 if lam is None and strata.useful else 0
    price = (strata.labelled - 1 - spent) / (strata.labelled - 1)
    error, before = float(found.error[0]), float(strata.estimate(0.0).error[0])
    return PredictionPowered(
        value=float(found.value[0]) + shift,
        low=low,
        high=high,
        human_only_value=shift,
        human_only_low=alone[0],
        human_only_high=alone[1],
        lam=float(found.lam[0]),
        n_human=len(human),
        n_judged=len(judged),
        clusters_human=strata.labelled,
        clusters_judged=strata.clusters,
        effective_n=len(human) * price * (before / error) ** 2 if error > 0 else math.inf if before > 0 else len(human),
    )


def prediction_powered_measure(
    run: Run,
    human: Qrels,
    judged: Qrels,
    measure: str = "nDCG@10",
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PredictionPowered:
    """A measure of a run over topics like these: people judged the topics of `human`, the judge those of `judged`.

    The rows are topics, the values the measure under each set of judgments. Documents that one of the two did not
    judge count as the measure counts them (nDCG: not relevant), for each by its own judgments.

    Raises:
        DataError, UsageError: as `prediction_powered_mean` and `retrieval_values`.
    """
    people, judge = (retrieval_values(run, qrels, [measure])[measure] for qrels in (human, judged))
    return prediction_powered_mean(people, judge, level=level, resamples=resamples, seed=seed)


def prediction_powered_difference(
    a: Run,
    b: Run,
    human: Qrels,
    judged: Qrels,
    measure: str = "nDCG@10",
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PredictionPowered:
    """The paired difference of two runs, a minus b, topic by topic; see `prediction_powered_measure`."""
    people, judge = (_differences(a, b, qrels, measure) for qrels in (human, judged))
    return prediction_powered_mean(people, judge, level=level, resamples=resamples, seed=seed)


def _differences(a: Run, b: Run, qrels: Qrels, measure: str) -> dict[str, float]:
    of_a, of_b = (retrieval_values(run, qrels, [measure])[measure] for run in (a, b))
    return {topic: of_a[topic] - of_b[topic] for topic in of_a}


def _check(human: Mapping[str, float], judged: Mapping[str, float], clusters: Mapping[str, str] | None) -> None:
    missing = next((row for row in human if row not in judged), None)
    if missing is not None:
        raise DataError(
            "people labelled this row, and the judge did not", where=f"row {missing}", fix="Judge it, or leave it out."
        )
    for who, values in (("human", human), ("judged", judged)):
        odd = next((row for row, value in values.items() if not math.isfinite(value)), None)
        if odd is not None:
            raise DataError(f"the {who} value {values[odd]} is not finite", where=f"row {odd}")
    lost = next((row for row in judged if clusters is not None and row not in clusters), None)
    if lost is not None:
        raise DataError("has no cluster", where=f"row {lost}")
    topics = len({row if clusters is None else clusters[row] for row in human})
    if topics < MINIMUM_CLUSTERS:
        raise UsageError(
            f"people labelled {topics} topic{'s' if topics != 1 else ''}",
            fix=f"Label {MINIMUM_CLUSTERS} or more; from fewer no interval could be believed.",
        )


def _sums(human: Mapping[str, float], judged: Mapping[str, float], clusters: Mapping[str, str], shift: float) -> Floats:
    """What each cluster adds up to: (clusters, 5), as `rectified.SUMS` names them."""
    place = {name: at for at, name in enumerate(dict.fromkeys(clusters.get(row, row) for row in judged))}
    of = np.array([place[clusters.get(row, row)] for row in judged], dtype=int)
    labelled = np.array([row in human for row in judged], dtype=float)
    people = np.array([human.get(row, shift) for row in judged]) - shift
    judge = np.array(list(judged.values()), dtype=float)
    judge -= judge.mean()
    columns = (labelled, people, labelled * judge, 1 - labelled, (1 - labelled) * judge)
    return np.stack([np.bincount(of, weights, minlength=len(place)) for weights in columns], axis=1)


#: What a cluster adds up to: labelled rows, their human values, what the judge said of them; and of its other rows.
SUMS = ("labelled", "human", "judged", "others", "judged others")


@dataclass(frozen=True)
class Estimate:
    """For each resample: the value, its standard error, and lambda."""

    value: Floats
    error: Floats
    lam: Floats


class Strata:
    """Clusters with a human label and clusters without, and what follows from how often each is drawn.

    Args:
        sums: (clusters, 5), see `SUMS`.
    """

    def __init__(self, sums: Floats) -> None:
        with_label = sums[:, 0] > 0
        self.clusters = len(sums)
        self.labelled = int(with_label.sum())
        self.parts = [sums[with_label], sums[~with_label]]
        # Without two clusters of other rows the error of the judge's mean over them is not known; it is not used then.
        self.useful = int((sums[:, 3] > 0).sum()) >= 2
        self._squares = [
            (part[:, :, None] * part[:, None, :]).reshape(len(part), len(SUMS) ** 2) for part in self.parts
        ]

    def estimate(self, lam: float | None, draws: tuple[Floats, Floats] | None = None) -> Estimate:
        """For each resample (row) of `draws`, which hold how often each cluster of the two strata was drawn."""
        labelled, others = draws or (np.ones((1, len(part))) for part in self.parts)
        total = labelled @ self.parts[0] + others @ self.parts[1]
        square = labelled @ self._squares[0] + others @ self._squares[1]
        return _combined(total, square.reshape(-1, len(SUMS), len(SUMS)), lam if self.useful else 0.0)


def _combined(total: Floats, square: Floats, lam: float | None) -> Estimate:
    """Ratio means, linearised: the variance of a mean is the sum over clusters of squared residual sums."""
    labelled, human, judged, others, judged_others = total.T
    mean, known = human / labelled, judged / labelled
    some = others > 0
    rest = np.divide(judged_others, others, out=np.zeros_like(others), where=some)
    one, zero = 1 / labelled, np.zeros_like(labelled)
    other = np.divide(1.0, others, out=np.zeros_like(others), where=some)
    # What a cluster's five sums weigh in the human mean, and in labelled minus other mean of the judge.
    of_human = np.stack([-mean * one, one, zero, zero, zero], axis=1)
    of_judge = np.stack([-known * one, zero, one, rest * other, -other], axis=1)
    if lam is None:
        spread = np.einsum("ri,rij,rj->r", of_judge, square, of_judge)
        shared = np.einsum("ri,rij,rj->r", of_human, square, of_judge)
        fitted = np.clip(np.divide(shared, spread, out=np.zeros_like(shared), where=spread > 1e-18), 0, 1)
    else:
        fitted = np.full_like(mean, lam)
    weights = of_human - fitted[:, None] * of_judge
    variance = np.maximum(np.einsum("ri,rij,rj->r", weights, square, weights), 0)
    return Estimate(mean + fitted * (rest - known), np.sqrt(variance), fitted)


def interval(
    strata: Strata, found: Estimate, lam: float | None, level: float, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Studentised bootstrap, resampling the clusters of each stratum.

    What a good judge leaves over is a few large errors among many rows without any. By simulation (400 draws of nDCG,
    20 of 200 topics labelled) this interval covered 95%.
    """
    value, error = float(found.value[0]), float(found.error[0])
    if error == 0:
        return value, value
    ratios = []
    for draws in _draws([len(part) for part in strata.parts], resamples, rng):
        resampled = strata.estimate(lam, draws)
        shift = resampled.value - value
        # Rounding leaves an error near 0 where it is 0: such a resample has drawn one value only.
        flat = resampled.error <= 1e-9 * error
        ratio = np.divide(shift, resampled.error, out=np.zeros_like(shift), where=~flat)
        ratios.append(np.where(flat & (np.abs(shift) > 1e-12), np.copysign(math.inf, shift), ratio))
    # An infinite ratio must not be interpolated with a finite one.
    upper, lower = np.quantile(np.concatenate(ratios), [(1 + level) / 2, (1 - level) / 2], method="nearest")
    return value - float(upper) * error, value - float(lower) * error


def _draws(sizes: list[int], resamples: int, rng: np.random.Generator) -> Iterator[tuple[Floats, Floats]]:
    """How often each cluster of the two strata was drawn, in blocks of (resamples of the block, clusters)."""
    for rows in batches(resamples, sum(sizes)):
        labelled, others = (cluster_draws(rows, size, rng) for size in sizes)
        yield labelled, others
