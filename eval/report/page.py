"""A page of sections as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from searchlora.eval.formatting import number, printable
from searchlora.eval.report.blocks import Section
from searchlora.files import atomic_text

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Alert:
    """A message shown before any figure; `kind` is `bad` or `good`."""

    heading: str
    lines: tuple[str, ...] = ()
    kind: str = "bad"


def write_page(
    path: str | Path,
    title: str,
    sections: Iterable[Section | None],
    provenance: Mapping[str, str],
    *,
    introduction: str = "",
    alerts: Sequence[Alert] = (),
    summary: Sequence[str] = (),
) -> Path:
    """Write a page, atomically. A section that is None is left out.

    Args:
        provenance: Inputs and settings behind the figures, label -> value, in the order shown.
    """
    last = Section("provenance", "Provenance", macro="provenance", content={"entries": provenance})
    page = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            title=title,
            introduction=introduction,
            alerts=alerts,
            summary=summary,
            sections=[section for section in (*sections, last if provenance else None) if section is not None],
        )
    )
    with atomic_text(Path(path)) as out:
        out.write(page)
    return Path(path)


@cache
def _environment() -> Environment:
    """The templates, compiled once per process, which takes a second."""
    from jinja2 import Environment, PackageLoader

    # Everything is escaped except Markup, which only the drawings are.
    environment = Environment(
        loader=PackageLoader("searchlora.eval.report", "."),
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment


def _printable(value: object) -> object:
    """Text of queries, documents and names cannot hold characters that end or reorder what is shown."""
    from markupsafe import Markup

    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
