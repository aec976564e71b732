"""Measures over the same rows as one array, and the figures made from it: one set of resamples serves them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from searchlora.eval.comparison import Pair, Row, WeightedPair
from searchlora.eval.intervals import Floats, bootstrap_intervals
from searchlora.eval.significance import paired_differences, weighted_differences


@dataclass(frozen=True)
class Block:
    """Some measures of all systems over the same rows.

    Args:
        rows: Ids.
        groups: The cluster of each row.
        systems, measures: Names.
        values: (rows, measures, systems).
    """

    rows: tuple[str, ...]
    groups: tuple[str, ...]
    systems: tuple[str, ...]
    measures: tuple[str, ...]
    values: Floats

    def at(self, places: Sequence[int]) -> Block:
        """The rows at some places."""
        index = np.asarray(places)
        return replace(
            self,
            rows=tuple(self.rows[place] for place in places),
            groups=tuple(self.groups[place] for place in places),
            values=self.values[index],
        )

    def by_system(self, measure: str) -> dict[str, dict[str, float]]:
        """system -> row -> value."""
        columns = self.values[:, self.measures.index(measure)].T.tolist()
        return {
            system: dict(zip(self.rows, column, strict=True))
            for system, column in zip(self.systems, columns, strict=True)
        }


@dataclass(frozen=True)
class Resampling:
    """How often, and from which seed."""

    resamples: int
    seed: int


def means(block: Block, how: Resampling, weights: Mapping[str, float] | None = None) -> list[Row]:
    """The mean of each measure of each system, with its interval; weighted where there are weights (row -> weight)."""
    columns = block.values.reshape(len(block.rows), -1)
    of_row = np.array([weights[row] for row in block.rows], dtype=float) if weights is not None else None
    intervals = bootstrap_intervals(columns, block.groups, weights=of_row, resamples=how.resamples, seed=how.seed)
    names = [(system, measure) for measure in block.measures for system in block.systems]
    return [
        Row(system, measure, float(mean), float(low), float(high), len(block.rows))
        for (system, measure), mean, (low, high) in zip(
            names, np.average(columns, axis=0, weights=of_row), intervals, strict=True
        )
    ]


def differences(block: Block, pairs: Sequence[tuple[str, str]], measures: Sequence[str], how: Resampling) -> list[Pair]:
    """Each pair (a, b) of systems in those of the measures that the block has; p is not corrected yet."""
    names = _compared(block, pairs, measures)
    if not names:
        return []
    found = paired_differences(_columns(block, names), block.groups, resamples=how.resamples, seed=how.seed)
    return [
        Pair(a, b, measure, **vars(each), p_corrected=each.p, n=len(block.rows))
        for (a, b, measure), each in zip(names, found, strict=True)
    ]


def differences_weighted(
    block: Block,
    pairs: Sequence[tuple[str, str]],
    measures: Sequence[str],
    how: Resampling,
    weights: Mapping[str, float],
) -> list[WeightedPair]:
    """As `differences`, of the means weighted by `weights` (row -> weight)."""
    names = _compared(block, pairs, measures)
    if not names:
        return []
    of_row = np.array([weights[row] for row in block.rows], dtype=float)
    found = weighted_differences(_columns(block, names), of_row, block.groups, resamples=how.resamples, seed=how.seed)
    return [
        WeightedPair(a, b, measure, **vars(each), p_corrected=each.p, n=len(block.rows))
        for (a, b, measure), each in zip(names, found, strict=True)
    ]


def _compared(block: Block, pairs: Sequence[tuple[str, str]], measures: Sequence[str]) -> list[tuple[str, str, str]]:
    having = [(a, b) for a, b in pairs if a in block.systems and b in block.systems]
    return [(a, b, measure) for measure in block.measures if measure in measures for a, b in having]


def _columns(block: Block, names: Sequence[tuple[str, str, str]]) -> Floats:
    """a minus b in a measure: (rows, names)."""
    place = {name: index for index, name in enumerate(block.systems)}
    columns = [
        block.values[:, block.measures.index(measure), place[a]]
        - block.values[:, block.measures.index(measure), place[b]]
        for a, b, measure in names
    ]
    return np.stack(columns, axis=1)
