"""Reading and writing of runs, qrels and topics in public file formats, and detection of the format of a file.

One module describes one format or family: `trec`, `beir`, `records` (jsonl, parquet, csv), `ranx`, `quepid` and
`opensearch`. Where no format is named, reading detects it from the file, and writing takes it from the suffix of the
name. Files are unpacked or compressed if their name ends in `.gz`, and writes are atomic.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from pathlib import Path

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats.base import Form, Format, Kind, Topics
from searchlora.eval.formats.beir import BEIR
from searchlora.eval.formats.checks import (
    collect_qrels,
    collect_topics,
    ids_of_queries,
    topic_fields,
    topic_of,
    with_queries,
)
from searchlora.eval.formats.opensearch import OPENSEARCH
from searchlora.eval.formats.quepid import QUEPID
from searchlora.eval.formats.ranx import RANX
from searchlora.eval.formats.records import CSV, JSONL, PARQUET
from searchlora.eval.formats.trec import TREC
from searchlora.eval.trec import Qrels, Run, StreamedQrels
from searchlora.files import FieldMap, mapped, read_head
from searchlora.files.text import suffix_of

__all__ = [
    "FORMATS",
    "Topics",
    "format_for_name",
    "format_of_file",
    "read_qrels",
    "read_run",
    "read_topics",
    "write_qrels",
    "write_run",
    "write_topics",
]

#: All formats in the order in which they are tried: Parquet is detected from its first bytes, before the text formats;
#: OpenSearch and Quepid come before ranx, which accepts any object of objects.
FORMATS: dict[str, Format] = {
    format.name: format for format in (PARQUET, TREC, BEIR, JSONL, OPENSEARCH, QUEPID, RANX, CSV)
}


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


def read_topics(
    path: str | Path, format: str | None = None, fields: FieldMap | None = None
) -> dict[str, dict[str, str | float]]:
    """Read topics, in a file or a BEIR folder, as id -> fields, `query` first. Numbers stay numbers.

    Args:
        fields: Field -> the fields of the file from which it is read, such as another text as the query; never the id.

    Raises:
        DataError: naming the line or row, for a topic that is malformed or repeated, a query that is missing or blank,
            or a field that is neither text nor a number; also if there is no topic at all.
        UsageError: for an unknown format, one that has no topics, or a map of the id.
    """
    path = Path(path)
    form = _form_to_read(path, format, "topics")
    topics = collect_topics(form.read(path))
    if fields:
        if "id" in fields:
            raise UsageError("the id of a topic is read from 'id' only", where="--map", fix="Rename the column.")
        topics = {
            id_: topic_fields({"query": "", **mapped(row, fields)}, f"{path}, topic {id_}")
            for id_, row in topics.items()
        }
    if not topics:
        raise DataError("holds no topic", where=str(path), fix=f"The format is: {form.shape}.")
    return topics


def write_qrels(path: str | Path, qrels: Qrels, format: str | None = None, *, topics: Topics | None = None) -> None:
    """Write judgments.

    Args:
        topics: For quepid and opensearch: the topics whose queries replace the ids. None: ids are written as queries.

    Raises:
        DataError: for an id that the format cannot hold, or a file that cannot be written.
        UsageError: for an unknown format, or a suffix that implies none.
    """
    path = Path(path)
    form = _form_to_write(path, format, "qrels")
    if topics is not None and form.by_query:
        qrels = with_queries(qrels, topics)
    # Plain ints, whatever kind of integer is given.
    checked = StreamedQrels(
        lambda: (
            (_id(topic), {_id(document): operator.index(grade) for document, grade in grades.items()})
            for topic, grades in qrels.items()
        )
    )
    form.write(path, checked)


def write_run(path: str | Path, run: Run, tag: str, format: str | None = None) -> None:
    """Write a run, best documents first. Most formats cannot hold topics without results.

    Args:
        tag: The name of the run, which only TREC files store.

    Raises:
        DataError: for an id or a tag that the format cannot hold, a score that is not finite, or a file that cannot be
            written.
        UsageError: for an unknown format, one that has no runs, or a suffix that implies none.
    """
    path = Path(path)
    form = _form_to_write(path, format, "run")
    checked = {
        _id(topic): {_id(document): _finite(score, topic, document) for document, score in scores.items()}
        for topic, scores in run.items()
    }
    form.write(path, checked, tag)


def write_topics(path: str | Path, topics: Topics, format: str | None = None) -> None:
    """Write topics.

    Raises:
        DataError: for a topic without a query, a field that the format cannot hold, or a file that cannot be written.
        UsageError: for an unknown format, one that has no topics, or a suffix that implies none.
    """
    path = Path(path)
    form = _form_to_write(path, format, "topics")
    for topic, fields in topics.items():
        if "id" in fields:
            raise DataError("a topic has no field 'id' beside its id", where=f"topic {topic}")
    form.write(path, {_id(topic): topic_fields(fields, f"topic {topic}") for topic, fields in topics.items()})


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


def format_for_name(path: Path, kind: Kind) -> Format:
    """The format that the suffix of a file name implies for writing.

    Raises:
        UsageError: if it implies none.
    """
    forms = _forms(kind)
    for name, form in forms.items():
        if suffix_of(path) in form.suffixes:
            return FORMATS[name]
    suffixes = ", ".join(f"{suffix} ({name})" for name, form in forms.items() for suffix in form.suffixes if suffix)
    raise UsageError(
        f"the name does not imply a format of {_plural(kind)}",
        where=str(path),
        fix=f"Name a format ({', '.join(forms)}), or end the name in {suffixes}.",
    )


def _forms(kind: Kind) -> dict[str, Form]:
    """The formats that have a form for qrels, runs or topics."""
    return {name: form for name, format in FORMATS.items() if (form := getattr(format, kind)) is not None}


def _form_to_read(path: Path, name: str | None, kind: Kind) -> Form:
    return _form(format_of_file(path, kind).name if name is None else name, kind)


def _form_to_write(path: Path, name: str | None, kind: Kind) -> Form:
    return _form(format_for_name(path, kind).name if name is None else name, kind)


def _form(name: str, kind: Kind) -> Form:
    formats = f"Formats of {_plural(kind)}: {', '.join(_forms(kind))}."
    if name not in FORMATS:
        raise UsageError(f"there is no format '{name}'", fix=formats)
    if name not in _forms(kind):
        raise UsageError(f"the format '{name}' has no form for {_plural(kind)}", fix=formats)
    return _forms(kind)[name]


def _plural(kind: Kind) -> str:
    return "runs" if kind == "run" else kind


def _finite(score: float, topic: str, document: str) -> float:
    if not math.isfinite(score):
        raise DataError(f"the score {score} of document {document} is not finite", where=f"topic {topic}")
    return float(score)


def _id(text: str) -> str:
    if not text:
        raise DataError("an id is empty")
    return text
