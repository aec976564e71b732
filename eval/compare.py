"""Systems over the same rows: means with intervals, paired differences, slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.significance import bootstrap_intervals, correct, paired_differences


@dataclass(frozen=True)
class Row:
    """The mean of a measure for a system over n rows, with its 95% interval (nan where there is one cluster only)."""

    system: str
    measure: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Pair:
    """System a against system b: a minus b, over the same n rows, as `significance.PairedDifference`.

    `p_corrected` is corrected over all pairs and measures of the comparison.
    """

    a: str
    b: str
    measure: str
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    wins: int
    losses: int
    ties: int
    n: int


@dataclass(frozen=True)
class Slice:
    """A `Row` over the rows with one value of a slice, for example `turn` = `3`."""

    slice: str
    value: str
    row: Row


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        systems: Names, in the order given.
        measures: The measures compared, the headline first in the order asked for.
        against: The system under test.
        correction: How `p_corrected` was made.
        groups: How many clusters the rows come in.
        rows, comparisons, slices: The figures.
        values: measure -> system -> row id -> value, over the common rows; what plots and tables of queries show.
        invalid: system -> row id -> why its output did not parse.
        totals: system -> figures that exist only over all rows, without interval.
        notes: What a reader must know, beginning with what was left out.
    """

    systems: tuple[str, ...]
    measures: tuple[str, ...]
    against: str
    correction: str
    groups: int
    rows: tuple[Row, ...]
    comparisons: tuple[Pair, ...]
    slices: tuple[Slice, ...]
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    invalid: Mapping[str, Mapping[str, str]]
    totals: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = field(default=())

    def row(self, system: str, measure: str) -> Row:
        """The figure of one system. Raises KeyError where there is none."""
        for row in self.rows:
            if (row.system, row.measure) == (system, measure):
                return row
        raise KeyError((system, measure))

    def pair(self, a: str, b: str, measure: str) -> Pair:
        """The comparison of a with b. Raises KeyError where it was not made."""
        for pair in self.comparisons:
            if (pair.a, pair.b, pair.measure) == (a, b, measure):
                return pair
        raise KeyError((a, b, measure))


def compare(
    systems: Mapping[str, Evaluation],
    *,
    against: str,
    baseline: str | None = None,
    measures: Sequence[str] | None = None,
    correction: str = "holm",
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare systems over the rows that all of them have.

    Args:
        systems: name -> its evaluation, in the order in which tables show them.
        against: The system under test: it is set against every other one (a = this one, b = the other).
        baseline: Where given, every other system is set against it too (b = the baseline).
        measures: What to compare and test; None: all that every system has, the headline of `against` first, of
            which those that its evaluation names are tested.
        correction: `holm` or `bh`, over all comparisons made.

    Raises:
        UsageError: when a system is not there, no measure or no row is common to all, or two systems put a row into
            different clusters.
    """
    for name in filter(None, (against, baseline)):
        if name not in systems:
            raise UsageError(f"there is no system '{name}'", fix=f"Systems: {', '.join(systems)}.")
    clusters = _clusters(systems)
    wanted = tuple(measures) if measures is not None else _all_measures(systems, against)
    notes: list[str] = []
    tables = {name: found for name in wanted if (found := _table(systems, name, notes)) is not None}
    if not tables:
        raise UsageError("no measure has a row that all systems share", fix=f"Asked for: {', '.join(wanted)}.")
    tested = systems[against].tested if measures is None and systems[against].tested else tuple(tables)
    names = list(systems)
    against_each = list(_pairs(names, against, baseline))
    rows: list[Row] = []
    pairs: list[Pair] = []
    slices: list[Slice] = []
    for measure, (ids, table) in tables.items():
        groups = [clusters[row] for row in ids]
        rows += _rows(names, measure, table, groups, resamples, seed)
        if measure in tested:
            pairs += _compare_pairs(names, against_each, measure, table, groups, resamples, seed)
        slices += _slices(systems, measure, ids, table, groups, resamples, seed)
    return Comparison(
        systems=tuple(names),
        measures=tuple(tables),
        against=against,
        correction=correction,
        groups=len({clusters[row] for ids, _ in tables.values() for row in ids}),
        rows=tuple(rows),
        comparisons=_corrected(pairs, correction),
        slices=tuple(slices),
        values={measure: _by_system(names, ids, table) for measure, (ids, table) in tables.items()},
        invalid={name: dict(evaluation.invalid) for name, evaluation in systems.items()},
        totals={name: dict(evaluation.totals) for name, evaluation in systems.items()},
        notes=tuple(notes + _system_notes(systems)),
    )


Table = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def _table(systems: Mapping[str, Evaluation], measure: str, notes: list[str]) -> tuple[list[str], Table] | None:
    """Row ids, in the order of the first system, and values (rows, systems)."""
    lacking = [name for name, evaluation in systems.items() if not evaluation.values.get(measure)]
    if lacking:
        notes.append(f"{measure} is left out: {', '.join(lacking)} has no value of it.")
        return None
    columns = [evaluation.values[measure] for evaluation in systems.values()]
    ids = [row for row in columns[0] if all(row in column for column in columns)]
    everything = set().union(*columns)
    if not ids:
        notes.append(f"{measure} is left out: no row has it in all systems.")
        return None
    if missing := len(everything) - len(ids):
        notes.append(f"{measure} is over {len(ids)} rows; {missing} that not all systems have are left out.")
    return ids, np.array([[column[row] for column in columns] for row in ids], dtype=float)


def _by_system(names: Sequence[str], ids: Sequence[str], table: Table) -> dict[str, dict[str, float]]:
    return {name: dict(zip(ids, column, strict=True)) for name, column in zip(names, table.T.tolist(), strict=True)}


def _rows(
    names: Sequence[str], measure: str, table: Table, groups: Sequence[str], resamples: int, seed: int
) -> list[Row]:
    intervals = bootstrap_intervals(table, groups, resamples=resamples, seed=seed)
    return [
        Row(name, measure, float(mean), float(low), float(high), len(table))
        for name, mean, (low, high) in zip(names, table.mean(axis=0), intervals, strict=True)
    ]


def _compare_pairs(
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    measure: str,
    table: Table,
    groups: Sequence[str],
    resamples: int,
    seed: int,
) -> list[Pair]:
    if not pairs:
        return []
    place = {name: index for index, name in enumerate(names)}
    differences = np.stack([table[:, place[a]] - table[:, place[b]] for a, b in pairs], axis=1)
    found = paired_differences(differences, groups, resamples=resamples, seed=seed)
    return [
        Pair(a, b, measure, d.difference, d.low, d.high, d.p, d.p, d.wins, d.losses, d.ties, len(table))
        for (a, b), d in zip(pairs, found, strict=True)
    ]


def _slices(
    systems: Mapping[str, Evaluation],
    measure: str,
    ids: Sequence[str],
    table: Table,
    groups: Sequence[str],
    resamples: int,
    seed: int,
) -> Iterator[Slice]:
    for name in dict.fromkeys(name for evaluation in systems.values() for name in evaluation.slices):
        of_row: dict[str, str] = {}
        for evaluation in systems.values():
            of_row |= evaluation.slices.get(name, {})
        for value in sorted({of_row[row] for row in ids if row in of_row}, key=_natural):
            at = [index for index, row in enumerate(ids) if of_row.get(row) == value]
            members = [groups[index] for index in at]
            for row in _rows(list(systems), measure, table[at], members, resamples, seed):
                yield Slice(name, value, row)


def _natural(value: str) -> tuple[int, float, str]:
    """Numbers in the order of numbers, then words."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def _pairs(names: Sequence[str], against: str, baseline: str | None) -> Iterator[tuple[str, str]]:
    yield from ((against, name) for name in names if name != against)
    if baseline is not None:
        yield from ((name, baseline) for name in names if name not in (baseline, against))


def _corrected(pairs: Sequence[Pair], method: str) -> tuple[Pair, ...]:
    corrected = correct([pair.p for pair in pairs], method)
    return tuple(Pair(**{**vars(pair), "p_corrected": p}) for pair, p in zip(pairs, corrected, strict=True))


def _clusters(systems: Mapping[str, Evaluation]) -> dict[str, str]:
    clusters: dict[str, str] = {}
    for name, evaluation in systems.items():
        for row in set().union(*evaluation.values.values()):
            cluster = evaluation.clusters.get(row, row)
            if clusters.setdefault(row, cluster) != cluster:
                raise UsageError(f"row {row} is in cluster {clusters[row]} and in {cluster}", where=f"system {name}")
    return clusters


def _all_measures(systems: Mapping[str, Evaluation], against: str) -> tuple[str, ...]:
    headline = systems[against].headline
    names = [name for evaluation in systems.values() for name in evaluation.values]
    return tuple(dict.fromkeys([headline, *names]))


def _system_notes(systems: Mapping[str, Evaluation]) -> list[str]:
    """Each note once; one that not all systems share says whose it is."""
    owners: dict[str, list[str]] = {}
    for name, evaluation in systems.items():
        for note in evaluation.notes:
            owners.setdefault(note, []).append(name)
    return [note if len(of) == len(systems) else f"{', '.join(of)}: {note}" for note, of in owners.items()]
