"""A judge of relevance to questions, for `slot_ablation`, trained on pairs from other sources than MT-RAG.

    python -m benchmarks.rag_mtrag.judge

One judge serves all folds. Its pairs:

* **SQuAD**: the pairs of `judgment_trecdl19.squad_pairs`. Of three pairs of a question one is relevant, one has the
  BM25-best passage of the same article without the answer, and one has the passage of another question at random:
  with hard negatives alone, SmolLM2-135M learned nothing from 1,300 pairs.
* **TREC DL 2020**: as many relevant (human grades 2 and 3) as irrelevant passages of each query.
* **Perl FAQ**: the answer of each question, and the BM25-best other answer.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, native_dataset, real_data
from benchmarks.judgment_trecdl19.squad_pairs import squad_records
from searchlora.adapters.store import Store
from searchlora.cli.terminal import progress_bars
from searchlora.eval.text_identity import normalised
from searchlora.experiments.train import train_or_reuse
from searchlora.records import Document
from searchlora.retrieval.bm25 import BM25Index

SEED = 13
NAME = "question-judge"
RECIPE = Path(__file__).parent / "judge.yaml"

#: Number of questions of SQuAD.
QUESTIONS = 800

#: Number of relevant, and of irrelevant, passages per query of DL 2020 at most.
EACH = 8


def main() -> None:
    work = WORK / "rag_mtrag"
    options: dict[str, Any] = {"options": {"grades": "2"}, "shares": (0.95, 0.05, 0.0), "on_leak": "drop"}
    folder = native_dataset(work / "judge", "judgment", judge_records(real_data()), **options).folder
    with progress_bars() as steps:
        train_or_reuse("judgment", folder, NAME, recipe=RECIPE, store=Store(work / "store"), steps=steps)


def judge_records(data: Path) -> list[Mapping[str, Any]]:
    """The records of all sources in random order; two grades cut their four between 1 and 2."""
    squad = list(squad_records(data, QUESTIONS))
    random.Random(SEED).shuffle(squad)
    records = [*_with_easy_negatives(squad), *_dl20(data / "trecdl20"), *_perlfaq(data / "perlfaq" / "perlfaq.jsonl")]
    random.Random(SEED).shuffle(records)
    return records


def _with_easy_negatives(rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The rows; those of grade 0 have the passage of another row of grade 0."""
    places = [place for place, row in enumerate(rows) if row["grade"] == 0]
    moved = dict(zip(places, [*places[len(places) // 2 :], *places[: len(places) // 2]], strict=True))
    for place, row in enumerate(rows):
        yield {**row, "passage": rows[moved[place]]["passage"]} if place in moved else row


def _dl20(folder: Path) -> Iterator[Mapping[str, Any]]:
    queries = dict(line.split("\t", 1) for line in (folder / "topics.tsv").read_text(encoding="utf-8").splitlines())
    with gzip.open(folder / "passages.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = {str(row["id"]): str(row["text"]) for row in map(json.loads, lines)}
    judged: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for line in (folder / "qrels.txt").read_text(encoding="utf-8").splitlines():
        query, _, document, grade = line.split()
        if document in texts and query in queries:
            judged[query, int(grade) >= 2].append(document)
    chance = random.Random(SEED)
    for query in queries:
        count = min(EACH, len(judged[query, True]), len(judged[query, False]))
        for relevant in (True, False):
            for document in chance.sample(sorted(judged[query, relevant]), count):
                yield _record(f"dl20-{query}", queries[query], document, texts[document], relevant)


def _perlfaq(path: Path) -> Iterator[Mapping[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    index = BM25Index([Document(str(number), row["answer"]) for number, row in enumerate(rows)])
    for number, row in enumerate(rows):
        ranked = [int(hit.document) for hit in index.search([row["question"]], 10)[0]]
        other = next((each for each in ranked if rows[each]["answer"] != row["answer"]), None)
        yield _record(f"perl-{number}", row["question"], f"a{number}", row["answer"], True)
        if other is not None:
            yield _record(f"perl-{number}", row["question"], f"a{other}", rows[other]["answer"], False)


def _record(topic: str, query: str, document: str, passage: str, relevant: bool) -> Mapping[str, Any]:
    return {
        "id": f"{topic} {document}",
        "group": normalised(query),
        "query": query,
        "passage": passage,
        "grade": 3 if relevant else 0,
    }


if __name__ == "__main__":
    main()
