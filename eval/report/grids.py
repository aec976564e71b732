"""Tables whose cells are tinted: slices, confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: More columns than this are hard to read on any screen.
_COLUMNS = 6


@dataclass(frozen=True)
class Head:
    """The heading of a column or row, and a small line below it."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    Attributes:
        small: Lines below.
        tint: How strong it is coloured, 0 to 1.
        colour: `accent`, `good` or `bad`.
        mark: A sign beside the text, explained below the table.
    """

    text: str
    small: tuple[str, ...] = ()
    tint: float = 0.0
    colour: str = "accent"
    mark: str = ""


@dataclass(frozen=True)
class Grid:
    """Cells by row and column; `corner` names what stands in the first column."""

    corner: str
    columns: tuple[Head, ...]
    rows: tuple[tuple[Head, tuple[Cell, ...]], ...]


def readable(grid: Grid, turned_corner: str) -> Grid:
    """The grid, turned where it has many columns and fewer rows."""
    if len(grid.columns) <= _COLUMNS or len(grid.columns) <= len(grid.rows):
        return grid
    heads, cells = zip(*grid.rows, strict=True)
    return Grid(turned_corner, tuple(heads), tuple(zip(grid.columns, zip(*cells, strict=True), strict=True)))


def confusion(rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], corner: str) -> Grid:
    """Counts, each tinted by its share of its row."""
    return Grid(
        corner,
        tuple(map(Head, columns)),
        tuple(
            (Head(name, f"n = {sum(row)}"), tuple(_count(count, sum(row)) for count in row))
            for name, row in zip(rows, counts, strict=True)
        ),
    )


def _count(count: int, total: int) -> Cell:
    return Cell(str(count), (f"{count / total:.0%}",), count / total) if count else Cell("0")
