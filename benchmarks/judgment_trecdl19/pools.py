"""Pools of TREC DL 2019 and 2020: queries, passages, human grades and runs of real systems; and the training set."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import native_dataset
from searchlora.data.collection import read_documents
from searchlora.data.dataset import Dataset
from searchlora.data.formats.judged_collections import corpus_file
from searchlora.eval.formats import read_qrels, read_topics
from searchlora.eval.text_identity import normalised
from searchlora.eval.trec import ranked, read_run

SEED = 13
GUIDELINE = Path(__file__).parent / "guideline.yaml"

#: Options of both datasets: the short guideline, and fewer characters of a passage than by default.
OPTIONS = {"guideline": str(GUIDELINE), "characters": "400"}

#: Validation queries of DL 2020, and the greatest number of training passages per query and grade.
VALIDATING, EACH = 12, 30

BM25 = "bm25"

#: (topic, document)
Pair = tuple[str, str]


@dataclass(frozen=True)
class Pool:
    """Passages of the runs of one year.

    Attributes:
        queries: Topic -> query, of judged topics.
        passages: Document -> text.
        qrels: Topic -> document -> human grade, of passages in the pool.
        all_qrels: All human grades, with which rankings are measured.
        runs: Name -> run.
    """

    queries: Mapping[str, str]
    passages: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    all_qrels: Mapping[str, Mapping[str, int]]
    runs: Mapping[str, Mapping[str, Mapping[str, float]]]

    @classmethod
    def read(cls, folder: Path, topics: str, passages: str, qrels: str) -> Pool:
        """Read a year from the named files of a folder and its `runs`."""
        texts = {document.id: document.text for document in read_documents(corpus_file(folder / passages, {}))}
        queries = {topic: str(fields["query"]) for topic, fields in read_topics(folder / topics).items()}
        runs = {path.name.split(".")[0]: read_run(path) for path in sorted((folder / "runs").iterdir())}
        found = {topic: {document for run in runs.values() for document in run.get(topic, ())} for topic in queries}
        every = read_qrels(folder / qrels)
        graded = {
            topic: {document: grade for document, grade in row.items() if document in found[topic]}
            for topic, row in every.items()
        }
        return cls({topic: queries[topic] for topic in graded}, texts, graded, every, runs)

    def judged(self, topics: Iterable[str] | None = None) -> list[Pair]:
        """The graded pairs of some topics, or of all."""
        return [(topic, document) for topic in topics or self.qrels for document in self.qrels[topic]]

    def retrieved(self, topics: Iterable[str] | None = None, depth: int = 100) -> list[Pair]:
        """The first BM25 passages of some topics, or of all, in ranked order."""
        run = self.runs[BM25]
        return [(topic, document) for topic in topics or self.queries for document in ranked(run[topic])[:depth]]

    def record(self, pair: Pair) -> dict[str, Any]:
        """The record of a pair, with its grade if it has one."""
        topic, document = pair
        grade = self.qrels[topic].get(document)
        return {
            "id": f"{topic} {document}",
            "group": normalised(self.queries[topic]),
            "query": self.queries[topic],
            "passage": self.passages[document],
            **({"grade": grade} if grade is not None else {}),
        }


def dl19(data: Path) -> Pool:
    """The test pool: 43 queries, six runs, 4,333 graded pairs."""
    return Pool.read(data / "trecdl19", "topics.dl19-passage.txt", "pool_passages.jsonl.gz", "qrels.dl19-passage.txt")


def dl20(data: Path) -> Pool:
    """The pool to train and validate on: 54 queries, five runs, 4,999 graded pairs."""
    return Pool.read(data / "trecdl20", "topics.tsv", "passages.jsonl.gz", "qrels.txt")


def validation_topics(pool: Pool) -> list[str]:
    """The topics held out of DL 2020; everything is chosen on them."""
    order = sorted(pool.queries)
    random.Random(SEED).shuffle(order)
    return order[:VALIDATING]


def training_set(pool: Pool, folder: Path, most: int = EACH) -> Dataset:
    """The dataset of DL 2020, built in `folder` if it does not exist, with at most so many rows per query and grade."""
    held_out = validation_topics(pool)
    rows = [{**pool.record(pair), "split": "validation"} for pair in pool.judged(held_out)]
    for topic in pool.queries:
        if topic not in held_out:
            rows += [{**pool.record(pair), "split": "train"} for pair in _some(pool, topic, most)]
    return native_dataset(folder, "judgment", rows, options=OPTIONS, judgments_source="human")


def _some(pool: Pool, topic: str, most: int) -> list[Pair]:
    """At most `most` graded passages of each grade."""
    chance = random.Random(f"{SEED}/{topic}")
    found: list[Pair] = []
    for grade in sorted(set(pool.qrels[topic].values())):
        of_grade = [(topic, document) for document, judged in pool.qrels[topic].items() if judged == grade]
        found += chance.sample(of_grade, min(most, len(of_grade)))
    return found
