"""Paired significance tests, effect sizes, power and multiple-testing correction, for rows in clusters.

The main test is paired randomisation by flipping the signs of differences, as recommended for retrieval by Smucker,
Allan and Carterette (CIKM 2007), with the +1 of Phipson and Smyth (2010), so that p is never 0. The paired t test is
reported beside it, with the standard error over clusters and clusters − 1 degrees of freedom.

Power: Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), by statsmodels; for retrieval experiments
Sakai (Information Retrieval Journal 2016).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from searchlora.errors import UsageError, some
from searchlora.eval.intervals import Floats, bootstrap_intervals, cluster_errors, cluster_sums
from searchlora.eval.resampling import randomisation_p

#: Significance level of the statements in reports and policies.
LEVEL = 0.05

#: The printed names of the corrections of `correct`.
CORRECTION_NAMES = {"holm": "Holm", "bh": "Benjamini–Hochberg"}


def disagreement_note(tested: Iterable[tuple[str, float, float, float]]) -> str:
    """Which rules where the interval of a difference and its corrected p disagree; empty where they agree.

    Args:
        tested: Name, ends of the 95% interval, and corrected p of each difference; nan: unknown.

    Examples:
        >>> disagreement_note([("A − B", 0.01, 0.2, 0.08), ("A − C", 0.1, 0.2, 0.001)]).partition(":")[0]
        "The interval excludes 0, but p is above 0.05, for 'A − B'"
    """
    apart, together = list[str](), list[str]()
    for name, low, high, p in tested:
        if any(map(math.isnan, (low, high, p))):
            continue
        if (excludes := low > 0 or high < 0) == (p <= LEVEL):
            continue
        (apart if excludes else together).append(f"'{name}'")
    found = [f"the interval excludes 0, but p is above {LEVEL}, for {some(apart)}"] if apart else []
    found += [f"the interval includes 0, but p is at most {LEVEL}, for {some(together)}"] if together else []
    if not found:
        return ""
    text = f"{'; '.join(found)}: the corrected p decides, since an interval holds for one comparison alone."
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class PairedDifference:
    """The difference of system a and system b over the same rows.

    Attributes:
        difference: Mean of a minus mean of b.
        low, high: Its 95% interval; nan with a single cluster.
        p: Two-sided p of the paired randomisation test.
        wins, losses, ties: Rows on which a is above, below, equal to b.
        p_t: Two-sided p of the paired t test over clusters; nan with a single cluster, 1 if no row differs.
        effect: Cohen's d_z: the difference divided by the standard deviation of the rows' differences; infinite if all
            rows differ by the same amount, 0 if none differs.
        mde: Minimum detectable effect: the smallest true difference, in the unit of the measure, that the t test
            detects with power 0.8 at the two-sided level 0.05, for this number of clusters and this spread.
    """

    difference: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int
    p_t: float
    effect: float
    mde: float


def paired_differences(
    differences: Floats,
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[PairedDifference]:
    """Interval and paired randomisation test for several columns of differences over the same rows.

    Under the null hypothesis the sign of a difference is arbitrary; the signs of all rows of a cluster flip together.
    Ties are kept as differences of 0.

    Args:
        differences: (rows, columns), a minus b.
        clusters: The cluster of each row; None: every row is independent.

    Examples:
        >>> a, b = np.array([1.0, 0.8, 0.9, 0.7, 1.0, 0.6]), np.array([0.5, 0.6, 0.9, 0.4, 0.7, 0.3])
        >>> (result,) = paired_differences((a - b)[:, None])
        >>> round(result.difference, 3), result.wins, result.ties, result.p < 0.1
        (0.267, 5, 1, True)
    """
    sums, sizes = cluster_sums(differences, clusters)
    ends = bootstrap_intervals(differences, clusters, resamples=resamples, seed=seed).tolist()
    chances = _sign_flip_p(sums, resamples, seed).tolist()
    by_t, effects, detectable = _t_tests(differences, sums, sizes)
    return [
        PairedDifference(
            difference=float(column.mean()),
            low=low,
            high=high,
            p=p,
            wins=int((column > 0).sum()),
            losses=int((column < 0).sum()),
            ties=int((column == 0).sum()),
            p_t=float(p_t),
            effect=float(effect),
            mde=float(mde),
        )
        for column, (low, high), p, p_t, effect, mde in zip(
            differences.T, ends, chances, by_t, effects, detectable, strict=True
        )
    ]


def correct(pvalues: Sequence[float], method: str = "holm") -> list[float]:
    """Correct p values for multiple testing: `holm` (family-wise error) or `bh` (false discovery rate).

    Holm, Scandinavian Journal of Statistics 1979; Benjamini and Hochberg, Journal of the Royal Statistical Society B
    1995. The function of statsmodels collects all garbage at each call, which takes 0.2 s once torch is loaded.

    Examples:
        >>> correct([0.01, 0.04], "holm")
        [0.02, 0.04]
    """
    if method not in CORRECTION_NAMES:
        raise UsageError(f"there is no correction '{method}'", fix=f"Known: {', '.join(CORRECTION_NAMES)}.")
    values = np.asarray(pvalues, dtype=float)
    order, count = np.argsort(values), len(values)
    if method == "holm":
        ordered = np.maximum.accumulate(values[order] * np.arange(count, 0, -1))
    else:
        ordered = np.minimum.accumulate((values[order] * count / np.arange(1, count + 1))[::-1])[::-1]
    corrected = np.empty(count)
    corrected[order] = np.minimum(ordered, 1.0)
    return [float(p) for p in corrected]


@lru_cache(maxsize=1024)
def detectable_effect(count: int) -> float:
    """The standardised difference (Cohen's d_z) that a two-sided paired t test detects with power 0.8 at level 0.05.

    Args:
        count: Number of independent pairs, or of clusters of them; nan below 2.

    Examples:
        >>> round(detectable_effect(100), 3)
        0.283
    """
    from statsmodels.stats.power import TTestPower

    if count < 2:
        return math.nan
    effect = TTestPower().solve_power(nobs=count, alpha=0.05, power=0.8, alternative="two-sided")
    # Its fallback solver returns an array, and sometimes the root on the other side of 0 (n = 73).
    return abs(float(np.ravel(effect)[0]))


def _t_tests(differences: Floats, sums: Floats, sizes: Floats) -> tuple[Floats, Floats, Floats]:
    """p of the paired t test, effect and minimum detectable effect, for each column."""
    from scipy import stats

    count = len(sums)
    if count < 2:
        unknown = np.full(sums.shape[1], np.nan)
        return unknown, unknown, unknown
    means, _, error = cluster_errors(sums, sizes)
    spread = differences.std(axis=0, ddof=1)
    # Rounding leaves a spread near 0 instead of 0.
    scale = 1e-12 * np.abs(differences).max(axis=0)
    error, spread = np.where(error <= scale, 0, error), np.where(spread <= scale, 0, spread)
    means = np.where(np.abs(means) <= scale, 0, means)
    with np.errstate(divide="ignore", invalid="ignore"):
        # 0 / 0 (no difference and no spread) is no evidence and no effect.
        ratio, effects = np.nan_to_num([means / error, means / spread], nan=0.0, posinf=np.inf, neginf=-np.inf)
    by_t = 2 * stats.t.sf(np.abs(ratio), count - 1)
    return by_t, effects, detectable_effect(count) * error * math.sqrt(count)


def _sign_flip_p(sums: Floats, resamples: int, seed: int) -> Floats:
    # Sums taken in another order differ in their last digits; those count as equal.
    threshold = np.abs(sums.sum(axis=0)) - 1e-10 * np.abs(sums).sum(axis=0)

    def reached(size: int, rng: np.random.Generator) -> Floats:
        signs = rng.integers(0, 2, size=(size, len(sums)), dtype=np.int8).astype(float) * 2 - 1
        return np.asarray((np.abs(signs @ sums) >= threshold).sum(axis=0))

    return randomisation_p(reached, len(sums), resamples=resamples, seed=seed)
