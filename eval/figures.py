"""Figures of several systems over shared rows: means and aggregates with intervals, and paired differences.

All measures that the same systems have on the same rows share one array, so one set of resamples serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.aggregate import Aggregate
from searchlora.eval.intervals import LIMIT, Floats, bootstrap_intervals, cluster_sums, proportion
from searchlora.eval.resampling import Statistic, intervals, standard_errors, swap_p
from searchlora.eval.significance import detectable_effect, paired_differences

_T = TypeVar("_T")


@dataclass(frozen=True)
class SystemScore:
    """A measure of one system over n rows, with its 95% interval (nan with a single cluster).

    It is a mean, or an aggregate (`eval.aggregate`); the `value` of an aggregate that is undefined is nan.
    """

    system: str
    measure: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedComparison:
    """Paired comparison of system a with system b over the same n rows, as `significance.PairedDifference`.

    An aggregate has no value per row: wins, losses and ties are None, `effect` is nan, and `p_t` and `mde` use the
    jackknife standard error. Where an aggregate is undefined, so are its difference and p (nan). `p_corrected` is p
    corrected over all pairs and measures of the comparison, over all pairs of all slices, or over all weighted pairs.
    """

    a: str
    b: str
    measure: str
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    wins: int | None = None
    losses: int | None = None
    ties: int | None = None
    n: int = 0
    p_t: float = math.nan
    effect: float = math.nan
    mde: float = math.nan


@dataclass(frozen=True)
class Resampling:
    """Number of resamples and their random seed."""

    resamples: int
    seed: int


@dataclass(frozen=True)
class ValueTable:
    """Values of some measures of some systems, `(rows, measures, systems)`, and the cluster of each row."""

    rows: tuple[str, ...]
    groups: tuple[str, ...]
    systems: tuple[str, ...]
    measures: tuple[str, ...]
    values: Floats

    def take(self, places: Sequence[int]) -> ValueTable:
        """The table of the rows at these positions."""
        return replace(
            self,
            rows=tuple(self.rows[index] for index in places),
            groups=tuple(self.groups[index] for index in places),
            values=self.values[np.asarray(places)],
        )

    def by_system(self, measure: str) -> dict[str, dict[str, float]]:
        """System -> row id -> value."""
        columns = self.values[:, self.measures.index(measure)].T.tolist()
        return {
            system: dict(zip(self.rows, column, strict=True))
            for system, column in zip(self.systems, columns, strict=True)
        }


@dataclass(frozen=True)
class AggregateTable:
    """Sums of the cells of one aggregate, `(clusters, systems, cells)`, with what `Aggregate` knows about it."""

    measure: str
    rows: int
    groups: frozenset[str]
    systems: tuple[str, ...]
    sums: Floats
    statistic: Statistic
    bounds: tuple[float, float]
    share: bool


def value_tables(
    systems: Mapping[str, Mapping[str, Mapping[str, float]]],
    measures: Iterable[str],
    clusters: Mapping[str, str],
    required: Collection[str],
) -> tuple[list[ValueTable], list[str]]:
    """One table for all measures that the same systems have on the same rows, and notes on what was left out.

    Args:
        systems: Name -> measure -> row id -> value.
        clusters: Row id -> its cluster.
        required: Measures that are left out unless every system has them.
    """
    members: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    notes: list[str] = []
    for measure in measures:
        columns = {name: values.get(measure, {}) for name, values in systems.items()}
        if shared := _shared_rows(measure, columns, measure in required, notes):
            members.setdefault(shared, []).append(measure)
    tables = []
    for (names, rows), members_of_table in members.items():
        values = [[[systems[name][measure][row] for row in rows] for name in names] for measure in members_of_table]
        array = np.ascontiguousarray(np.array(values, dtype=float).transpose(2, 0, 1))
        tables.append(ValueTable(rows, tuple(clusters[row] for row in rows), names, tuple(members_of_table), array))
    return tables, notes


def aggregate_tables(
    systems: Mapping[str, Mapping[str, Aggregate]],
    measures: Iterable[str],
    clusters: Mapping[str, str],
    required: Collection[str],
) -> tuple[list[AggregateTable], list[str]]:
    """A table for each aggregate over the rows shared by the systems that have it, and notes; as `value_tables`."""
    tables: list[AggregateTable] = []
    notes: list[str] = []
    for measure in measures:
        by_name = {name: aggregates[measure] for name, aggregates in systems.items() if measure in aggregates}
        columns = {name: by_name[name].cells if name in by_name else {} for name in systems}
        if shared := _shared_rows(measure, columns, measure in required, notes):
            names, rows = shared
            tables.append(aggregate_table(measure, {name: by_name[name] for name in names}, rows, clusters))
    return tables, notes


def aggregate_table(
    measure: str, by_system: Mapping[str, Aggregate], rows: Sequence[str], clusters: Mapping[str, str]
) -> AggregateTable:
    """Sum the cells of an aggregate by cluster, over rows that all systems have. The statistic is the same in all."""
    widths = {len(aggregate.cells[row]) for aggregate in by_system.values() for row in rows}
    if len(widths) > 1:
        raise UsageError(f"{measure} has {min(widths)} cells in one row and {max(widths)} in another")
    cells = np.array([[aggregate.cells[row] for aggregate in by_system.values()] for row in rows], dtype=float)
    groups = [clusters[row] for row in rows]
    sums, _ = cluster_sums(cells.reshape(len(rows), -1), groups)
    first = next(iter(by_system.values()))
    return AggregateTable(
        measure=measure,
        rows=len(rows),
        groups=frozenset(groups),
        systems=tuple(by_system),
        sums=sums.reshape(-1, *cells.shape[1:]),
        statistic=first.statistic,
        bounds=first.bounds,
        share=first.share,
    )


def mean_figures(table: ValueTable, resampling: Resampling) -> list[SystemScore]:
    """The mean of each measure of each system, with its interval."""
    columns = table.values.reshape(len(table.rows), -1)
    limits = bootstrap_intervals(columns, table.groups, **vars(resampling))
    names = [(system, measure) for measure in table.measures for system in table.systems]
    means = columns.mean(axis=0)
    return [
        SystemScore(system, measure, float(mean), float(low), float(high), len(table.rows))
        for (system, measure), mean, (low, high) in zip(names, means, limits, strict=True)
    ]


def mean_differences(
    table: ValueTable,
    pairs: Sequence[tuple[str, str]],
    measures: Sequence[str],
    resampling: Resampling,
) -> list[PairedComparison]:
    """Paired differences of the pairs (a, b) in those of `measures` that the table has; p is not corrected yet."""
    index_of = {name: index for index, name in enumerate(table.systems)}
    present = [(a, b) for a, b in pairs if a in index_of and b in index_of]
    names = [(a, b, measure) for measure in table.measures if measure in measures for a, b in present]
    if not names:
        return []
    by_measure = {measure: table.values[:, table.measures.index(measure)] for _, _, measure in names}
    columns = [by_measure[measure][:, index_of[a]] - by_measure[measure][:, index_of[b]] for a, b, measure in names]
    differences = paired_differences(np.stack(columns, axis=1), table.groups, **vars(resampling))
    return [
        PairedComparison(a, b, measure, **vars(difference), p_corrected=difference.p, n=len(table.rows))
        for (a, b, measure), difference in zip(names, differences, strict=True)
    ]


def aggregate_figures(
    table: AggregateTable, pairs: Sequence[tuple[str, str]], resampling: Resampling
) -> tuple[list[SystemScore], list[PairedComparison]]:
    """The aggregate of each system, and the differences of the pairs (a, b) of which both systems have it."""
    index_of = {system: index for index, system in enumerate(table.systems)}
    names = [(a, b) for a, b in pairs if a in index_of and b in index_of]
    signs = np.zeros((len(names), len(index_of)))
    for row, (a, b) in zip(signs, names, strict=True):
        row[index_of[a]], row[index_of[b]] = 1, -1
    reach = table.bounds[1] - table.bounds[0]
    limits = intervals(
        table.statistic,
        table.sums,
        # Wide enough for values and differences; values are clipped to their own bounds below.
        bounds=(min(table.bounds[0], -reach), max(table.bounds[1], reach)),
        contrasts=np.concatenate([np.eye(len(index_of)), signs]),
        limit=LIMIT,
        **vars(resampling),
    )
    rows = [
        SystemScore(system, table.measure, float(value), *_clipped(table, index, float(low), float(high)), table.rows)
        for index, (system, (value, low, high)) in enumerate(zip(table.systems, limits[: len(index_of)], strict=True))
    ]
    return rows, _aggregate_pairs(table, names, signs, limits[len(index_of) :], resampling) if names else []


def _shared_rows(
    measure: str, columns: Mapping[str, Mapping[str, _T]], required: bool, notes: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The systems that have a measure and the rows that they share; None where it is left out. Adds to `notes`."""
    lacking = [name for name, column in columns.items() if not column]
    if lacking and (required or len(lacking) == len(columns)):
        notes.append(f"{measure} is left out: {', '.join(lacking)} has no value of it.")
        return None
    having = {name: column for name, column in columns.items() if column}
    first, *others = having.values()
    rows = tuple(row for row in first if all(row in column for column in others))
    if not rows:
        notes.append(f"{measure} is left out: no row has it in all systems.")
        return None
    if lacking:
        notes.append(f"{measure} is shown without {', '.join(lacking)}, which has no value of it.")
    if missing := len(set().union(*having.values())) - len(rows):
        notes.append(f"{measure} is over {len(rows)} rows; {missing} that not all systems have are left out.")
    return tuple(having), rows


def _clipped(table: AggregateTable, system: int, low: float, high: float) -> tuple[float, float]:
    """An interval within the bounds; for a share without spread, that of `intervals.proportion`."""
    if table.share and low == high:
        part, total = table.sums[:, system].T
        return proportion(part, total)[1:] if total.sum() > 0 else table.bounds
    low, high = np.clip([low, high], *table.bounds).tolist()
    return low, high


def _aggregate_pairs(
    table: AggregateTable,
    names: Sequence[tuple[str, str]],
    signs: Floats,
    limits: Floats,
    resampling: Resampling,
) -> list[PairedComparison]:
    places = [(table.systems.index(a), table.systems.index(b)) for a, b in names]
    p_values = swap_p(table.statistic, table.sums, places, **vars(resampling))
    errors = standard_errors(table.statistic, table.sums, signs)
    clusters = len(table.sums)
    pairs = []
    for (a, b), (shift, low, high), p, error in zip(names, limits.tolist(), p_values, errors.tolist(), strict=True):
        known_p = math.nan if math.isnan(shift) else p
        pairs.append(
            PairedComparison(
                a=a,
                b=b,
                measure=table.measure,
                difference=shift,
                low=low,
                high=high,
                p=known_p,
                p_corrected=known_p,
                n=table.rows,
                p_t=_t_test_p(shift, error, clusters),
                mde=detectable_effect(clusters) * error * math.sqrt(clusters),
            )
        )
    return pairs


def _t_test_p(difference: float, error: float, clusters: int) -> float:
    """Two-sided p; nan with a single cluster, 1 without difference and spread."""
    from scipy import stats

    if clusters < 2 or math.isnan(difference) or math.isnan(error):
        return math.nan
    if error <= 1e-12:
        return 1.0 if abs(difference) <= 1e-12 else 0.0
    return float(2 * stats.t.sf(abs(difference) / error, clusters - 1))
