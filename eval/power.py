"""How small a difference a paired comparison can find.

Source: Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), by the non-central t distribution; for
retrieval experiments Sakai (Information Retrieval Journal 2016). The computation is statsmodels'.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=1024)
def detectable_effect(count: int) -> float:
    """The standardised difference (Cohen's d_z) that a two-sided paired t test finds in four cases of five at 0.05.

    Args:
        count: Independent pairs, or clusters of them; nan below 2.
    """
    from statsmodels.stats.power import TTestPower

    if count < 2:
        return math.nan
    found = TTestPower().solve_power(nobs=count, alpha=0.05, power=0.8, alternative="two-sided")
    # Its fallback solver gives an array, and at times the same root on the other side of 0 (n = 73).
    return abs(float(np.ravel(found)[0]))
