"""Qrels, runs and topics out of any format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats.by_query import ids_of_queries
from searchlora.eval.formats.checking import collect_qrels, collect_topics
from searchlora.eval.formats.contract import Format, Kind, Topics
from searchlora.eval.formats.registry import format_of_file, named


def read_qrels(
    path: str | Path,
    format: str | None = None,
    *,
    thresholds: Sequence[float] | None = None,
    topics: Topics | None = None,
) -> dict[str, dict[str, int]]:
    """Judgments as topic -> document -> grade.

    Grades are whole numbers, as trec_eval needs them. A negative grade is allowed, as in TREC: judged, not relevant.

    Args:
        path: A file, packed where its name ends in `.gz`, or a BEIR folder.
        format: trec, beir, jsonl, parquet, ranx, quepid or opensearch. None: told from the file.
        thresholds: For ratings that are no whole numbers, rising, for example (0.25, 0.5, 0.75): every rating of the
            file becomes the number of thresholds that it reaches. Without them a rating that is not whole is refused.
        topics: For quepid and opensearch, which name a topic by the text of its query: the topics, from which its id
            is looked up. None: the text is the id.

    Raises:
        DataError: naming the line, row or place: for a line that is malformed, a value that is no grade, a document
            judged twice for a topic, a query that no topic has; or when there is no judgment at all.
        UsageError: for a format that there is not, thresholds that do not rise, or topics of which two have one query.
    """
    path = Path(path)
    form = _format(path, format, "qrels").qrels
    assert form is not None
    ids = ids_of_queries(topics) if topics is not None and form.by_query else None
    qrels = collect_qrels(form.rows(path), thresholds, ids)
    if not qrels:
        raise DataError("holds no judgment", where=str(path), fix=f"The format is: {form.shape}.")
    return qrels


def read_run(path: str | Path, format: str | None = None) -> dict[str, dict[str, float]]:
    """A run as topic -> document -> score. Scores decide; ranks in the file are not used.

    Args:
        format: trec, jsonl, parquet or ranx. None: told from the file.

    Raises:
        DataError: naming the line, row or place: for a line that is malformed, a score that is no finite number, or a
            document ranked twice for a topic. A file without rows is a run that found nothing.
        UsageError: for a format that there is not, or that has no runs.
    """
    path = Path(path)
    form = _format(path, format, "run").run
    assert form is not None
    return form.read(path)


def read_topics(path: str | Path, format: str | None = None) -> dict[str, dict[str, str | float]]:
    """Topics as id -> fields, `query` first among them. Numbers stay numbers.

    Args:
        path: A file, or a BEIR folder.
        format: trec, beir, jsonl, parquet or csv. None: told from the file.

    Raises:
        DataError: naming the line or row: for a topic that is malformed or stands twice, a query that is missing or
            blank, a field that is neither text nor a number; or when there is no topic at all.
        UsageError: for a format that there is not, or that has no topics.
    """
    path = Path(path)
    form = _format(path, format, "topics").topics
    assert form is not None
    topics = collect_topics(form.rows(path))
    if not topics:
        raise DataError("holds no topic", where=str(path), fix=f"The format is: {form.shape}.")
    return topics


def _format(path: Path, name: str | None, kind: Kind) -> Format:
    return format_of_file(path, kind) if name is None else named(name, kind)
