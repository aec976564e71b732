"""Pairs of questions and passages from SQuAD's development set.

Paragraphs are split at sentence ends into passages of about the length of MS MARCO passages. For each question, the
passage with the answer has grade 3, the BM25-best passage of the same article without the answer has grade 1, and the
BM25-best passage of another article without the answer has grade 0.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import native_dataset
from benchmarks.judgment_trecdl19.pools import OPTIONS
from searchlora.data.dataset import Dataset
from searchlora.data.formats import squad
from searchlora.eval.text_identity import normalised
from searchlora.records import Document, SourceRow
from searchlora.retrieval.bm25 import BM25Index

SEED = 13

#: Number of questions of the dataset.
QUESTIONS = 1500

#: Minimum number of words of a passage.
WORDS = 55
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_DEEP = 200


def squad_set(data: Path, folder: Path) -> Dataset:
    """A dataset of such pairs, all for training, built in `folder` if it does not exist."""
    rows = squad_records(data, QUESTIONS)
    return native_dataset(folder, "judgment", rows, options=OPTIONS, split_ratios=(1.0, 0.0, 0.0))


def squad_records(data: Path, questions: int) -> Iterator[Mapping[str, Any]]:
    """The records of random questions, three each."""
    return _squad(data / "squad" / "squaddev_v1.1.json.gz", questions)


def passages(context: str) -> list[tuple[int, str]]:
    """Split a paragraph into passages of whole sentences: (start, text)."""
    starts = [0, *(found.end() for found in _SENTENCE.finditer(context)), len(context)]
    found, begin = [], 0
    for end in starts[1:]:
        if len(context[begin:end].split()) >= WORDS or end == len(context):
            found.append((begin, context[begin:end].strip()))
            begin = end
    return [piece for piece in found if piece[1]]


def _squad(path: Path, number: int) -> Iterator[Mapping[str, Any]]:
    questions = [row.data for row in squad.read_squad(path) if isinstance(row, SourceRow) and row.data["answers"]]
    pieces = {
        f"{paragraph}#{number}": (article, start, text)
        for paragraph, (article, context) in {
            question["paragraph"]: (question["article"], question["context"]) for question in questions
        }.items()
        for number, (start, text) in enumerate(passages(context))
    }
    index = BM25Index([Document(name, text) for name, (_, _, text) in pieces.items()])
    for question in random.Random(SEED).sample(questions, number):
        holding = _holding(question, pieces)
        answers = {normalised(answer["text"]) for answer in question["answers"]}
        others = {True: "", False: ""}
        for hit in index.search([question["question"]], _DEEP)[0]:
            article, _, text = pieces[hit.document]
            same = article == question["article"]
            if not others[same] and not any(answer in normalised(text) for answer in answers):
                others[same] = hit.document
        for name, grade in ((holding, 3), (others[True], 1), (others[False], 0)):
            if name:
                yield _record(f"squad-{question['id']}", question["question"], name, pieces[name][2], grade)


def _holding(question: Mapping[str, Any], pieces: Mapping[str, tuple[str, int, str]]) -> str:
    """The passage with the first character of the first answer."""
    at = question["answers"][0]["start"]
    number = 0
    while (later := f"{question['paragraph']}#{number + 1}") in pieces and pieces[later][1] <= at:
        number += 1
    return f"{question['paragraph']}#{number}"


def _record(topic: str, query: str, document: str, passage: str, grade: int) -> Mapping[str, Any]:
    return {
        "id": f"{topic} {document.replace(' ', '_')}",
        "group": normalised(query),
        "query": query,
        "passage": passage,
        "grade": grade,
    }
