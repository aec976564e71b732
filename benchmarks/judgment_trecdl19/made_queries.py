"""Queries that an adapter writes for passages of the learning pool, scored by an encoder (GPL, Wang et al. 2022).

The adapter learns from the queries of the pool and their best passages. For each query that it writes, BM25 finds
further passages, and the cosines of the encoder are the teacher's scores. No passage of a validation query takes part,
and no made query that is one of validation or test.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import native_dataset, write_rows
from benchmarks.judgment_trecdl19.pools import OPTIONS, SEED, Pool, cosines, taught, validation_topics
from searchlora.adapters.store import Store, StoredAdapter
from searchlora.data.collection import Document
from searchlora.data.dataset import Dataset
from searchlora.data.formats.teachers import teacher_scores
from searchlora.eval.text_identity import normalised
from searchlora.experiments.label import label
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.row_sample import RowSample
from searchlora.experiments.train import train
from searchlora.files.rows import read_rows, strict
from searchlora.progress import Steps
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.encoder import Encoder

WRITER, WRITER_RECIPE = "query-writer", ("optim.epochs=3", "max_length=512", "validation.generate_rows=0")

#: Characters of a passage that the writer sees, queries that validate it, and passages of a query that it learns from.
CHARACTERS, VALIDATING, LEARNED = 600, 12, 8

#: Queries to write and to learn from; the numbers of words that they may have.
WRITTEN, KEPT, WORDS = 3000, 1500, range(3, 15)

#: Passages of a query beside its own: some of BM25's first ten, and some of the next forty.
NEAR, FAR = 4, 3

#: The greatest rank by cosine, among these passages, of the own passage of a query.
RANK = 3


def made_set(pool: Pool, test: Pool, folder: Path, encoder: Encoder, steps: Steps) -> tuple[StoredAdapter, Dataset]:
    """The writer of queries, and the dataset of those that it made: scores of the encoder, no grades.

    What exists in `folder` is reused.
    """
    store = Store(folder / "store")
    learned = native_dataset(folder / "writer", "rewriting", known(pool)).folder
    options = TrainingOptions(WRITER_RECIPE, reuse=True)
    writer = train("rewriting", learned, WRITER, options, store=store, steps=steps, log=print)
    rows = [{**pool.record(pair), "split": "validation"} for pair in pool.judged(validation_topics(pool))]
    if not (folder / "made").is_dir():
        known_queries = {normalised(query) for part in (pool, test) for query in part.queries.values()}
        texts = documents(pool)
        made = _written(texts, folder, writer.reference, store, steps)
        made = [row for row in made if normalised(row["rewrite"]) not in known_queries]
        rows += taught_rows(made, texts, encoder, steps)
    return writer, native_dataset(folder / "made", "judgment", rows, options=OPTIONS, judgments_source="human")


def documents(pool: Pool) -> dict[str, str]:
    """Document -> text, of all passages but those of validation queries, and very short ones."""
    of_validation = {
        document
        for topic in validation_topics(pool)
        for found in (*(run.get(topic, {}) for run in pool.runs.values()), pool.all_qrels[topic])
        for document in found
    }
    return {
        document: text[:CHARACTERS]
        for document, text in pool.passages.items()
        if document not in of_validation and len(text) > 100
    }


def known(pool: Pool) -> list[dict[str, Any]]:
    """The rows of the writer: passages, and the query that each answers as its rewrite."""
    chance, validating = random.Random(SEED), set(validation_topics(pool))
    topics = [topic for topic in pool.queries if topic not in validating]
    chance.shuffle(topics)
    return [
        {
            "id": f"{topic}-{document}",
            "group": pool.queries[topic],
            "query": pool.passages[document][:CHARACTERS],
            "history": [],
            "rewrite": pool.queries[topic],
            "split": "validation" if number < VALIDATING else "train",
        }
        for number, topic in enumerate(topics)
        for document in _best(pool, topic)
    ]


def _best(pool: Pool, topic: str) -> list[str]:
    """The best passages by the teachers; of a judged query, those that people find relevant."""
    scores, grades = taught(pool, topic), pool.qrels[topic]
    good = [each for each in scores if each in pool.passages and (not grades or grades.get(each, 0) >= 2)]
    return sorted(good, key=lambda document: -scores[document])[:LEARNED]


def _written(
    texts: Mapping[str, str], folder: Path, writer: str, store: Store, steps: Steps
) -> list[Mapping[str, Any]]:
    """The rows with a made query each, in which a query is its own `rewrite` and a passage the `query`."""
    passages, written = folder / "passages.jsonl", folder / "written.jsonl"
    if not written.exists():
        write_rows(passages, ({"id": id_, "query": text} for id_, text in texts.items()))
        sample = RowSample("random", WRITTEN, seed=SEED)
        label("rewriting", passages, written, adapter=writer, sample=sample, store=store, steps=steps)
    fit = [row.data for row in strict(read_rows(written)) if len(row.data["rewrite"].split()) in WORDS]
    return list({row["rewrite"].lower(): row for row in reversed(fit)}.values())


def taught_rows(
    made: Sequence[Mapping[str, Any]], texts: Mapping[str, str], encoder: Encoder, steps: Steps
) -> list[dict[str, Any]]:
    """The training rows of made queries: passages that BM25 finds, with the cosine standardised within the query.

    Args:
        made: Rows with the `id` of a passage, and its query as `rewrite`.
        texts: Document -> text.
    """
    chance = random.Random(SEED)
    index = BM25Index(Document(id_, text) for id_, text in texts.items())
    chosen: dict[str, list[str]] = {}
    for row, hits in zip(made, index.search([row["rewrite"] for row in made], 10 + 40), strict=True):
        others = [hit.document for hit in hits if hit.document != row["id"]]
        if len(others) >= 10 + FAR:
            chosen[row["id"]] = [row["id"], *chance.sample(others[:10], NEAR), *chance.sample(others[10:], FAR)]
    queries = {row["id"]: row["rewrite"] for row in made if row["id"] in chosen}
    pairs = [(own, document) for own, found in chosen.items() for document in found]
    cosine = cosines(encoder, queries, texts, pairs, steps)
    rows: list[dict[str, Any]] = []
    for own, query in queries.items():
        found = {document: cosine[f"{own} {document}"] for document in chosen[own]}
        if sum(other > found[own] for other in found.values()) < RANK:
            rows += [
                {"id": f"{own} {document}", "group": query, "query": query, "passage": texts[document]}
                | {"split": "train", "teacher": round(score, 4)}
                for document, score in teacher_scores([{query: found}])[query].items()
            ]
    return rows[: KEPT * (1 + NEAR + FAR)]
