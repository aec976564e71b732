"""Pairs from elsewhere, on which one adapter is trained before the five see TREC's: SQuAD and Cranfield.

* **SQuAD** (development set): paragraphs are cut at the ends of sentences into passages of about the length of MS
  MARCO's. Of a question, the passage that holds its answer has grade 3; the passage of the same article that BM25 ranks
  highest and that does not hold the answer's words has grade 1; the highest such passage of another article grade 0.
* **Cranfield**: people's grades 1 to 4 as 3, 2, 1, 1, and as many unjudged abstracts as grade 0.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import write_rows
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.building import build
from searchlora.data.formats import squad
from searchlora.eval.text_identity import normalised
from searchlora.experiments.train import train_or_reuse
from searchlora.progress import Steps
from searchlora.records import Document, RejectedRow, SourceRow
from searchlora.retrieval.bm25 import BM25Index
from searchlora.task import load_task

SEED = 13
NAME = "dl19-warm"
RECIPE = Path(__file__).parent / "warm.yaml"

#: Questions of SQuAD, three pairs each, and queries of Cranfield, all their pairs.
QUESTIONS, ABOUT = 800, 25

#: Words from which on a passage is full.
WORDS = 55
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_DEEP = 200


def warm_adapter(data: Path, work: Path, steps: Steps) -> StoredAdapter:
    """The adapter trained on these pairs; dataset and store lie in `work`, and what is there is used again."""
    folder = work / "warm"
    if not folder.is_dir():
        source = folder.with_suffix(".jsonl")
        write_rows(source, warm_records(data))
        build("judgment", source, format="native", out=folder, shares=(0.95, 0.05, 0.0), on_leak="drop")
    store = Store(work / "store")
    return train_or_reuse("judgment", folder, NAME, recipe=RECIPE, store=store, steps=steps)


def warm_records(data: Path) -> list[Mapping[str, Any]]:
    """The records, in an order that mixes both sources."""
    records = [*_squad(data / "squad" / "squaddev_v1.1.json.gz"), *_cranfield(data / "cranfield")]
    random.Random(SEED).shuffle(records)
    return records


def passages(context: str) -> list[tuple[int, str]]:
    """A paragraph in pieces of whole sentences: where each begins, and its text."""
    starts = [0, *(found.end() for found in _SENTENCE.finditer(context)), len(context)]
    found, begin = [], 0
    for end in starts[1:]:
        if len(context[begin:end].split()) >= WORDS or end == len(context):
            found.append((begin, context[begin:end].strip()))
            begin = end
    return [piece for piece in found if piece[1]]


def _squad(path: Path) -> Iterator[Mapping[str, Any]]:
    questions = [row.data for row in squad.read_squad(path) if isinstance(row, SourceRow) and row.data["answers"]]
    pieces = {
        f"{paragraph}#{number}": (article, start, text)
        for paragraph, (article, context) in {
            each["paragraph"]: (each["article"], each["context"]) for each in questions
        }.items()
        for number, (start, text) in enumerate(passages(context))
    }
    index = BM25Index([Document(name, text) for name, (_, _, text) in pieces.items()])
    for each in random.Random(SEED).sample(questions, QUESTIONS):
        holding = _holding(each, pieces)
        answers = {normalised(answer["text"]) for answer in each["answers"]}
        others = {True: "", False: ""}
        for hit in index.search([each["question"]], _DEEP)[0]:
            article, _, text = pieces[hit.document]
            same = article == each["article"]
            if not others[same] and not any(answer in normalised(text) for answer in answers):
                others[same] = hit.document
        for name, grade in ((holding, 3), (others[True], 1), (others[False], 0)):
            if name:
                yield _record(f"squad-{each['id']}", each["question"], name, pieces[name][2], grade)


def _holding(question: Mapping[str, Any], pieces: Mapping[str, tuple[str, int, str]]) -> str:
    """The piece that holds the first answer's first character."""
    at = question["answers"][0]["start"]
    number = 0
    while (later := f"{question['paragraph']}#{number + 1}") in pieces and pieces[later][1] <= at:
        number += 1
    return f"{question['paragraph']}#{number}"


def _cranfield(folder: Path) -> Iterator[Mapping[str, Any]]:
    by_query: dict[str, list[Mapping[str, Any]]] = {}
    for row in load_task("judgment").formats["cranfield"].read(folder, {"unjudged": "4"}):
        if isinstance(row, RejectedRow):
            raise SystemExit(f"{row.where}: {row.reason}")
        if isinstance(row, SourceRow):
            by_query.setdefault(row.data["group"], []).append(row.data)
    for query in random.Random(SEED).sample(sorted(by_query), ABOUT):
        for record in by_query[query]:
            yield {**record, "id": f"cranfield-{record['id']}"}


def _record(topic: str, query: str, document: str, passage: str, grade: int) -> Mapping[str, Any]:
    return {
        "id": f"{topic} {document.replace(' ', '_')}",
        "group": normalised(query),
        "query": query,
        "passage": passage,
        "grade": grade,
    }
