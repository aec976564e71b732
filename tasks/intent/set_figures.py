"""Several labels: all of them right, and F1 over labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchlora.eval.pooled import macro_f1, micro_f1
from searchlora.tasks.intent.figures import Answered, Figures


def of(settings: Mapping[str, Any], rows: Answered) -> Figures:
    """Measures of sets of labels.

    Measures:
        exact match: 1 where all labels are there and no other; the headline.
        micro-F1, macro-F1 (pooled): over all labels of all rows alike, and as the mean of each label's F1.
    """
    gold = {id_: frozenset(labels) for id_, labels in rows.gold.items()}
    said = {id_: None if answer is None else frozenset(answer) for id_, answer in rows.said.items()}
    found = {id_: labels or frozenset() for id_, labels in said.items()}
    return Figures(
        headline="exact match",
        values={"exact match": {id_: float(said[id_] == labels) for id_, labels in gold.items()}},
        pooled={
            "micro-F1": micro_f1(
                {id_: float(len(labels & found[id_])) for id_, labels in gold.items()},
                {id_: float(len(labels)) for id_, labels in found.items()},
                {id_: float(len(labels)) for id_, labels in gold.items()},
            ),
            "macro-F1": macro_f1(gold, said, sorted({*settings["labels"]}.union(*gold.values()))),
        },
        tested=("exact match", "micro-F1"),
    )
