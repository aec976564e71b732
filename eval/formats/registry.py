"""The formats there are, and which of them a file has."""

from __future__ import annotations

from pathlib import Path

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import beir, jsonl, opensearch, parquet, quepid, ranx, table, trec
from searchlora.eval.formats.contract import Form, Format, Kind
from searchlora.eval.formats.head import ending_of, read_head

#: In the order in which they are tried: Parquet is told from its first bytes and comes before what looks at text,
#: OpenSearch before ranx, which takes any object of objects.
FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT for module in (parquet, trec, beir, jsonl, opensearch, ranx, quepid, table)
}


def forms(kind: Kind) -> dict[str, Form]:
    """The formats that have a form for qrels, runs or topics."""
    return {name: form for name, found in FORMATS.items() if (form := getattr(found, kind)) is not None}


def named(name: str, kind: Kind) -> Format:
    """The format of that name.

    Raises:
        UsageError: when there is none, or it has no form of this kind.
    """
    if name not in FORMATS:
        raise UsageError(f"there is no format '{name}'", fix=f"Formats of {_plural(kind)}: {', '.join(forms(kind))}.")
    if name not in forms(kind):
        raise UsageError(
            f"the format '{name}' has no form for {_plural(kind)}",
            fix=f"Formats of {_plural(kind)}: {', '.join(forms(kind))}.",
        )
    return FORMATS[name]


def format_of_file(path: Path, kind: Kind) -> Format:
    """The format in which a file is written, by its beginning, else by the ending of its name.

    Raises:
        DataError: when neither tells; what was tried is said.
    """
    known = forms(kind)
    if path.is_dir():
        return named("beir", kind)
    head = read_head(path)
    for name, form in known.items():
        if form.recognises(head):
            return FORMATS[name]
    for name, form in known.items():
        if head.ending in form.endings:
            return FORMATS[name]
    tried = "; ".join(f"{name} ({form.shape})" for name, form in known.items())
    raise DataError(f"is none of the formats of {_plural(kind)}", where=str(path), fix=f"Tried: {tried}.")


def format_for_name(path: Path, kind: Kind) -> Format:
    """The format to write a file in, by the ending of its name.

    Raises:
        UsageError: when the ending tells none.
    """
    known = forms(kind)
    for name, form in known.items():
        if ending_of(path) in form.endings:
            return FORMATS[name]
    endings = ", ".join(f"{ending} ({name})" for name, form in known.items() for ending in form.endings if ending)
    raise UsageError(
        f"the name does not say in which format {_plural(kind)} are to be written",
        where=str(path),
        fix=f"Name a format ({', '.join(known)}), or end the name in {endings}.",
    )


def _plural(kind: Kind) -> str:
    return "runs" if kind == "run" else kind
