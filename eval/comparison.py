"""Comparison of systems over the same rows: figures with intervals, paired differences, slices and costs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from searchlora.errors import UsageError
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.figures import (
    PairedComparison,
    Resampling,
    SystemScore,
    ValueTable,
    aggregate_figures,
    aggregate_tables,
    mean_differences,
    mean_figures,
    value_tables,
)
from searchlora.eval.significance import LEVEL, correct, disagreement_note

__all__ = ["Comparison", "PairedComparison", "Slice", "SliceComparison", "SystemScore", "compare"]


@dataclass(frozen=True)
class Slice:
    """A `SystemScore` over the rows with one value of a slice, for example `turn` = `3`."""

    slice: str
    value: str
    row: SystemScore


@dataclass(frozen=True)
class SliceComparison:
    """A `PairedComparison` over the rows with one value of a slice."""

    slice: str
    value: str
    pair: PairedComparison


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        systems: Names, in the order of tables.
        measures: The compared measures, the headline first; another one may exist for some systems only.
        candidate: The system under test, compared with every other system; None without a candidate.
        baseline: The system that every other system is compared with; None without a baseline.
        correction: The method behind `p_corrected`.
        groups, measure_groups: Number of clusters of all measures together, and of the rows that each measure covers.
        values: Measure -> system -> row id -> value, over the shared rows.
        invalid: System -> row id -> why its output did not parse.
        answered: System -> number of rows it answered, including those that other systems did not; the denominator of
            the invalid rate.
        unjudged: Figures about unjudged documents (`eval.unjudged`).
        costs: System -> mean costs of a row.
        circular: System -> why its figures are circular; only systems with circular figures.
        notes: Notes for the reader, starting with what was left out.
        less_is_better: The measures of which smaller values are better.
        zero_is_best: The aggregates of which 0 is best; systems are not compared by them.
    """

    systems: tuple[str, ...]
    measures: tuple[str, ...]
    candidate: str | None
    baseline: str | None
    correction: str
    groups: int
    measure_groups: Mapping[str, int]
    rows: tuple[SystemScore, ...]
    comparisons: tuple[PairedComparison, ...]
    slices: tuple[Slice, ...]
    slice_pairs: tuple[SliceComparison, ...]
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    invalid: Mapping[str, Mapping[str, str]]
    answered: Mapping[str, int]
    unjudged: tuple[SystemScore, ...] = ()
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    circular: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    less_is_better: tuple[str, ...] = ()
    zero_is_best: tuple[str, ...] = ()

    @property
    def main_pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs (a, b) shown first: the candidate with each other system, else each other one with the baseline."""
        others = [system for system in self.systems if system != (self.candidate or self.baseline)]
        if self.candidate is not None:
            return tuple((self.candidate, other) for other in others)
        return tuple((other, self.baseline) for other in others if self.baseline is not None)

    @property
    def row_measure(self) -> str | None:
        """The first measure with a value per row in all systems: the headline, unless it is an aggregate; else None."""
        return next((m for m in self.measures if len(self.values.get(m, ())) == len(self.systems)), None)

    @property
    def aggregates(self) -> tuple[str, ...]:
        """The measures that are not means of rows."""
        return tuple(measure for measure in self.measures if measure not in self.values)

    @property
    def gain_direction(self) -> str:
        """The order of subtraction behind `gains`, in words."""
        reversed_ = self.row_measure in self.less_is_better
        return "the second system minus the first, since less is better" if reversed_ else "the first minus the second"

    def gains(self, a: str, b: str) -> dict[str, float]:
        """Row id -> by how much a is better than b in `row_measure`, which must not be None."""
        measure = str(self.row_measure)
        first, second = self.values[measure][a], self.values[measure][b]
        return {row: self.gain(measure, first[row] - second[row]) for row in first}

    def gain(self, measure: str, difference: float) -> float:
        """A difference in a measure with its sign turned so that above 0 is better."""
        return -difference if measure in self.less_is_better else difference

    def label(self, system: str) -> str:
        """The printed name of a system: `name (circular)` if its figures are circular."""
        return f"{system} (circular)" if system in self.circular else system

    def disagreements(self, pairs: Iterable[PairedComparison]) -> str:
        """Which rules where the interval and the corrected p of some of these pairs disagree; empty if none do."""
        return disagreement_note(
            (f"{self.label(pair.a)} − {self.label(pair.b)} in {pair.measure}", pair.low, pair.high, pair.p_corrected)
            for pair in pairs
        )

    def row(self, system: str, measure: str) -> SystemScore:
        """The figure of one system. Raises KeyError if it does not exist."""
        row = self.find(system, measure)
        if row is None:
            raise KeyError((system, measure))
        return row

    def find(self, system: str, measure: str) -> SystemScore | None:
        """The figure of one system, or None."""
        return next((row for row in self.rows if (row.system, row.measure) == (system, measure)), None)

    def losses(self, systems: Collection[str]) -> tuple[PairedComparison, ...]:
        """The comparisons that the candidate loses against these systems.

        In the headline measure, the system is better by the paired test, corrected over all comparisons.
        """
        return tuple(
            pair
            for pair in self.comparisons
            if (pair.a, pair.measure) == (self.candidate, self.measures[0])
            and pair.b in systems
            and self.gain(pair.measure, pair.difference) < 0
            and pair.p_corrected <= LEVEL
        )

    def pair(self, a: str, b: str, measure: str) -> PairedComparison:
        """The comparison of a with b. Raises KeyError if it was not made."""
        for pair in self.comparisons:
            if (pair.a, pair.b, pair.measure) == (a, b, measure):
                return pair
        raise KeyError((a, b, measure))


def compare(
    systems: Mapping[str, Evaluation],
    *,
    candidate: str | None = None,
    baseline: str | None = None,
    measures: Sequence[str] | None = None,
    also_tested: Sequence[str] = (),
    correction: str = "holm",
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare systems over the rows that all of them have.

    Args:
        systems: Name -> evaluation, in the order of tables.
        candidate: The system under test, compared with every other one (a is the candidate, b the other).
        baseline: The system that every other one is compared with (b is the baseline). At least one of candidate and
            baseline must be given.
        measures: The measures to compare and test. None: all measures, with the headline of the candidate (else of the
            baseline) first; those named in its evaluation's `tested` are tested. The first measure must exist in every
            system; another one is compared between the systems that have it.
        also_tested: Further measures to test, such as that of a policy. A figure about unjudged documents is then a
            measure like the others; a name that no system has is ignored.
        correction: `holm` or `bh`, over all comparisons made. Comparisons within slices are
            corrected among themselves.

    Raises:
        UsageError: when a system does not exist, candidate and baseline are the same or both missing, no measure or no
            row is shared by all systems, a name is both a mean and an aggregate, or two systems give a row different
            clusters.

    Examples:
        >>> base = Evaluation("MRR", {"MRR": {"q1": 0.5, "q2": 0.2, "q3": 0.0, "q4": 1.0}}, clusters={})
        >>> adapter = Evaluation("MRR", {"MRR": {"q1": 1.0, "q2": 0.5, "q3": 0.2, "q4": 1.0}}, clusters={})
        >>> result = compare({"base": base, "adapter": adapter}, candidate="adapter", resamples=200)
        >>> pair = result.pair("adapter", "base", "MRR")
        >>> round(pair.difference, 2), pair.wins, pair.losses, pair.ties
        (0.25, 3, 0, 1)
    """
    systems = {name: _with_unjudged(system, also_tested) for name, system in systems.items()}
    leading = systems[_leading(systems, candidate, baseline)]
    clusters = clusters_of(systems)
    every = _all_measures(systems, leading.headline)
    also_tested = [measure for measure in also_tested if measure in every]
    requested = tuple(dict.fromkeys([*measures, *also_tested])) if measures is not None else every
    aggregates = {measure for system in systems.values() for measure in system.aggregates}
    _refuse_ambiguous_names(systems, aggregates)
    required = requested[:1]
    tables, notes = value_tables(
        {name: system.values for name, system in systems.items()},
        [measure for measure in requested if measure not in aggregates],
        clusters,
        required,
    )
    sums, notes_on_sums = aggregate_tables(
        {name: system.aggregates for name, system in systems.items()},
        [measure for measure in requested if measure in aggregates],
        clusters,
        required,
    )
    if not tables and not sums:
        raise UsageError("no measure has a row that all systems share", fix=f"Asked for: {', '.join(requested)}.")
    present = {measure for table in tables for measure in table.measures} | {table.measure for table in sums}
    known = [measure for measure in requested if measure in present]
    tested = (*leading.tested, *also_tested) if measures is None and leading.tested else tuple(known)
    pairs = tuple(_pairs(list(systems), candidate, baseline))
    resampling = Resampling(resamples, seed)
    order = _by_measure(known)
    zero = {measure for system in systems.values() for measure in system.zero_is_best}
    less = {measure for system in systems.values() for measure in system.less_is_better}

    slices, slice_pairs = _slices(_sliced(systems), tables, pairs, tested, resampling)
    slice_pairs = [replace(part, pair=_with_wins_of_better(part.pair, less)) for part in slice_pairs]
    rows = [row for table in tables for row in mean_figures(table, resampling)]
    compared = [
        _with_wins_of_better(pair, less)
        for table in tables
        for pair in mean_differences(table, pairs, tested, resampling)
    ]
    for table in sums:
        own_pairs = pairs if table.measure in tested and table.measure not in zero else ()
        own_rows, differences = aggregate_figures(table, own_pairs, resampling)
        rows += own_rows
        compared += differences
    return Comparison(
        systems=tuple(systems),
        measures=tuple(known),
        candidate=candidate,
        baseline=baseline,
        correction=correction,
        groups=len(set().union(*(table.groups for table in tables), *(table.groups for table in sums))),
        measure_groups={
            **{measure: len(set(table.groups)) for table in tables for measure in table.measures},
            **{table.measure: len(table.groups) for table in sums},
        },
        rows=tuple(sorted(rows, key=order)),
        comparisons=_corrected(sorted(compared, key=order), correction),
        slices=tuple(sorted(slices, key=lambda part: order(part.row))),
        slice_pairs=_corrected_slices(sorted(slice_pairs, key=lambda part: order(part.pair)), correction),
        values={
            measure: next(table.by_system(measure) for table in tables if measure in table.measures)
            for measure in known
            if measure not in aggregates
        },
        invalid={name: dict(system.invalid) for name, system in systems.items()},
        answered={name: len(_answered_rows(system)) for name, system in systems.items()},
        unjudged=_unjudged(systems, clusters, resampling),
        costs={name: dict(system.costs) for name, system in systems.items() if system.costs},
        circular={name: system.circular for name, system in systems.items() if system.circular},
        notes=tuple(notes + notes_on_sums + _system_notes(systems)),
        less_is_better=tuple(measure for measure in known if measure in less),
        zero_is_best=tuple(measure for measure in known if measure in zero),
    )


def clusters_of(systems: Mapping[str, Evaluation]) -> dict[str, str]:
    """Row id -> its cluster; a row without one is its own cluster. Raises `UsageError` where systems differ."""
    merged: dict[str, str] = {}
    for name, system in systems.items():
        for row in _answered_rows(system).union(*system.unjudged.values()):
            cluster = system.clusters.get(row, row)
            if merged.setdefault(row, cluster) != cluster:
                raise UsageError(f"row {row} is in cluster {merged[row]} and in {cluster}", where=f"system {name}")
    return merged


def _with_unjudged(system: Evaluation, measures: Sequence[str]) -> Evaluation:
    """The evaluation with those of its figures about unjudged documents that are among `measures` as measures."""
    figures = {measure: system.unjudged[measure] for measure in measures if measure in system.unjudged}
    return replace(system, values={**system.values, **figures}) if figures else system


def _answered_rows(evaluation: Evaluation) -> set[str]:
    """Every row that a system answered: rows with a value and rows with an invalid output."""
    aggregated = (aggregate.cells for aggregate in evaluation.aggregates.values())
    return set(evaluation.invalid).union(*evaluation.values.values(), *aggregated)


def _leading(systems: Mapping[str, Evaluation], candidate: str | None, baseline: str | None) -> str:
    """The system whose headline comes first."""
    for name in (candidate, baseline):
        if name is not None and name not in systems:
            raise UsageError(f"there is no system '{name}'", fix=f"Systems: {', '.join(systems)}.")
    leading = candidate if candidate is not None else baseline
    if leading is None:
        raise UsageError("neither a candidate nor a baseline is named", fix=f"Systems: {', '.join(systems)}.")
    if candidate == baseline:
        raise UsageError(f"'{candidate}' cannot be both candidate and baseline", fix="Name one of them only.")
    return leading


def _all_measures(systems: Mapping[str, Evaluation], headline: str) -> tuple[str, ...]:
    names = [name for evaluation in systems.values() for name in (*evaluation.values, *evaluation.aggregates)]
    return tuple(dict.fromkeys([headline, *names]))


def _refuse_ambiguous_names(systems: Mapping[str, Evaluation], aggregates: Collection[str]) -> None:
    for name, evaluation in systems.items():
        if ambiguous := [measure for measure in evaluation.values if measure in aggregates]:
            raise UsageError(f"'{ambiguous[0]}' is both a mean and an aggregate", where=f"system {name}")


def _pairs(names: Sequence[str], candidate: str | None, baseline: str | None) -> Iterator[tuple[str, str]]:
    if candidate is not None:
        yield from ((candidate, name) for name in names if name != candidate)
    if baseline is not None:
        yield from ((name, baseline) for name in names if name not in (baseline, candidate))


def _sliced(systems: Mapping[str, Evaluation]) -> dict[str, dict[str, str]]:
    """Slice -> row id -> value; where two systems differ the later one counts."""
    slices: dict[str, dict[str, str]] = {}
    for evaluation in systems.values():
        for name, by_row in evaluation.slices.items():
            slices.setdefault(name, {}).update(by_row)
    return slices


def _slices(
    sliced: Mapping[str, Mapping[str, str]],
    tables: Sequence[ValueTable],
    pairs: Sequence[tuple[str, str]],
    tested: Sequence[str],
    resampling: Resampling,
) -> tuple[list[Slice], list[SliceComparison]]:
    rows: list[Slice] = []
    compared: list[SliceComparison] = []
    for name, by_row in sliced.items():
        for table in tables:
            places: dict[str, list[int]] = {}
            for index, row in enumerate(table.rows):
                if row in by_row:
                    places.setdefault(by_row[row], []).append(index)
            for value in sorted(places, key=slice_order):
                part = table.take(places[value])
                rows += [Slice(name, value, row) for row in mean_figures(part, resampling)]
                compared += [
                    SliceComparison(name, value, pair) for pair in mean_differences(part, pairs, tested, resampling)
                ]
    return rows, compared


def _unjudged(
    systems: Mapping[str, Evaluation], clusters: Mapping[str, str], resampling: Resampling
) -> tuple[SystemScore, ...]:
    """Figures of the systems that have them, each measure over the rows that these systems share."""
    present = {name: system.unjudged for name, system in systems.items() if system.unjudged}
    names = list(dict.fromkeys(measure for values in present.values() for measure in values))
    tables, _ = value_tables(present, names, clusters, names)
    return tuple(sorted((row for table in tables for row in mean_figures(table, resampling)), key=_by_measure(names)))


def _by_measure(measures: Sequence[str]) -> Callable[[SystemScore | PairedComparison], int]:
    position = {measure: index for index, measure in enumerate(measures)}
    return lambda figure: position[figure.measure]


def _with_wins_of_better(pair: PairedComparison, less: Collection[str]) -> PairedComparison:
    """Wins are the rows on which a is better: where less is better, the rows on which a is below b."""
    return replace(pair, wins=pair.losses, losses=pair.wins) if pair.measure in less else pair


def _corrected(pairs: Sequence[PairedComparison], method: str) -> tuple[PairedComparison, ...]:
    """Corrected over the pairs that have a p; an undefined figure is not tested."""
    known = [pair.p for pair in pairs if not math.isnan(pair.p)]
    corrected = iter(correct(known, method))
    return tuple(pair if math.isnan(pair.p) else replace(pair, p_corrected=next(corrected)) for pair in pairs)


def _corrected_slices(parts: Sequence[SliceComparison], method: str) -> tuple[SliceComparison, ...]:
    corrected = _corrected([part.pair for part in parts], method)
    return tuple(replace(part, pair=pair) for part, pair in zip(parts, corrected, strict=True))


def _system_notes(systems: Mapping[str, Evaluation]) -> list[str]:
    """Each note once; a note that not all systems share starts with the systems that have it."""
    owners: dict[str, list[str]] = {}
    for name, evaluation in systems.items():
        for note in evaluation.notes:
            owners.setdefault(note, []).append(name)
    return [note if len(names) == len(systems) else f"{', '.join(names)}: {note}" for note, names in owners.items()]


def slice_order(value: str) -> tuple[int, float, str]:
    """Sort key for the values of a slice: values that start with a number, then words."""
    number = re.match(r"-?\d+(\.\d+)?(e[+-]?\d+)?", value)
    return (0, float(number[0]), value) if number else (1, 0.0, value)
