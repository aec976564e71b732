"""What systems have in common: the measures, and the rows on which these can be compared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

import numpy as np

from searchlora.errors import UsageError
from searchlora.eval.blocks import Block
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.pooled import Pooled
from searchlora.eval.pools import Pool, pool

_Any = TypeVar("_Any")
_Told = TypeVar("_Told", str, float)

#: Of one measure: system -> row id -> value or cells.
_OfSystem = Mapping[str, Mapping[str, _Any]]


def blocks_of(
    systems: Mapping[str, Mapping[str, Mapping[str, float]]],
    measures: Iterable[str],
    clusters: Mapping[str, str],
    needed: Collection[str],
) -> tuple[list[Block], list[str]]:
    """Measures that the same systems have on the same rows in one block each; and notes of what was left out.

    Args:
        systems: name -> measure -> row id -> value.
        needed: Measures that are left out where one system lacks them; others are of those systems that have them.
    """
    together: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    notes: list[str] = []
    for measure in measures:
        columns = {name: values.get(measure, {}) for name, values in systems.items()}
        if shared := _shared(measure, columns, measure in needed, notes):
            together.setdefault(shared, []).append(measure)
    blocks = []
    for (names, rows), of in together.items():
        values = [[[systems[name][measure][row] for row in rows] for name in names] for measure in of]
        array = np.ascontiguousarray(np.array(values, dtype=float).transpose(2, 0, 1))
        blocks.append(Block(rows, tuple(clusters[row] for row in rows), names, tuple(of), array))
    return blocks, notes


def pools_of(
    systems: Mapping[str, Mapping[str, Pooled]],
    measures: Iterable[str],
    clusters: Mapping[str, str],
    needed: Collection[str],
) -> tuple[list[Pool], list[str]]:
    """Each pooled figure over the rows that the systems that have it share, as `blocks_of`."""
    pools: list[Pool] = []
    notes: list[str] = []
    for measure in measures:
        figures = {name: pooled[measure] for name, pooled in systems.items() if measure in pooled}
        columns = {name: figures[name].cells if name in figures else {} for name in systems}
        if shared := _shared(measure, columns, measure in needed, notes):
            names, rows = shared
            pools.append(pool(measure, {name: figures[name] for name in names}, rows, clusters))
    return pools, notes


def _shared(
    measure: str, columns: _OfSystem[_Any], needed: bool, notes: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The systems that have a measure and the rows that they share; None where it must be left out. Notes are added."""
    lacking = [name for name, column in columns.items() if not column]
    if lacking and (needed or len(lacking) == len(columns)):
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


def rows_of(evaluation: Evaluation) -> set[str]:
    """Every row that a system answered: those with a value, and those whose output was invalid."""
    pooled = (figure.cells for figure in evaluation.pooled.values())
    return set(evaluation.invalid).union(*evaluation.values.values(), *pooled)


def clusters_of(systems: Mapping[str, Evaluation]) -> dict[str, str]:
    """Row -> its cluster, which is the row itself where none is given. Raises `UsageError` where systems differ."""
    return agreed(
        "cluster",
        {
            name: {row: each.clusters.get(row, row) for row in rows_of(each).union(*each.unjudged.values())}
            for name, each in systems.items()
        },
    )


def agreed(what: str, systems: Mapping[str, Mapping[str, _Told]]) -> dict[str, _Told]:
    """What systems say of each row. Raises `UsageError` where two differ."""
    found: dict[str, _Told] = {}
    for name, of_row in systems.items():
        for row, value in of_row.items():
            if found.setdefault(row, value) != value:
                raise UsageError(f"row {row} is in {what} {found[row]} and in {value}", where=f"system {name}")
    return found
