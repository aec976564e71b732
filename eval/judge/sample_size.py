"""Sample-size advice: half width of a measure's interval as a function of the number of queries and pairs.

Near the observed value, a measure is a mean over pairs of their influence ψ (its derivative by the pair's cell). Pairs
of one query share a component of ψ, so with Q queries of m pairs each

    half width = t(0.975, Q − 1) · sqrt((τ² + σ²/m) / Q)

where τ² is the variance of ψ between queries and σ² the variance within queries, estimated by analysis of variance
(Searle, Casella and McCulloch, Variance Components, 1992, section 3.6). More pairs per query reduce σ² only. For
queries as uneven in size as the observed ones, the jackknife standard error is used instead: it decreases with
sqrt(Q). Checked with kappa, binary kappa and the absolute error of eight LLMJudge judges: the predicted standard
deviation over draws of 10 of the 25 queries was 0.94 to 1.08 of the observed one (2,000 draws, with finite-population
correction); over draws of 25 queries with 20 or 80 pairs each it was 0.82 to 1.13 of it (400 draws). The intervals of a
card are studentised and wider than this for few queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from searchlora.errors import UsageError
from searchlora.eval.judge.agreement import Floats
from searchlora.eval.judge.measures import JudgeMeasure
from searchlora.eval.resampling import influences, standard_error

#: Half widths for which a judge card states the number of queries.
HALF_WIDTHS = (0.1, 0.05, 0.02)

_MAX_QUERIES = 1_000_000


@dataclass(frozen=True)
class LabelNeed:
    """Variance components of a measure, and the sample sizes that follow.

    Attributes:
        measure: Name of the measure.
        spread: sqrt(Q) times the standard error: the standard deviation per query of the observed size.
        between, within: τ and σ.
        queries: Observed number of queries Q.
        pairs_per_query: Observed mean number of pairs per query.
        targets: (half width, number of queries of the observed size) for `HALF_WIDTHS`; None: more than a million.
    """

    measure: str
    spread: float
    between: float
    within: float
    queries: int
    pairs_per_query: float
    targets: tuple[tuple[float, int | None], ...] = ()

    def error(self, queries: int, pairs_per_query: float | None = None) -> float:
        """Expected standard error; see `half_width`."""
        if pairs_per_query is None:
            return self.spread / math.sqrt(queries)
        return math.sqrt((self.between**2 + self.within**2 / pairs_per_query) / queries)

    def half_width(self, queries: int, pairs_per_query: float | None = None) -> float:
        """Expected half width of the 95% interval.

        Args:
            queries: Number of labelled queries.
            pairs_per_query: Pairs of each query; None: as many, and as uneven, as observed.

        Raises:
            UsageError: for fewer than two queries or less than one pair per query.
        """
        from scipy import stats

        if queries < 2 or (pairs_per_query is not None and pairs_per_query < 1):
            raise UsageError("an interval needs at least two queries with at least one pair each")
        return float(stats.t.ppf(0.975, queries - 1)) * self.error(queries, pairs_per_query)

    def queries_for(self, half_width: float, pairs_per_query: float | None = None) -> int | None:
        """The smallest number of queries with at most that half width; None if a million are too few.

        Raises:
            UsageError: for a half width that is not positive.
        """
        if not half_width > 0:
            raise UsageError(f"the half width is {half_width}", fix="Give a number above 0.")
        low, high = 1, _MAX_QUERIES
        if self.half_width(high, pairs_per_query) > half_width:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.half_width(middle, pairs_per_query) <= half_width else (middle, high)
        return high


def label_need(measure: JudgeMeasure, tables: Floats) -> LabelNeed | None:
    """Estimate the variance components of a measure from tables `(queries, G, G + 1)`; None if not estimable.

    They are not estimable with fewer than two queries, without a query of two pairs, or if leaving out some query makes
    the measure undefined.
    """
    sizes = tables.sum(axis=(-2, -1))
    queries, pairs = len(tables), float(sizes.sum())
    error = standard_error(measure.statistic, tables) if queries > 1 else math.nan
    if math.isnan(error) or pairs <= queries:
        return None
    influence = influences(measure.statistic, tables.sum(axis=0)) * pairs
    sums = (tables * influence).sum(axis=(-2, -1))
    squares = (tables * influence**2).sum(axis=(-2, -1))
    within = float((squares - sums**2 / sizes).sum() / (pairs - queries))
    between = float((sizes * (sums / sizes - sums.sum() / pairs) ** 2).sum() / (queries - 1))
    typical = (pairs - float((sizes**2).sum()) / pairs) / (queries - 1)
    need = LabelNeed(
        measure=measure.name,
        spread=error * math.sqrt(queries),
        between=math.sqrt(max((between - within) / typical, 0)),
        within=math.sqrt(max(within, 0)),
        queries=queries,
        pairs_per_query=pairs / queries,
    )
    return LabelNeed(**{**vars(need), "targets": tuple((width, need.queries_for(width)) for width in HALF_WIDTHS)})
