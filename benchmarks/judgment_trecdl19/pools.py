"""Pools of TREC DL 2019 to 2022: queries, passages, human grades and runs of real systems; and the training set.

Strong systems are teachers without weights: the mean of their standardised scores says how passages should be ordered,
of judged queries and of others.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.common import native_dataset
from searchlora.data.collection import read_documents
from searchlora.data.dataset import Dataset
from searchlora.data.formats.judged_collections import corpus_file
from searchlora.data.formats.teachers import teacher_scores
from searchlora.eval.formats import read_qrels, read_topics
from searchlora.eval.text_identity import normalised
from searchlora.eval.trec import ranked, read_run
from searchlora.progress import Steps
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.encoding import normalised as unit_vectors

SEED = 13
GUIDELINE = Path(__file__).parent / "guideline.yaml"

#: Options of both datasets: the short guideline, and fewer characters of a passage than by default.
OPTIONS = {"guideline": str(GUIDELINE), "characters": "400"}

#: Validation queries of DL 2020 and 2021, and the greatest number of training passages per query and grade.
VALIDATING, EACH = 24, 20

#: Further training passages per query: half of them from BM25's, half from the first `TOP` of the teachers.
PASSAGES, TOP = 56, 60

BM25 = "bm25"

#: Systems that are better than BM25 by far. A year has one of them at least.
TEACHERS = ("rep_llama", "splade_p_p_ensemble_distil", "d_bert_kd_tasb")

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
    def read(cls, folder: Path, topics: str, passages: str, qrels: str | None) -> Pool:
        """Read a year from the named files of a folder and its `runs`; without qrels, no topic has a grade."""
        texts = _texts(folder / passages)
        queries = {topic: str(fields["query"]) for topic, fields in read_topics(folder / topics).items()}
        runs = {path.name.split(".")[0]: read_run(path) for path in sorted((folder / "runs").iterdir())}
        every = {topic: {} for topic in queries} if qrels is None else read_qrels(folder / qrels)
        return cls(queries, texts, every, every, runs)._in_pool()

    def _in_pool(self) -> Pool:
        """With the topics of the judgments, and the grades of passages that a run has."""
        graded = {
            topic: {
                document: grade
                for document, grade in row.items()
                if any(document in run.get(topic, ()) for run in self.runs.values())
            }
            for topic, row in self.all_qrels.items()
        }
        return replace(self, queries={topic: self.queries[topic] for topic in graded}, qrels=graded)

    @classmethod
    def joined(cls, pools: Sequence[Pool]) -> Pool:
        """The topics of several years as one pool; a run has those of the years in which the system took part."""
        runs: dict[str, dict[str, Mapping[str, float]]] = {}
        for pool in pools:
            for name, run in pool.runs.items():
                runs.setdefault(name, {}).update(run)
        queries, passages, qrels, every = (
            dict(chain.from_iterable(getattr(pool, name).items() for pool in pools))
            for name in ("queries", "passages", "qrels", "all_qrels")
        )
        return cls(queries, passages, qrels, every, runs)

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


def learning_pool(data: Path) -> Pool:
    """The pool to train and validate on: DL 2020 and 2021, with grades, and DL 2022, of which there are none.

    RepLLaMA took part in 2020 only; its run and the passages that others lack are in a folder of their own.
    """
    more = data / "trecdl20_repllama"
    first = Pool.read(data / "trecdl20", "topics.tsv", "passages.jsonl.gz", "qrels.txt")
    texts = {**first.passages, **_texts(more / "passages.jsonl.gz")}
    runs = {**first.runs, "rep_llama": read_run(more / "rep_llama.trec.gz")}
    return Pool.joined(
        [
            replace(first, passages=texts, runs=runs)._in_pool(),
            Pool.read(data / "trecdl21", "topics.tsv", "passages.jsonl.gz", "qrels.txt"),
            Pool.read(data / "trecdl22", "topics.tsv", "passages.jsonl.gz", None),
        ]
    )


def validation_topics(pool: Pool) -> list[str]:
    """The judged topics held out; everything is chosen on them."""
    order = sorted(topic for topic, grades in pool.qrels.items() if grades)
    random.Random(SEED).shuffle(order)
    return order[:VALIDATING]


def training_set(pool: Pool, folder: Path) -> Dataset:
    """The dataset of the pool, built in `folder` if it does not exist: grades, and scores of the teachers."""
    held_out = validation_topics(pool)
    rows = [{**pool.record(pair), "split": "validation"} for pair in pool.judged(held_out)]
    for topic in pool.queries:
        if topic not in held_out:
            scores = taught(pool, topic)
            chosen = dict.fromkeys([*_some(pool, topic, EACH), *_passages(pool, topic, scores)])
            rows += [{**pool.record(pair), "split": "train", "teacher": round(scores[pair[1]], 4)} for pair in chosen]
    return native_dataset(folder, "judgment", rows, options=OPTIONS, judgments_source="human")


def taught(pool: Pool, topic: str) -> dict[str, float]:
    """The teachers' score of each passage of a topic; those that none of them has found have the lowest one."""
    teachers = [{topic: pool.runs[name][topic]} for name in TEACHERS if topic in pool.runs[name]]
    scores = teacher_scores(teachers)[topic]
    others = [*pool.runs[BM25][topic], *pool.qrels[topic]]
    return {document: scores.get(document, min(scores.values())) for document in dict.fromkeys([*scores, *others])}


def _passages(pool: Pool, topic: str, scores: Mapping[str, float]) -> list[Pair]:
    """Random passages of BM25's and of the teachers' first ones."""
    chance = random.Random(f"{SEED}/{topic}")
    best = sorted((document for document in scores if document in pool.passages), key=lambda each: -scores[each])
    found = [document for document in best if document in pool.runs[BM25][topic]]
    drawn = [chance.sample(group, min(len(group), PASSAGES // 2)) for group in (found, best[:TOP])]
    return [(topic, document) for group in drawn for document in group]


def _some(pool: Pool, topic: str, most: int) -> list[Pair]:
    """At most `most` graded passages of each grade."""
    chance = random.Random(f"{SEED}/{topic}")
    found: list[Pair] = []
    for grade in sorted(set(pool.qrels[topic].values())):
        of_grade = [(topic, document) for document, judged in pool.qrels[topic].items() if judged == grade]
        found += chance.sample(of_grade, min(most, len(of_grade)))
    return found


def _texts(passages: Path) -> dict[str, str]:
    return {document.id: document.text for document in read_documents(corpus_file(passages, {}))}


def cosines(
    encoder: Encoder, queries: Mapping[str, str], passages: Mapping[str, str], pairs: Sequence[Pair], steps: Steps
) -> dict[str, float]:
    """The cosine of query and passage of each pair, by the id of the pair."""
    topics, documents = dict.fromkeys(topic for topic, _ in pairs), dict.fromkeys(document for _, document in pairs)
    of_passages = encoder.encode_documents([passages[document] for document in documents], progress=steps("Encoding"))
    vectors = dict(zip(documents, unit_vectors(of_passages), strict=True))
    of_queries = dict(zip(topics, unit_vectors(encoder.encode([queries[topic] for topic in topics])), strict=True))
    return {f"{topic} {document}": float(of_queries[topic] @ vectors[document]) for topic, document in pairs}
