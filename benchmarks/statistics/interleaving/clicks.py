"""Click models: how users click on a ranking whose grades are known.

Chuklin, Markov and de Rijke, Click Models for Web Search (2015), chapter 3. A hit of relevance r, from 0 to 1, attracts
a click with probability `NOISE` + (`BEST` - `NOISE`) r. The models differ in which hits a user looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Clicks: TypeAlias = NDArray[np.bool_]

#: Probability of a click on a hit that is looked at: without relevance, and with the highest grade.
NOISE, BEST = 0.05, 0.6

#: Probability that a user of the dependent click model looks on after a click.
_CONTINUES = 0.6

#: Relevance (impressions, ranks), random numbers -> clicks of the same shape.
Model: TypeAlias = Callable[[Floats, np.random.Generator], Clicks]


def position_based(relevance: Floats, rng: np.random.Generator) -> Clicks:
    """Each rank is looked at with probability 1 / rank, whatever was clicked (Richardson et al. 2007)."""
    looked = rng.random(relevance.shape) < 1 / np.arange(1, relevance.shape[1] + 1)
    return looked & _attracted(relevance, rng)


def cascade(relevance: Floats, rng: np.random.Generator) -> Clicks:
    """From the top to the first click (Craswell et al. 2008)."""
    attracted = _attracted(relevance, rng)
    return attracted & (np.cumsum(attracted, axis=1) == 1)


def dependent_click(relevance: Floats, rng: np.random.Generator) -> Clicks:
    """From the top; after each click a user may stop (Guo et al. 2009)."""
    attracted = _attracted(relevance, rng)
    stops = attracted & (rng.random(relevance.shape) >= _CONTINUES)
    before = np.cumsum(stops, axis=1) - stops
    return attracted & (before == 0)


def _attracted(relevance: Floats, rng: np.random.Generator) -> Clicks:
    return rng.random(relevance.shape) < NOISE + (BEST - NOISE) * relevance


MODELS: Mapping[str, Model] = {
    "position-based": position_based,
    "cascade": cascade,
    "dependent click": dependent_click,
}
