"""Parts of a page as data. HTML (`page.py`) and Markdown (`markdown`) render the same tables and notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from searchlora.eval.formatting import interval, markdown_table, markdown_text, number

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """Content of a cell of a table.

    Attributes:
        small: Lines below the text; in Markdown they stand beside it.
        tone: `good` or `bad` for a significant difference, `even` for another difference; empty: plain text.
        tint, colour: Strength of the background, 0 to 1, and its colour: `accent`, `good` or `bad`.
        mark: A symbol beside the text, explained below the table.
        link: Id of the part of the page that the text links to.
    """

    text: str = ""
    small: tuple[str, ...] = ()
    tone: str = ""
    tint: float = 0.0
    colour: str = "accent"
    mark: str = ""
    link: str = ""


@dataclass(frozen=True)
class Line:
    """Cells of a line of a table; `highlighted` for the system under test."""

    cells: tuple[Cell, ...]
    highlighted: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        label: What the table shows, for readers who cannot see the page; unique in a page.
        words: Number of leading columns with text; the other columns hold figures.
        heat: Whether cells have a background.
    """

    label: str
    head: tuple[Cell, ...]
    lines: tuple[Line, ...]
    words: int = 1
    heat: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Heading:
    """A heading; in HTML of the given level, from 3 on."""

    text: str
    level: int = 3
    kind: str = "heading"


@dataclass(frozen=True)
class Text:
    """A paragraph: a note in small type, or plain; `alert` marks bad news, `link` is an address beside the page."""

    text: str
    note: bool = True
    alert: bool = False
    link: str = ""
    kind: str = "text"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    lines: tuple[str, ...]
    kind: str = "bullets"


@dataclass(frozen=True)
class Plot:
    """A drawing with its caption. Markdown leaves it out."""

    drawing: Markup
    title: str = ""
    caption: str = ""
    wide: bool = False
    kind: str = "plot"


@dataclass(frozen=True)
class Group:
    """Blocks that stand together.

    Attributes:
        layout: `fold` (hidden behind its title), `open` (below its title), `plots` (a grid), `beside` (side by side) or
            `part` (of `beside`).
        title: Of what is folded or open; `aside` is shown beside it.
        id: For links within the page.
    """

    layout: str
    blocks: tuple[Block, ...]
    title: str = ""
    aside: str = ""
    id: str = ""
    kind: str = "group"


Block: TypeAlias = Table | Heading | Text | Bullets | Plot | Group


@dataclass(frozen=True)
class Section:
    """A part of a page with its heading.

    Attributes:
        id: For links within the page.
        lead: A sentence below the heading.
        macro: A macro of `macros.html.jinja` that renders `content` below the blocks; empty: none.
    """

    id: str
    title: str
    blocks: tuple[Block, ...] = ()
    lead: str = ""
    macro: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)


def table(label: str, head: Sequence[object], lines: Iterable[Line | Sequence[object]], *, words: int = 1) -> Table:
    """A table from lines of cells, or of what is shown as plain text."""
    return Table(
        label,
        _cells(head),
        tuple(line if isinstance(line, Line) else Line(_cells(line)) for line in lines),
        words,
    )


def line(cells: Sequence[object], highlighted: bool = False) -> Line:
    """A line from cells, or from what is shown as plain text."""
    return Line(_cells(cells), highlighted)


def fold_all_but_first(tables: Sequence[tuple[str, Table]]) -> Iterator[Block]:
    """The tables, given with their titles, with all but the first one folded."""
    for number_of_table, (title, one) in enumerate(tables):
        yield Group("fold", (one,), title) if number_of_table else one


def estimate(value: float, low: float, high: float, sign: str = "", tone: str = "") -> Cell:
    """A value with its interval below it; a dash if it is undefined."""
    return Cell("–") if math.isnan(value) else Cell(f"{value:{sign}.3f}", (interval(low, high, sign),), tone)


def percentage(value: float, low: float, high: float) -> Cell:
    """A share in per cent with its interval below it."""
    return Cell(number(value, ".2%"), () if math.isnan(low) else (f"({low:.2%} to {high:.2%})",))


def markdown(sections: Iterable[Section | None], *, level: int = 3) -> str:
    """Sections as Markdown: tables, notes and lists. The first section has no heading.

    Args:
        level: The level of the headings of sections.
    """
    parts: list[str] = []
    for section in sections:
        if section is None:
            continue
        content = [part for block in section.blocks for part in _markdown(block, level + 1)]
        if content:
            parts += ([f"{'#' * level} {markdown_text(section.title)}"] if parts else []) + content
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block, level: int) -> Iterator[str]:
    if isinstance(block, Table):
        rows = [list(map(_text, line.cells)) for line in block.lines]
        for line, row in zip(block.lines, rows, strict=True):
            row[0] = f"**{row[0]}**" if line.highlighted else row[0]
        yield markdown_table(list(map(_text, block.head)), rows, words=block.words)
    elif isinstance(block, Heading):
        yield f"{'#' * level} {markdown_text(block.text)}"
    elif isinstance(block, Text):
        text = markdown_text(block.text)
        yield f"**{text}**" if block.alert else text
    elif isinstance(block, Bullets):
        yield "\n".join(f"* {markdown_text(text)}" for text in block.lines)
    elif isinstance(block, Group):
        inner = [part for inner_block in block.blocks for part in _markdown(inner_block, level)]
        yield from ([f"{'#' * level} {markdown_text(block.title)}"] if block.title and inner else []) + inner


def _text(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.tone in ("good", "bad") else cell.text
    text = f"{text} {cell.mark}".rstrip()
    for small in cell.small:
        text += f" {small}" if small.startswith(("(", "of ", "×")) else f", {small}"
    return text


def _cells(cells: Sequence[object]) -> tuple[Cell, ...]:
    return tuple(cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in cells)
