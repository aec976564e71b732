"""Qrels, runs and topics into any format, at once or not at all."""

from __future__ import annotations

import math
import operator
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats.by_query import with_queries
from searchlora.eval.formats.checking import topic_fields
from searchlora.eval.formats.contract import Format, Kind, Topics
from searchlora.eval.formats.registry import format_for_name, named
from searchlora.eval.trec import Qrels, Run


def write_qrels(path: str | Path, qrels: Qrels, format: str | None = None, *, topics: Topics | None = None) -> None:
    """Write judgments.

    Args:
        path: Packed where it ends in `.gz`.
        format: trec, beir, jsonl, parquet, ranx, quepid or opensearch. None: by the ending of the name.
        topics: For quepid and opensearch: the topics whose queries take the place of the ids. None: ids are written
            as queries.

    Raises:
        DataError: for an id that the format has no place for, or a file that cannot be written.
        UsageError: for a format that there is not, or a name that tells none.
    """
    path = Path(path)
    form = _format(path, format, "qrels").qrels
    assert form is not None
    if topics is not None and form.by_query:
        qrels = with_queries(qrels, topics)
    form.write(path, _checked_qrels(qrels))


def write_run(path: str | Path, run: Run, tag: str, format: str | None = None) -> None:
    """Write a run, best documents first. Topics that found nothing have no place in most formats.

    Args:
        tag: The name of the run, for formats that have a place for it: trec.
        format: trec, jsonl, parquet or ranx. None: by the ending of the name.

    Raises:
        DataError: for an id or a tag that the format has no place for, a score that is not finite, or a file that
            cannot be written.
        UsageError: for a format that there is not or that has no runs, or a name that tells none.
    """
    path = Path(path)
    form = _format(path, format, "run").run
    assert form is not None
    form.write(path, _checked_run(run), tag)


def write_topics(path: str | Path, topics: Topics, format: str | None = None) -> None:
    """Write topics.

    Args:
        format: trec (tab-separated, for topics with no field but the query), beir, jsonl, parquet or csv. None: by
            the ending of the name.

    Raises:
        DataError: for a topic without a query, a field that the format has no place for, or a file that cannot be
            written.
        UsageError: for a format that there is not or that has no topics, or a name that tells none.
    """
    path = Path(path)
    form = _format(path, format, "topics").topics
    assert form is not None
    form.write(path, _checked_topics(topics))


def _format(path: Path, name: str | None, kind: Kind) -> Format:
    return format_for_name(path, kind) if name is None else named(name, kind)


def _checked_qrels(qrels: Qrels) -> Qrels:
    """Plain ints, whatever kind of whole number came in."""
    return {
        _id(topic): {_id(document): operator.index(grade) for document, grade in grades.items()}
        for topic, grades in qrels.items()
    }


def _checked_run(run: Run) -> Run:
    return {
        _id(topic): {_id(document): _finite(score, topic, document) for document, score in scores.items()}
        for topic, scores in run.items()
    }


def _checked_topics(topics: Topics) -> Topics:
    for topic, fields in topics.items():
        if "id" in fields:
            raise DataError("a topic has no field 'id' beside its id", where=f"topic {topic}")
    return {_id(topic): topic_fields(fields, f"topic {topic}") for topic, fields in topics.items()}


def _finite(score: float, topic: str, document: str) -> float:
    if not math.isfinite(score):
        raise DataError(f"the score {score} of document {document} is not finite", where=f"topic {topic}")
    return float(score)


def _id(text: str) -> str:
    if not text:
        raise DataError("an id is empty")
    return text
