"""A judge's labels from its file, with the answers that were no grade."""

from __future__ import annotations

import json
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.files import numbered_lines
from searchlora.eval.formats import read_qrels


def read_labels(path: str | Path, format: str | None = None) -> dict[str, dict[str, int | None]]:
    """Qrels of a judge as topic -> document -> grade, or None for an answer that was no grade.

    Those are in `<path>.invalid.jsonl`, which `searchlora judge` writes beside the qrels: rows with `topic` and
    `document`. Without that file the qrels alone are read.

    Raises:
        DataError: naming file and line, for what `read_qrels` refuses, a damaged row, or a pair that has a grade too.
        UsageError: for a format that there is not.
    """
    labels: dict[str, dict[str, int | None]] = {
        topic: dict(row) for topic, row in read_qrels(path, format).items()
    }  # fmt: skip
    beside = Path(f"{path}.invalid.jsonl")
    if not beside.exists():
        return labels
    for number, line in numbered_lines(beside):
        where = f"{beside}, line {number}"
        try:
            row = json.loads(line)
            topic, document = str(row["topic"]), str(row["document"])
        except (ValueError, KeyError, TypeError):
            raise DataError("is no row with topic and document", where=where) from None
        if document in labels.setdefault(topic, {}):
            raise DataError(f"document {document} of topic {topic} has a grade or stands twice", where=where)
        labels[topic][document] = None
    return labels
