"""The interval of a rare share, as of invalid answers, when it is counted in queries.

Korn and Graubard, Confidence intervals for proportions with small expected number of positive counts estimated from
survey data (Survey Methodology 1998): the exact binomial interval (Clopper and Pearson 1934) of as many independent
pairs as would give the share its error between queries. A bootstrap has nothing to draw from where a share is 0 or
sits in one query. By simulation with 25 queries of some 160 pairs (1,000 draws each) it covered shares of 0.1 to 5% in
95–98% where answers fail independently and in 90–96% where they are bunched in queries a little (intraclass
correlation 0.01); bunched five times as much, shares of 0.5% and more in 86–93%, and one of 0.1% in 66%: what fails in
one query of hundreds cannot be seen in 25.
"""

from __future__ import annotations

import numpy as np

from searchlora.eval.judge.agreement import Floats


def rate(hits: Floats, sizes: Floats) -> tuple[float, float, float]:
    """A share with its 95% interval.

    Where no query has a hit, or each is all hits, pairs are taken for independent: no spread between queries shows.

    Args:
        hits: Of each query, `(queries,)`.
        sizes: Pairs of each query.
    """
    from scipy import stats

    n, queries = float(sizes.sum()), len(sizes)
    share = float(hits.sum()) / n
    effective = n
    spread = float(((hits - share * sizes) ** 2).sum()) * queries / max(queries - 1, 1) / n**2
    if spread > 0 and queries > 1:
        narrowing = (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, queries - 1)) ** 2
        effective = min(n, share * (1 - share) / spread * narrowing)
    count = share * effective
    low = stats.beta.ppf(0.025, count, effective - count + 1) if share > 0 else 0.0
    high = stats.beta.ppf(0.975, count + 1, effective - count) if share < 1 else 1.0
    return share, float(np.clip(low, 0, share)), float(np.clip(high, share, 1))
