"""The labels of people and of judges from their files, a judge's with the answers that were no grade."""

from __future__ import annotations

from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels
from searchlora.eval.formats.json_text import json_rows
from searchlora.eval.judgments.card import invalid_path, read_card


def check_of_people(path: str | Path) -> None:
    """Raises `DataError` where the card of a qrels file says that its judgments are not people's."""
    made = read_card(path)
    if made is not None and made.source != "human":
        raise DataError(f"holds judgments of source '{made.source}', not of people", where=str(path))


def read_labels(path: str | Path) -> dict[str, dict[str, int | None]]:
    """Qrels of a judge as topic -> document -> grade, or None for an answer that was no grade.

    Those are in `<path>.invalid.jsonl`, which `searchlora judge` writes beside the qrels: rows with `topic` and
    `document`. Without that file the qrels alone are read, unless their card says that there are such answers.

    Raises:
        DataError: naming file and line, for what `read_qrels` and `read_card` refuse, a damaged row, a pair that has a
            grade too, or fewer such answers, or more, than the card says.
    """
    labels: dict[str, dict[str, int | None]] = {topic: dict(row) for topic, row in read_qrels(path).items()}
    beside, card = invalid_path(path), read_card(path)
    failed = 0
    for where, row in json_rows(beside) if beside.exists() else ():
        if "topic" not in row or "document" not in row:
            raise DataError("is no row with topic and document", where=where)
        topic, document = str(row["topic"]), str(row["document"])
        if document in labels.setdefault(topic, {}):
            raise DataError(f"document {document} of topic {topic} has a grade or stands twice", where=where)
        labels[topic][document] = None
        failed += 1
    if card is not None and card.invalid != failed:
        raise DataError(
            f"has {failed} answers that were no grade where the card of the qrels says {card.invalid}",
            where=str(beside),
            fix="Bring the file that was written with the qrels; without it the judge would look better than it is.",
        )
    return labels
