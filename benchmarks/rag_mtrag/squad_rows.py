"""Training rows from SQuAD, which every fold of MT-RAG gets beside its own.

A small model has to learn two things: whether a passage answers the question, and which one. Most rows are therefore
shorter than those of MT-RAG (`ROWS`), and the answer is only the span with its citation, so the decision weighs more in
the loss than the copied text. Half of the rows lack the answering passage. The distractors of half of the rows are
paragraphs of the same article in BM25 order, those of the others paragraphs of other articles.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rag_mtrag.data import SEED, WORDS, Record, records
from searchlora.data.formats import squad
from searchlora.eval.text_identity import normalised
from searchlora.records import SourceRow
from searchlora.tasks.rag_answer.citations import with_marks
from searchlora.tasks.rag_answer.distractors import WITHOUT_GOLD_SUFFIX
from searchlora.tasks.rag_answer.truncation import passage_texts

#: Number of passages of a row -> number of such rows.
ROWS = {1: 60, 2: 60, 3: 40}


def squad_rows(data: Path, quotas: Mapping[int, int] = ROWS) -> list[Record]:
    """The rows, the same at every call."""
    return list(_rows(data / "squad" / "squaddev_v1.1.json.gz", quotas))


def _rows(source: Path, quotas: Mapping[int, int]) -> Iterator[Record]:
    found, _ = records("squad", source, {"missing": "1"})
    chance, spans = random.Random(SEED), _spans(source)
    chance.shuffle(found)
    pool = [(row["group"], passage) for row in found for passage in row["passages"]]
    answerable = (row for row in found if row["answerable"] and _shows(row, spans[row["id"]]))
    unanswerable = (row for row in found if not row["answerable"])
    for length, count in quotas.items():
        for number in range(count):
            row = next(unanswerable if number % 2 else answerable)
            span = spans[row["id"].removesuffix(WITHOUT_GOLD_SUFFIX)]
            gold = [each for each in row["passages"] if each["id"] in row["gold"]]
            others = [each for each in row["passages"] if each["id"] not in row["gold"]]
            if number % 4 > 1:
                others = _elsewhere(row["group"], span, pool, length, chance)
            yield _row(row, span, [*gold, *others][:length], chance)


def _shows(row: Record, span: str) -> bool:
    """Whether the shown part of the gold passage contains the span."""
    shown = zip(row["passages"], passage_texts(row, WORDS), strict=True)
    return any(passage["id"] in row["gold"] and span in text for passage, text in shown)


def _elsewhere(group: str, span: str, pool: Sequence[tuple[str, Any]], count: int, chance: random.Random) -> list[Any]:
    """Passages of other articles without the span."""
    found: dict[str, Any] = {}
    while len(found) < count:
        article, passage = chance.choice(pool)
        if article != group and normalised(span) not in normalised(passage["text"]):
            found[passage["id"]] = passage
    return list(found.values())


def _row(row: Record, span: str, passages: list[Any], chance: random.Random) -> Record:
    """The record with these passages in random order, and the span as its answer."""
    chance.shuffle(passages)
    made = {**row, "passages": passages}
    if row["answerable"]:
        number = next(number for number, each in enumerate(passages, start=1) if each["id"] in row["gold"])
        made |= {"answer": with_marks(f"{span}.", [number]), "reference": span}
    return made


def _spans(source: Path) -> dict[str, str]:
    """Question -> the span that answers it."""
    return {
        row.data["id"]: row.data["answers"][0]["text"]
        for row in squad.read_squad(source)
        if isinstance(row, SourceRow) and row.data["answers"]
    }
