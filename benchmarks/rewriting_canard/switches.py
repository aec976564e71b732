"""What training questions of CANARD lack: changes of topic, and collections without titles.

Every question of CANARD needs its conversation, so a rewriter learns from it to add the article to any question. Here
the human rewrite of a question is asked after a turn of another article, and has to stay as it is. Every passage has a
title, so a rewriter learns to leave a question as it is where it is shown none. Here each row is shown none once.
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

#: Number of changes of topic, as a share of the training questions.
SHARE = 0.3


def with_switches(dataset: Dataset, folder: Path, *, imitated: bool = True) -> Dataset:
    """The dataset with changes of topic in its training split, built in `folder` once.

    Each training row is shown no titles; those with judgments are there once more, with titles.

    Args:
        imitated: Whether the judgments of rows without titles are left out, so that these teach their human rewrite.
    """
    if not folder.is_dir():
        source, corpus, qrels = (folder.with_name(f"{folder.name}.{end}") for end in ("jsonl", "corpus.jsonl", "qrels"))
        judged = dict(dataset.qrels() or {})
        records = [dict(record) for record in (*dataset.records("train"), *switches(dataset))]
        grades = {record["id"]: judged.get(_origin(record)) for record in records}
        training = [record for record in records if grades[record["id"]]]
        training += ({**record, "id": f"{record['id']}{_UNTITLED}", "titles": []} for record in records)
        if not imitated:
            grades |= {f"{name}{_UNTITLED}": of_row for name, of_row in grades.items()}
        rows = [{**record, "split": split} for split in ("validation", "test") for record in dataset.records(split)]
        write_rows(source, [*({**record, "split": "train"} for record in training), *rows])
        write_rows(
            corpus,
            (
                {"id": document.id, "title": document.title, "text": document.text}
                for document in dataset.documents() or ()
            ),
        )
        write_qrels(qrels, judged | {name: of_row for name, of_row in grades.items() if of_row})
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
                "id": f"{record['id']}{_SWITCH}",
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


_SWITCH, _UNTITLED = "_switch", "_untitled"


def _origin(record: dict[str, Any]) -> str:
    return str(record["id"]).removesuffix(_SWITCH)
