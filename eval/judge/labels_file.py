"""A judge's labels from its file, with the answers that were no grade."""

from __future__ import annotations

from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels
from searchlora.eval.formats.json_text import json_rows


def read_labels(path: str | Path) -> dict[str, dict[str, int | None]]:
    """Qrels of a judge as topic -> document -> grade, or None for an answer that was no grade.

    Those are in `<path>.invalid.jsonl`, which `searchlora judge` writes beside the qrels: rows with `topic` and
    `document`. Without that file the qrels alone are read.

    Raises:
        DataError: naming file and line, for what `read_qrels` refuses, a damaged row, or a pair that has a grade too.
    """
    labels: dict[str, dict[str, int | None]] = {
        topic: dict(row) for topic, row in read_qrels(path).items()
    }  # fmt: skip
    beside = Path(f"{path}.invalid.jsonl")
    if not beside.exists():
        return labels
    for where, row in json_rows(beside):
        if "topic" not in row or "document" not in row:
            raise DataError("is no row with topic and document", where=where)
        topic, document = str(row["topic"]), str(row["document"])
        if document in labels.setdefault(topic, {}):
            raise DataError(f"document {document} of topic {topic} has a grade or stands twice", where=where)
        labels[topic][document] = None
    return labels
