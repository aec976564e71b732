"""Reading of runs, qrels and topics in public file formats, which are detected from the file.

One module describes one format or family: `trec`, `beir`, `records` (jsonl, csv), `quepid` and `opensearch`. Written
are TREC files (`eval.trec`) and OpenSearch's judgment lists. Files are unpacked if their name ends in `.gz`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats.base import Form, Format, Kind, Topics
from searchlora.eval.formats.beir import BEIR
from searchlora.eval.formats.checks import (
    collect_qrels,
    collect_topics,
    ids_of_queries,
    topic_of,
)
from searchlora.eval.formats.opensearch import OPENSEARCH
from searchlora.eval.formats.quepid import QUEPID
from searchlora.eval.formats.records import CSV, JSONL
from searchlora.eval.formats.trec import TREC
from searchlora.files import read_head

__all__ = [
    "FORMATS",
    "Topics",
    "format_of_file",
    "read_qrels",
    "read_run",
    "read_topics",
]

#: All formats in the order in which they are tried.
FORMATS: dict[str, Format] = {format.name: format for format in (TREC, BEIR, JSONL, OPENSEARCH, QUEPID, CSV)}


def read_qrels(
    path: str | Path,
    format: str | None = None,
    *,
    thresholds: Sequence[float] | None = None,
    topics: Topics | None = None,
) -> dict[str, dict[str, int]]:
    """Read judgments as topic -> document -> grade.

    Grades are integers, as trec_eval needs them. A negative grade is allowed, as in TREC: judged, not relevant.

    Args:
        path: A file or a BEIR folder.
        thresholds: Increasing thresholds for ratings that are not integers, for example (0.25, 0.5, 0.75): each
            rating becomes the number of thresholds it reaches. Without them a rating that is not an integer is an
            error.
        topics: For quepid and opensearch, which identify a topic by the text of its query: the topics that provide
            its id. None: the text is the id.

    Raises:
        DataError: naming the line, row or place, for a malformed line, a value that is not a grade, a document judged
            twice for a topic, or a query without a topic; also if there is no judgment at all.
        UsageError: for an unknown format, thresholds that do not increase, or two topics with the same query.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "qrels.txt"
        >>> _ = path.write_text("q1 0 d7 3\\nq1 0 d9 0\\n")
        >>> read_qrels(path)
        {'q1': {'d7': 3, 'd9': 0}}
    """
    path = Path(path)
    form = _form_to_read(path, format, "qrels")
    ids = ids_of_queries(topics) if topics is not None and form.by_query else None
    qrels = collect_qrels(form.read(path), thresholds, ids)
    if not qrels:
        raise DataError("holds no judgment", where=str(path), fix=f"The format is: {form.shape}.")
    return qrels


def read_run(
    path: str | Path, format: str | None = None, *, topics: Topics | None = None
) -> dict[str, dict[str, float]]:
    """Read a run as topic -> document -> score. Ranks in the file are ignored; an empty file has no results.

    Args:
        topics: For a snapshot of Quepid, which identifies a topic by the text of its query: the topics that provide its
            id. None: the text is the id.

    Raises:
        DataError: naming the line, row or place, for a malformed line, a score that is not a finite number, or a
            document ranked twice for a topic, or a query without a topic.
        UsageError: for an unknown format, one that has no runs, or two topics with the same query.
    """
    path = Path(path)
    form = _form_to_read(path, format, "run")
    run: dict[str, dict[str, float]] = form.read(path)
    if topics is None or not form.by_query:
        return run
    ids = ids_of_queries(topics)
    return {topic_of(query, ids, str(path)): documents for query, documents in run.items()}


def read_topics(path: str | Path, format: str | None = None) -> dict[str, dict[str, str | float]]:
    """Read topics, in a file or a BEIR folder, as id -> fields, `query` first. Numbers stay numbers.

    Raises:
        DataError: naming the line or row, for a topic that is malformed or repeated, a query that is missing or blank,
            or a field that is neither text nor a number; also if there is no topic at all.
        UsageError: for an unknown format, or one that has no topics.
    """
    path = Path(path)
    form = _form_to_read(path, format, "topics")
    topics = collect_topics(form.read(path))
    if not topics:
        raise DataError("holds no topic", where=str(path), fix=f"The format is: {form.shape}.")
    return topics


def format_of_file(path: Path, kind: Kind) -> Format:
    """Detect the format of a file from its head, else from the suffix of its name.

    Raises:
        DataError: if neither identifies a format; the message lists the formats tried.
    """
    forms = _forms(kind)
    if path.is_dir():
        return BEIR
    head = read_head(path)
    matches = [name for name, form in forms.items() if form.recognises(head)]
    matches += [name for name, form in forms.items() if head.suffix in form.suffixes]
    if matches:
        return FORMATS[matches[0]]
    tried = "; ".join(f"{name} ({form.shape})" for name, form in forms.items())
    raise DataError(f"has an unknown format of {_plural(kind)}", where=str(path), fix=f"Tried: {tried}.")


def _forms(kind: Kind) -> dict[str, Form]:
    """The formats that have a form for qrels, runs or topics."""
    return {name: form for name, format in FORMATS.items() if (form := getattr(format, kind)) is not None}


def _form_to_read(path: Path, name: str | None, kind: Kind) -> Form:
    return _form(format_of_file(path, kind).name if name is None else name, kind)


def _form(name: str, kind: Kind) -> Form:
    formats = f"Formats of {_plural(kind)}: {', '.join(_forms(kind))}."
    if name not in FORMATS:
        raise UsageError(f"there is no format '{name}'", fix=formats)
    if name not in _forms(kind):
        raise UsageError(f"the format '{name}' has no form for {_plural(kind)}", fix=formats)
    return _forms(kind)[name]


def _plural(kind: Kind) -> str:
    return "runs" if kind == "run" else kind
