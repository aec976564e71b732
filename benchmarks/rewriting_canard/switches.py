"""What training questions of CANARD lack: changes of topic, and collections without titles.

Every question of CANARD needs its conversation, so a rewriter learns from it to add the article to any question. Here
the human rewrite of a question is asked after a turn of another article, and has to stay as it is. Every passage has a
title, so a rewriter learns to leave a question as it is where it is shown none. Here a part of the rows is shown none.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import write_rows
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.eval.trec import write_qrels
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.records import Record
from searchlora.retrieval.feedback import found_titles

SEED = 13

#: Number of changes of topic, as a share of the training questions, and the share of all that are shown no titles.
SHARE, UNTITLED = 0.3, 0.5


def with_switches(dataset: Dataset, folder: Path, untitled: float = UNTITLED, *, imitated: bool = True) -> Dataset:
    """The dataset with changes of topic, and rows without titles, in its training split, built in `folder` once.

    Args:
        untitled: Share of the training rows that are shown no titles, those without a judgment first.
        imitated: Leave out the judgments of these, so that they are trained on their human rewrite.
    """
    if not folder.is_dir():
        source, corpus, qrels = (folder.with_name(f"{folder.name}.{end}") for end in ("jsonl", "corpus.jsonl", "qrels"))
        added = switches(dataset)
        training = [dict(record) for record in (*dataset.records("train"), *added)]
        judged = dict(dataset.qrels() or {})
        judged |= {record["id"]: judged[origin] for record in added if (origin := _origin(record)) in judged}
        random.Random(SEED).shuffle(training)
        training.sort(key=lambda record: record["id"] in judged)
        shown_none = training[: round(untitled * len(training))]
        for record in shown_none:
            record["titles"] = []
        rows = [{**record, "split": split} for split in ("validation", "test") for record in dataset.records(split)]
        write_rows(source, [*({**record, "split": "train"} for record in training), *rows])
        write_rows(
            corpus,
            (
                {"id": document.id, "title": document.title, "text": document.text}
                for document in dataset.documents() or ()
            ),
        )
        without = {record["id"] for record in shown_none} if imitated else set()
        write_qrels(qrels, {name: grades for name, grades in judged.items() if name not in without})
        build("rewriting", source, format="native", out=folder, corpus=corpus, qrels=qrels)
    return load_dataset(folder)


def switches(dataset: Dataset) -> list[dict[str, Any]]:
    """Training questions in their human rewrite, each after a training question of another article."""
    records = [dict(record) for record in dataset.records("train")]
    chance = random.Random(SEED)
    made = []
    for record in chance.sample(records, round(SHARE * len(records))):
        before = chance.choice([other for other in records if other["group"] != record["group"]])
        history = [*before["history"], {"role": "user", "text": before["query"]}]
        made.append(
            {
                **record,
                "id": f"{record['id']}{_END}",
                "query": record["rewrite"],
                "history": history,
                "needs_rewrite": False,
            }
        )
    return titled(dataset, made)


def titled(dataset: Dataset, records: Sequence[Record]) -> list[dict[str, Any]]:
    """The records with the titles that their conversations find in the collection of the dataset."""
    documents = {document.id: document for document in dataset.documents() or ()}
    titles = found_titles(Bm25Settings().over(list(documents.values())).retriever, documents, records)
    return [{**record, "titles": of_record} for record, of_record in zip(records, titles, strict=True)]


def without(records: Iterable[Record], field: str) -> list[Record]:
    """The records without a field."""
    return [{name: value for name, value in record.items() if name != field} for record in records]


_END = "_switch"


def _origin(record: dict[str, Any]) -> str:
    return str(record["id"]).removesuffix(_END)
