"""Pooled figures of all systems over the same rows, with intervals and paired differences, as `blocks` has means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.blocks import Resampling
from searchlora.eval.comparison import Pair, Row
from searchlora.eval.intervals import LIMIT, Floats, by_cluster
from searchlora.eval.judge.measures import rate
from searchlora.eval.pooled import Pooled
from searchlora.eval.power import detectable_effect
from searchlora.eval.resampling import Statistic, intervals, standard_errors, swap_p


@dataclass(frozen=True)
class Pool:
    """A pooled figure of some systems over the same rows.

    Args:
        rows: How many.
        groups: The clusters that they come in.
        systems: Names.
        tables: Sums of each cluster, (clusters, systems, cells).
        statistic, bounds, share: As `Pooled` has them.
    """

    measure: str
    rows: int
    groups: frozenset[str]
    systems: tuple[str, ...]
    tables: Floats
    statistic: Statistic
    bounds: tuple[float, float]
    share: bool


def pool(measure: str, figures: Mapping[str, Pooled], rows: Sequence[str], clusters: Mapping[str, str]) -> Pool:
    """The sums of a figure's cells by cluster.

    Args:
        figures: System -> the figure, whose statistic is the same in all.
        rows: The rows that all have, one at least.

    Raises:
        UsageError: when two rows have different numbers of cells.
    """
    widths = {len(figure.cells[row]) for figure in figures.values() for row in rows}
    if len(widths) > 1:
        raise UsageError(f"{measure} has {min(widths)} cells in one row and {max(widths)} in another")
    cells = np.array([[figure.cells[row] for figure in figures.values()] for row in rows], dtype=float)
    groups = [clusters[row] for row in rows]
    sums, _ = by_cluster(cells.reshape(len(rows), -1), groups)
    first = next(iter(figures.values()))
    return Pool(
        measure,
        len(rows),
        frozenset(groups),
        tuple(figures),
        sums.reshape(-1, *cells.shape[1:]),
        first.statistic,
        first.bounds,
        first.share,
    )


def pooled_figures(pool: Pool, pairs: Sequence[tuple[str, str]], how: Resampling) -> tuple[list[Row], list[Pair]]:
    """The figure of each system, and the difference of those of the pairs (a, b) of which both have it."""
    place = {system: index for index, system in enumerate(pool.systems)}
    names = [(a, b) for a, b in pairs if a in place and b in place]
    signs = np.zeros((len(names), len(place)))
    for row, (a, b) in zip(signs, names, strict=True):
        row[place[a]], row[place[b]] = 1, -1
    reach = pool.bounds[1] - pool.bounds[0]
    found = intervals(
        pool.statistic,
        pool.tables,
        # Wide enough for figures and differences; the figures are cut to their own bounds below.
        bounds=(min(pool.bounds[0], -reach), max(pool.bounds[1], reach)),
        contrasts=np.concatenate([np.eye(len(place)), signs]),
        limit=LIMIT,
        resamples=how.resamples,
        seed=how.seed,
    )
    rows = [
        Row(system, pool.measure, float(value), *_ends(pool, index, float(low), float(high)), pool.rows)
        for index, (system, (value, low, high)) in enumerate(zip(pool.systems, found[: len(place)], strict=True))
    ]
    return rows, _pairs(pool, names, signs, found[len(place) :], how) if names else []


def _ends(pool: Pool, system: int, low: float, high: float) -> tuple[float, float]:
    """An interval within the bounds; that of a share without spread between clusters is found without a bootstrap."""
    if pool.share and low == high:
        part, whole = pool.tables[:, system].T
        return rate(part, whole)[1:] if whole.sum() > 0 else pool.bounds
    low, high = np.clip([low, high], *pool.bounds).tolist()
    return low, high


def _pairs(pool: Pool, names: Sequence[tuple[str, str]], signs: Floats, found: Floats, how: Resampling) -> list[Pair]:
    places = [(pool.systems.index(a), pool.systems.index(b)) for a, b in names]
    chances = swap_p(pool.statistic, pool.tables, places, resamples=how.resamples, seed=how.seed)
    errors = standard_errors(pool.statistic, pool.tables, signs)
    count = len(pool.tables)
    return [
        Pair(
            a, b, pool.measure, float(shift), float(low), float(high),
            p=math.nan if math.isnan(shift) else p, p_corrected=math.nan if math.isnan(shift) else p,
            wins=None, losses=None, ties=None, n=pool.rows,
            p_t=_p_of_t(float(shift), float(error), count), effect=math.nan,
            mde=detectable_effect(count) * float(error) * math.sqrt(count),
        )
        for (a, b), (shift, low, high), p, error in zip(names, found, chances, errors, strict=True)
    ]  # fmt: skip


def _p_of_t(difference: float, error: float, clusters: int) -> float:
    """Two-sided; nan where there is one cluster only, 1 where there is no difference and no spread."""
    from scipy import stats

    if clusters < 2 or math.isnan(difference) or math.isnan(error):
        return math.nan
    if error <= 1e-12:
        return 1.0 if abs(difference) <= 1e-12 else 0.0
    return float(2 * stats.t.sf(abs(difference) / error, clusters - 1))
