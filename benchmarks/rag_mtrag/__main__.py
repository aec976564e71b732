"""Answers from passages on MT-RAG: when to abstain, and what to cite.

    python -m benchmarks.rag_mtrag

The reference tasks are in three folds by group (conversation, first turn, document); each row is answered by an adapter
that was trained on the other folds. Before that, one adapter is trained on relevance
(`benchmarks.judgment_trecdl19.warm`) and one on answering SQuAD or abstaining (`warm`); both are merged into the base
model of the three. Takes about two hours on 2 cores; everything in `benchmarks/work/rag_mtrag` is reused. Sample
answers are written to `answers.md` there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, real_data, save
from benchmarks.rag_mtrag.answering import Answers, answer
from benchmarks.rag_mtrag.data import FOLDS, MISSING, MtRag, Record
from benchmarks.rag_mtrag.systems import ADAPTER, compared, evaluations, write_answers
from benchmarks.rag_mtrag.warm import ROWS
from searchlora.cli.terminal import print_comparison, progress_bars

NAME = "rag_mtrag"


def main() -> None:
    data, work = real_data(), WORK / NAME
    mtrag = MtRag.read(data)
    with progress_bars() as steps:
        answers = answer(mtrag, data, work, steps)
    evaluate(mtrag, mtrag.official, answers, work)


def evaluate(mtrag: MtRag, rows: Sequence[Record], answers: Answers, work: Path) -> None:
    """Write all results from the answers."""
    found = evaluations(rows, answers)
    comparison = compared(found)
    save(NAME, comparison, _about(mtrag, rows, answers, found))
    write_answers(work / "answers.md", rows, answers.adapter, found[ADAPTER])
    print_comparison(comparison)


def _about(mtrag: MtRag, rows: Sequence[Record], answers: Answers, found: Any) -> dict[str, Any]:
    return {
        "caption": "figures over all rows and 95% interval by group; token F1 and ROUGE-L over the answerable ones",
        "data": {
            "kinds": dict(Counter(str(row["kind"]) for row in rows)),
            "groups": len({row["group"] for row in rows}),
            "rules": list(mtrag.rules),
            "counts": dict(mtrag.counts),
        },
        "design": {
            "folds": FOLDS,
            "share of answerable training rows that are repeated without gold passages": MISSING,
            "passages per SQuAD row -> number of rows in the first training": ROWS,
        },
        "training": answers.training,
        "confusions": {
            name: {title: asdict(each) for title, each in evaluation.confusions.items()}
            for name, evaluation in found.items()
        },
    }


if __name__ == "__main__":
    main()
