"""How many human labels a judge card needs: the half width of an interval as a function of queries and pairs.

Near the observed value, a figure is a mean over pairs of their influence ψ (its derivative by the pair's cell). Pairs
of one query have a part of ψ in common, so with Q queries of m pairs each

    half width = t(0.975, Q − 1) · sqrt((τ² + σ²/m) / Q)

where τ² is the variance of ψ between queries and σ² within them, by the analysis of variance of the pairs that are
there (Searle, Casella and McCulloch, Variance Components, 1992, section 3.6). More pairs per query help only against
σ². For queries as uneven in size as those at hand, the jackknife's standard error is taken instead: it falls with
sqrt(Q). Checked with kappa, binary kappa and the absolute error of eight LLMJudge judges: the predicted spread over
draws of 10 of the 25 queries was 0.94 to 1.08 of the observed one (2,000 draws, corrected for 10 being much of 25);
over draws of 25 queries with 20, or 80, pairs of each it was 0.82 to 1.13 of it (400 draws). The intervals of a card
are studentised, and with few queries they are wider than this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from searchlora.errors import UsageError
from searchlora.eval.judge.agreement import Floats
from searchlora.eval.judge.measures import JudgeMeasure
from searchlora.eval.resampling import influences, standard_error

#: Half widths that a card gives the number of queries for.
WANTED = (0.1, 0.05, 0.02)

_MOST = 1_000_000


@dataclass(frozen=True)
class LabelNeed:
    """What decides how wide the interval of a figure is.

    Attributes:
        measure: Its name.
        spread: sqrt(Q) times the standard error: its share of one query as large as those at hand.
        between, within: τ and σ.
        queries: Q at hand.
        pairs_per_query: Their mean number of pairs.
        wanted: (half width, queries as those at hand that it takes), for `WANTED`; None: more than a million.
    """

    measure: str
    spread: float
    between: float
    within: float
    queries: int
    pairs_per_query: float
    wanted: tuple[tuple[float, int | None], ...] = ()

    def error(self, queries: int, pairs_per_query: float | None = None) -> float:
        """The standard error to expect; see `half_width`."""
        if pairs_per_query is None:
            return self.spread / math.sqrt(queries)
        return math.sqrt((self.between**2 + self.within**2 / pairs_per_query) / queries)

    def half_width(self, queries: int, pairs_per_query: float | None = None) -> float:
        """Half the width of the 95% interval to expect.

        Args:
            queries: How many are labelled.
            pairs_per_query: As many of each; None: as many, and as unevenly, as at hand.

        Raises:
            UsageError: for fewer than two queries or less than one pair.
        """
        from scipy import stats

        if queries < 2 or (pairs_per_query is not None and pairs_per_query < 1):
            raise UsageError("an interval needs two queries at least, and a pair of each")
        return float(stats.t.ppf(0.975, queries - 1)) * self.error(queries, pairs_per_query)

    def queries_for(self, half_width: float, pairs_per_query: float | None = None) -> int | None:
        """The fewest queries whose interval is as narrow as that; None where a million are too few.

        Raises:
            UsageError: for a half width that is not above 0.
        """
        if not half_width > 0:
            raise UsageError("the half width that is wanted must be above 0")
        low, high = 1, _MOST
        if self.half_width(high, pairs_per_query) > half_width:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.half_width(middle, pairs_per_query) <= half_width else (middle, high)
        return high


def label_need(measure: JudgeMeasure, tables: Floats) -> LabelNeed | None:
    """Learn from the labels at hand, `(queries, G, G + 1)`, what more of them would give; None where they do not tell.

    That is with fewer than two queries, no query of two pairs, or a figure that does not exist without some query.
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
    return LabelNeed(**{**vars(need), "wanted": tuple((width, need.queries_for(width)) for width in WANTED)})
