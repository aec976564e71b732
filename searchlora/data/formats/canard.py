"""CANARD: questions in context and their human rewrites (Elgohary et al. 2019, https://sites.google.com/view/qanta/
projects/canard). `train.json`, `dev.json`, `test.json`: arrays of objects with `History` (article title, section
title, then question, answer, question, answer ...), `QuAC_dialog_id`, `Question`, `Question_no`, `Rewrite`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from searchlora.data.formats.sources import split_files
from searchlora.files import Rows, read_rows
from searchlora.records import Collection, Document, Judgment, RejectedRow, SourceRow

FIELDS = ("History", "QuAC_dialog_id", "Question", "Question_no", "Rewrite")
TITLES = 2  # entries of a history before its first question
NO_ANSWER = frozenset({"i don't know.", "i don't know", "cannotanswer"})


def read(source: Path) -> Rows:
    """Questions, from one file or a folder of official splits.

    Yields:
        `dialogue`, `number` (from 1), `article`, `question`, `rewrite`, `turns` (question, answer, ... before this
        question, as published but for the first, in whose place stands its human rewrite), `split`.
    """
    for path, split in split_files(source):
        openings = _openings(path)
        for row in _rows(path):
            if isinstance(row, RejectedRow):
                yield row
            else:
                yield SourceRow(_terms(row.data, openings, split), row.where)


def collection(source: Path) -> Collection:
    """The answers found in the histories as passages, titled with their article.

    The answer to question n of a dialogue stands in the history of its question n+1. Answers that say "I don't know"
    are no passages. The passage of a question is its own answer, grade 1.
    """
    return Collection(
        documents=(
            Document(_answer_id(dialogue, number), answer, article)
            for dialogue, number, article, answer in _answers(source)
        ),
        judgments=(
            Judgment(question_id(dialogue, number), _answer_id(dialogue, number), 1)
            for dialogue, number, _, _ in _answers(source)
        ),
    )


def question_id(dialogue: str, number: int) -> str:
    """The id of a question, the same in records and judgments."""
    return f"{dialogue}_q{number}"


def _answer_id(dialogue: str, number: int) -> str:
    return f"{dialogue}_a{number}"


def _answers(source: Path) -> Iterator[tuple[str, int, str, str]]:
    """Dialogue, number, article and text of every answer, each once."""
    longest: dict[str, int] = {}
    for path, _ in split_files(source):
        for row in _rows(path):
            if isinstance(row, RejectedRow):
                continue
            dialogue, history = row.data["QuAC_dialog_id"], row.data["History"]
            answers = history[TITLES + 1 :: 2]
            for number in range(longest.get(dialogue, 0) + 1, len(answers) + 1):
                answer = answers[number - 1]
                if answer.strip().lower() not in NO_ANSWER:
                    yield dialogue, number, history[0], answer
            longest[dialogue] = max(longest.get(dialogue, 0), len(answers))


def _openings(path: Path) -> dict[str, str]:
    rows = (row.data for row in _rows(path) if isinstance(row, SourceRow))
    return {data["QuAC_dialog_id"]: data["Rewrite"] for data in rows if data["Question_no"] == 1}


def _terms(data: Any, openings: dict[str, str], split: str | None) -> dict[str, Any]:
    turns = data["History"][TITLES:]
    if turns and data["QuAC_dialog_id"] in openings:
        turns = [openings[data["QuAC_dialog_id"]], *turns[1:]]
    return {
        "dialogue": data["QuAC_dialog_id"],
        "number": data["Question_no"],
        "article": data["History"][0],
        "question": data["Question"],
        "rewrite": data["Rewrite"],
        "turns": turns,
        "split": split,
    }


def _rows(path: Path) -> Rows:
    for row in read_rows(path, FIELDS):
        problem = _problem(row.data) if isinstance(row, SourceRow) else None
        yield row if problem is None else RejectedRow(row.where, problem, row.data)


def _problem(data: Any) -> str | None:
    history = data["History"]
    if not isinstance(history, list) or not all(isinstance(text, str) for text in history):
        return "field 'History': is not a list of texts"
    if len(history) < TITLES or len(history) % 2:
        return "field 'History': is not article, section, then pairs of question and answer"
    for name in ("QuAC_dialog_id", "Question", "Rewrite"):
        if not isinstance(data[name], str):
            return f"field '{name}': is not text"
    return None if isinstance(data["Question_no"], int) else "field 'Question_no': is not a whole number"
