"""Systems over the same rows: figures with intervals, paired differences, slices, traffic."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from searchlora.errors import UsageError
from searchlora.eval.blocks import Block, Resampling, differences, differences_weighted, means
from searchlora.eval.common import agreed, blocks_of, clusters_of, pools_of, rows_of
from searchlora.eval.comparison import Comparison, Pair, Row, Slice, SlicePair, WeightedPair
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.pools import pooled_figures
from searchlora.eval.significance import correct
from searchlora.eval.slicing import TRAFFIC, TRAFFIC_NOTE, by_traffic, shown_order

__all__ = ["Comparison", "Pair", "Row", "Slice", "SlicePair", "WeightedPair", "compare"]

_AnyPair = TypeVar("_AnyPair", Pair, WeightedPair)


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
        measures: What to compare and test, means and pooled figures; None: all, the headline of the candidate (else of
            the baseline) first, of which those that its evaluation names are tested. The first one must be of every
            system; another that some lack is compared between those that have it.
        correction: `holm` or `bh`, over all comparisons made; those within slices, and those weighted by traffic, are
            corrected among themselves.

    Raises:
        UsageError: when a system is not there, candidate and baseline are the same or both missing, no measure or no
            row is common to all, a name is that of a mean and of a pooled figure, or two systems put a row into
            different clusters or give it different traffic.
    """
    leading = systems[_leading(systems, candidate, baseline)]
    clusters = clusters_of(systems)
    weights = agreed("traffic", {name: each.weights for name, each in systems.items()})
    wanted = tuple(measures) if measures is not None else _all_measures(systems, leading.headline)
    pooled = {measure for each in systems.values() for measure in each.pooled}
    _refuse_twice(systems, pooled)
    needed = wanted[:1]
    values = {name: each.values for name, each in systems.items()}
    blocks, notes = blocks_of(values, [m for m in wanted if m not in pooled], clusters, needed)
    pools, notes_of_pools = pools_of(
        {name: each.pooled for name, each in systems.items()}, [m for m in wanted if m in pooled], clusters, needed
    )
    if not blocks and not pools:
        raise UsageError("no measure has a row that all systems share", fix=f"Asked for: {', '.join(wanted)}.")
    there = {measure for block in blocks for measure in block.measures} | {each.measure for each in pools}
    known = [measure for measure in wanted if measure in there]
    tested = leading.tested if measures is None and leading.tested else tuple(known)
    pairs = tuple(_pairs(list(systems), candidate, baseline))
    how = Resampling(resamples, seed)
    order = _by_measure(known)
    less = {measure for each in systems.values() for measure in each.less_is_better}
    slices, slice_pairs = _slices(_sliced(systems, weights), blocks, pairs, tested, how)
    of_pools = [pooled_figures(each, pairs if each.measure in tested else (), how) for each in pools]
    rows = [row for block in blocks for row in means(block, how)] + [row for own, _ in of_pools for row in own]
    compared = [
        *(_better(pair, less) for block in blocks for pair in differences(block, pairs, tested, how)),
        *(pair for _, own in of_pools for pair in own),
    ]
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
        groups=len(set().union(*(block.groups for block in blocks), *(each.groups for each in pools))),
        rows=tuple(sorted(rows, key=order)),
        comparisons=_corrected(sorted(compared, key=order), correction),
        slices=tuple(sorted(slices, key=lambda each: order(each.row))),
        slice_pairs=_corrected_slices(
            sorted(
                (replace(each, pair=_better(each.pair, less)) for each in slice_pairs),
                key=lambda each: order(each.pair),
            ),
            correction,
        ),
        values={m: next(b.by_system(m) for b in blocks if m in b.measures) for m in known if m not in pooled},
        invalid={name: dict(each.invalid) for name, each in systems.items()},
        answered={name: len(rows_of(each)) for name, each in systems.items()},
        totals={name: dict(each.totals) for name, each in systems.items()},
        weighted=tuple(sorted(weighted, key=order)),
        weighted_pairs=_corrected(sorted(weighted_pairs, key=order), correction),
        unjudged=_unjudged(systems, clusters, how),
        costs={name: dict(each.costs) for name, each in systems.items() if each.costs},
        circular={name: each.circular for name, each in systems.items() if each.circular},
        notes=tuple(notes + notes_of_pools + _system_notes(systems)),
        less_is_better=tuple(measure for measure in known if measure in less),
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
    blocks, _ = blocks_of(having, names, clusters, names)
    return tuple(sorted((row for block in blocks for row in means(block, how)), key=_by_measure(names)))


def _by_measure(measures: Sequence[str]) -> Callable[[Row | Pair | WeightedPair], int]:
    place = {measure: index for index, measure in enumerate(measures)}
    return lambda figure: place[figure.measure]


def _pairs(names: Sequence[str], candidate: str | None, baseline: str | None) -> Iterator[tuple[str, str]]:
    if candidate is not None:
        yield from ((candidate, name) for name in names if name != candidate)
    if baseline is not None:
        yield from ((name, baseline) for name in names if name not in (baseline, candidate))


def _better(pair: Pair, less: Collection[str]) -> Pair:
    """Wins are the rows on which a is better, which where less is better are those on which it is below."""
    return replace(pair, wins=pair.losses, losses=pair.wins) if pair.measure in less else pair


def _corrected(pairs: Sequence[_AnyPair], method: str) -> tuple[_AnyPair, ...]:
    """Over those that have a p: a figure that does not exist is not tested."""
    known = [pair.p for pair in pairs if not math.isnan(pair.p)]
    corrected = iter(correct(known, method))
    return tuple(pair if math.isnan(pair.p) else replace(pair, p_corrected=next(corrected)) for pair in pairs)


def _corrected_slices(pairs: Sequence[SlicePair], method: str) -> tuple[SlicePair, ...]:
    corrected = _corrected([each.pair for each in pairs], method)
    return tuple(replace(each, pair=pair) for each, pair in zip(pairs, corrected, strict=True))


def _all_measures(systems: Mapping[str, Evaluation], headline: str) -> tuple[str, ...]:
    names = [name for evaluation in systems.values() for name in (*evaluation.values, *evaluation.pooled)]
    return tuple(dict.fromkeys([headline, *names]))


def _refuse_twice(systems: Mapping[str, Evaluation], pooled: Collection[str]) -> None:
    for name, evaluation in systems.items():
        if twice := [measure for measure in evaluation.values if measure in pooled]:
            raise UsageError(f"'{twice[0]}' is a mean and a pooled figure", where=f"system {name}")


def _system_notes(systems: Mapping[str, Evaluation]) -> list[str]:
    """Each note once; one that not all systems share says whose it is."""
    owners: dict[str, list[str]] = {}
    for name, evaluation in systems.items():
        for note in evaluation.notes:
            owners.setdefault(note, []).append(name)
    return [note if len(of) == len(systems) else f"{', '.join(of)}: {note}" for note, of in owners.items()]
