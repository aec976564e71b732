"""Changes of topic: training questions that stand alone, asked in a conversation about another article.

Every question of CANARD needs its conversation, so a rewriter learns from it to add the article to any question. Here
the human rewrite of a question is asked after a turn of another article, and has to stay as it is.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from benchmarks.common import write_rows
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.eval.trec import write_qrels

SEED = 13

#: Number of such questions, as a share of the training questions.
SHARE = 0.3


def with_switches(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with changes of topic in its training split, built in `folder` if it does not exist."""
    if not folder.is_dir():
        source, corpus, qrels = (folder.with_name(f"{folder.name}.{end}") for end in ("jsonl", "corpus.jsonl", "qrels"))
        rows = [
            {**record, "split": split} for split in ("train", "validation", "test") for record in dataset.records(split)
        ]
        added = switches(dataset)
        write_rows(source, [*rows, *({**record, "split": "train"} for record in added)])
        write_rows(
            corpus,
            (
                {"id": document.id, "title": document.title, "text": document.text}
                for document in dataset.documents() or ()
            ),
        )
        judged = dict(dataset.qrels() or {})
        judged |= {record["id"]: judged[origin] for record in added if (origin := _origin(record)) in judged}
        write_qrels(qrels, judged)
        options = {"titles": str(corpus)}
        build("rewriting", source, format="native", out=folder, corpus=corpus, qrels=qrels, options=options)
    return load_dataset(folder)


def switches(dataset: Dataset) -> list[dict[str, Any]]:
    """Training questions in their human rewrite, each after a training question of another article."""
    records = [dict(record) for record in dataset.records("train")]
    chance = random.Random(SEED)
    found = []
    for record in chance.sample(records, round(SHARE * len(records))):
        before = chance.choice([other for other in records if other["group"] != record["group"]])
        history = [*before["history"], {"role": "user", "text": before["query"]}]
        found.append(
            {
                **record,
                "id": f"{record['id']}{_END}",
                "query": record["rewrite"],
                "history": history,
                "needs_rewrite": False,
                "titles": [],  # those of its new conversation are found when the dataset is built
            }
        )
    return found


_END = "_switch"


def _origin(record: dict[str, Any]) -> str:
    return str(record["id"]).removesuffix(_END)
