"""Systems over the same rows: means with intervals, paired differences, slices, traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.blocks import Block, Resampling, differences, differences_weighted, means
from searchlora.eval.comparison import Comparison, Pair, Row, Slice, SlicePair, WeightedPair
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.significance import correct
from searchlora.eval.slicing import TRAFFIC, TRAFFIC_NOTE, by_traffic, shown_order

__all__ = ["Comparison", "Pair", "Row", "Slice", "SlicePair", "WeightedPair", "compare"]

_AnyPair = TypeVar("_AnyPair", Pair, WeightedPair)
_Told = TypeVar("_Told", str, float)


def compare(
    systems: Mapping[str, Evaluation],
    *,
    candidate: str | None = None,
    baseline: str | None = None,
    measures: Sequence[str] | None = None,
    correction: str = "holm",
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare systems over the rows that all of them have.

    Args:
        systems: name -> its evaluation, in the order in which tables show them.
        candidate: The system under test: it is set against every other one (a = this one, b = the other).
        baseline: Every other system is set against it (b = the baseline). At least one of both must be given.
        measures: What to compare and test; None: all that every system has, the headline of the candidate (else of
            the baseline) first, of which those that its evaluation names are tested.
        correction: `holm` or `bh`, over all comparisons made; those within slices, and those weighted by traffic, are
            corrected among themselves.

    Raises:
        UsageError: when a system is not there, candidate and baseline are the same or both missing, no measure or no
            row is common to all, or two systems put a row into different clusters or give it different traffic.
    """
    leading = systems[_leading(systems, candidate, baseline)]
    clusters = _agreed("cluster", {name: _clusters(each) for name, each in systems.items()})
    weights = _agreed("traffic", {name: each.weights for name, each in systems.items()})
    wanted = tuple(measures) if measures is not None else _all_measures(systems, leading.headline)
    values = {name: each.values for name, each in systems.items()}
    blocks, notes = _blocks(values, wanted, clusters)
    if not blocks:
        raise UsageError("no measure has a row that all systems share", fix=f"Asked for: {', '.join(wanted)}.")
    known = [measure for measure in wanted if any(measure in block.measures for block in blocks)]
    tested = leading.tested if measures is None and leading.tested else tuple(known)
    pairs = tuple(_pairs(list(systems), candidate, baseline))
    how = Resampling(resamples, seed)
    order = _by_measure(known)
    slices, slice_pairs = _slices(_sliced(systems, weights), blocks, pairs, tested, how)
    compared = [pair for block in blocks for pair in differences(block, pairs, tested, how)]
    known_traffic = list(_with_traffic(blocks, weights, notes))
    weighted = [row for block in known_traffic for row in means(block, how, weights)]
    weighted_pairs = [
        pair for block in known_traffic for pair in differences_weighted(block, pairs, tested, how, weights)
    ]
    return Comparison(
        systems=tuple(systems),
        measures=tuple(known),
        candidate=candidate,
        baseline=baseline,
        correction=correction,
        groups=len({group for block in blocks for group in block.groups}),
        rows=tuple(sorted((row for block in blocks for row in means(block, how)), key=order)),
        comparisons=_corrected(sorted(compared, key=order), correction),
        slices=tuple(sorted(slices, key=lambda each: order(each.row))),
        slice_pairs=_corrected_slices(sorted(slice_pairs, key=lambda each: order(each.pair)), correction),
        values={m: next(b.by_system(m) for b in blocks if m in b.measures) for m in known},
        invalid={name: dict(each.invalid) for name, each in systems.items()},
        answered={name: len(set(each.invalid).union(*each.values.values())) for name, each in systems.items()},
        totals={name: dict(each.totals) for name, each in systems.items()},
        weighted=tuple(sorted(weighted, key=order)),
        weighted_pairs=_corrected(sorted(weighted_pairs, key=order), correction),
        unjudged=_unjudged(systems, clusters, how),
        costs={name: dict(each.costs) for name, each in systems.items() if each.costs},
        circular={name: each.circular for name, each in systems.items() if each.circular},
        notes=tuple(notes + _system_notes(systems)),
    )


def _leading(systems: Mapping[str, Evaluation], candidate: str | None, baseline: str | None) -> str:
    """The system whose headline counts."""
    for name in (candidate, baseline):
        if name is not None and name not in systems:
            raise UsageError(f"there is no system '{name}'", fix=f"Systems: {', '.join(systems)}.")
    leading = candidate if candidate is not None else baseline
    if leading is None:
        raise UsageError("neither a candidate nor a baseline is named", fix=f"Systems: {', '.join(systems)}.")
    if candidate == baseline:
        raise UsageError(f"'{candidate}' cannot be both candidate and baseline", fix="Name one of them only.")
    return leading


def _blocks(
    systems: Mapping[str, Mapping[str, Mapping[str, float]]], measures: Iterable[str], clusters: Mapping[str, str]
) -> tuple[list[Block], list[str]]:
    """Measures that have the same common rows in one block each; and what was left out.

    Args:
        systems: name -> measure -> row id -> value.
    """
    together: dict[tuple[str, ...], list[str]] = {}
    notes = []
    for measure in measures:
        if lacking := [name for name, values in systems.items() if not values.get(measure)]:
            notes.append(f"{measure} is left out: {', '.join(lacking)} has no value of it.")
            continue
        columns = [values[measure] for values in systems.values()]
        rows = tuple(row for row in columns[0] if all(row in column for column in columns))
        if not rows:
            notes.append(f"{measure} is left out: no row has it in all systems.")
            continue
        if missing := len(set().union(*columns)) - len(rows):
            notes.append(f"{measure} is over {len(rows)} rows; {missing} that not all systems have are left out.")
        together.setdefault(rows, []).append(measure)
    return [_block(systems, rows, names, clusters) for rows, names in together.items()], notes


def _block(
    systems: Mapping[str, Mapping[str, Mapping[str, float]]],
    rows: tuple[str, ...],
    measures: Sequence[str],
    clusters: Mapping[str, str],
) -> Block:
    values = [[[column[row] for row in rows] for column in _columns(systems, measure)] for measure in measures]
    return Block(
        rows=rows,
        groups=tuple(clusters[row] for row in rows),
        systems=tuple(systems),
        measures=tuple(measures),
        values=np.ascontiguousarray(np.array(values, dtype=float).transpose(2, 0, 1)),
    )


def _columns(systems: Mapping[str, Mapping[str, Mapping[str, float]]], measure: str) -> list[Mapping[str, float]]:
    return [values[measure] for values in systems.values()]


def _sliced(systems: Mapping[str, Evaluation], weights: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """slice -> row -> value; where two systems differ the later one counts."""
    found: dict[str, dict[str, str]] = {}
    for evaluation in systems.values():
        for name, of_row in evaluation.slices.items():
            found.setdefault(name, {}).update(of_row)
    return {**found, TRAFFIC: by_traffic(weights)} if weights else found


def _slices(
    sliced: Mapping[str, Mapping[str, str]],
    blocks: Sequence[Block],
    pairs: Sequence[tuple[str, str]],
    tested: Sequence[str],
    how: Resampling,
) -> tuple[list[Slice], list[SlicePair]]:
    rows: list[Slice] = []
    compared: list[SlicePair] = []
    for name, of_row in sliced.items():
        for block in blocks:
            places: dict[str, list[int]] = {}
            for place, row in enumerate(block.rows):
                if row in of_row:
                    places.setdefault(of_row[row], []).append(place)
            for value in sorted(places, key=shown_order):
                part = block.at(places[value])
                rows += [Slice(name, value, row) for row in means(part, how)]
                compared += [SlicePair(name, value, pair) for pair in differences(part, pairs, tested, how)]
    return rows, compared


def _with_traffic(blocks: Sequence[Block], weights: Mapping[str, float], notes: list[str]) -> Iterator[Block]:
    """The rows of the blocks whose traffic is known; notes are added."""
    if not weights:
        return
    notes.append(TRAFFIC_NOTE)
    for block in blocks:
        places = [place for place, row in enumerate(block.rows) if row in weights]
        if missing := len(block.rows) - len(places):
            names = ", ".join(block.measures)
            notes.append(f"{missing} rows whose traffic is not known are not in the weighted mean of {names}.")
        if sum(weights[block.rows[place]] for place in places) > 0:
            yield block.at(places)


def _unjudged(systems: Mapping[str, Evaluation], clusters: Mapping[str, str], how: Resampling) -> tuple[Row, ...]:
    """Only of the systems that have such figures, each measure over the rows common to them."""
    having = {name: each.unjudged for name, each in systems.items() if each.unjudged}
    names = list(dict.fromkeys(measure for values in having.values() for measure in values))
    blocks, _ = _blocks(having, names, clusters)
    return tuple(sorted((row for block in blocks for row in means(block, how)), key=_by_measure(names)))


def _by_measure(measures: Sequence[str]) -> Callable[[Row | Pair | WeightedPair], int]:
    place = {measure: index for index, measure in enumerate(measures)}
    return lambda figure: place[figure.measure]


def _pairs(names: Sequence[str], candidate: str | None, baseline: str | None) -> Iterator[tuple[str, str]]:
    if candidate is not None:
        yield from ((candidate, name) for name in names if name != candidate)
    if baseline is not None:
        yield from ((name, baseline) for name in names if name not in (baseline, candidate))


def _corrected(pairs: Sequence[_AnyPair], method: str) -> tuple[_AnyPair, ...]:
    corrected = correct([pair.p for pair in pairs], method)
    return tuple(replace(pair, p_corrected=p) for pair, p in zip(pairs, corrected, strict=True))


def _corrected_slices(pairs: Sequence[SlicePair], method: str) -> tuple[SlicePair, ...]:
    corrected = _corrected([each.pair for each in pairs], method)
    return tuple(replace(each, pair=pair) for each, pair in zip(pairs, corrected, strict=True))


def _clusters(evaluation: Evaluation) -> dict[str, str]:
    rows = set().union(*evaluation.values.values(), *evaluation.unjudged.values())
    return {row: evaluation.clusters.get(row, row) for row in rows}


def _agreed(what: str, systems: Mapping[str, Mapping[str, _Told]]) -> dict[str, _Told]:
    found: dict[str, _Told] = {}
    for name, of_row in systems.items():
        for row, value in of_row.items():
            if found.setdefault(row, value) != value:
                raise UsageError(f"row {row} is in {what} {found[row]} and in {value}", where=f"system {name}")
    return found


def _all_measures(systems: Mapping[str, Evaluation], headline: str) -> tuple[str, ...]:
    names = [name for evaluation in systems.values() for name in evaluation.values]
    return tuple(dict.fromkeys([headline, *names]))


def _system_notes(systems: Mapping[str, Evaluation]) -> list[str]:
    """Each note once; one that not all systems share says whose it is."""
    owners: dict[str, list[str]] = {}
    for name, evaluation in systems.items():
        for note in evaluation.notes:
            owners.setdefault(note, []).append(name)
    return [note if len(of) == len(systems) else f"{', '.join(of)}: {note}" for note, of in owners.items()]
