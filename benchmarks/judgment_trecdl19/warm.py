"""Pretraining pairs from SQuAD and Cranfield for the first adapter.

* **SQuAD** (development set): paragraphs are split at sentence ends into passages of about the length of MS MARCO
  passages. For each question, the passage with the answer has grade 3, the BM25-best passage of the same article
  without the answer has grade 1, and the BM25-best passage of another article without the answer has grade 0.
* **Cranfield**: human grades 1 to 4 become 3, 2, 1, 1; the same number of unjudged abstracts has grade 0.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import write_rows
from benchmarks.judgment_trecdl19.pools import OPTIONS
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
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

#: Number of SQuAD questions (three pairs each) and of Cranfield queries (all their pairs).
QUESTIONS, ABOUT = 800, 25

#: Minimum number of words of a passage.
WORDS = 55
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_DEEP = 200


def warm_adapter(data: Path, work: Path, steps: Steps) -> StoredAdapter:
    """The adapter trained on these pairs; its dataset and store are in `work` and are reused."""
    folder = work / "warm"
    if not folder.is_dir():
        source = folder.with_suffix(".jsonl")
        write_rows(source, warm_records(data))
        build("judgment", source, format="native", out=folder, shares=(0.95, 0.05, 0.0), on_leak="drop")
    store = Store(work / "store")
    return train_or_reuse("judgment", folder, NAME, recipe=RECIPE, store=store, steps=steps)


def squad_set(data: Path, folder: Path, questions: int) -> Dataset:
    """A dataset of SQuAD pairs alone, all for training, built in `folder` if it does not exist."""
    if not folder.is_dir():
        source = folder.with_suffix(".jsonl")
        write_rows(source, _squad(data / "squad" / "squaddev_v1.1.json.gz", questions))
        build("judgment", source, format="native", out=folder, options=OPTIONS, shares=(1.0, 0.0, 0.0))
    return load_dataset(folder)


def warm_records(data: Path) -> list[Mapping[str, Any]]:
    """The records of both sources in random order."""
    records = [*_squad(data / "squad" / "squaddev_v1.1.json.gz"), *_cranfield(data / "cranfield")]
    random.Random(SEED).shuffle(records)
    return records


def passages(context: str) -> list[tuple[int, str]]:
    """Split a paragraph into passages of whole sentences: (start, text)."""
    starts = [0, *(found.end() for found in _SENTENCE.finditer(context)), len(context)]
    found, begin = [], 0
    for end in starts[1:]:
        if len(context[begin:end].split()) >= WORDS or end == len(context):
            found.append((begin, context[begin:end].strip()))
            begin = end
    return [piece for piece in found if piece[1]]


def _squad(path: Path, number: int = QUESTIONS) -> Iterator[Mapping[str, Any]]:
    questions = [row.data for row in squad.read_squad(path) if isinstance(row, SourceRow) and row.data["answers"]]
    pieces = {
        f"{paragraph}#{number}": (article, start, text)
        for paragraph, (article, context) in {
            each["paragraph"]: (each["article"], each["context"]) for each in questions
        }.items()
        for number, (start, text) in enumerate(passages(context))
    }
    index = BM25Index([Document(name, text) for name, (_, _, text) in pieces.items()])
    for each in random.Random(SEED).sample(questions, number):
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
    """The passage with the first character of the first answer."""
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
