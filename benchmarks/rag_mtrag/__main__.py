"""Answers from passages on MT-RAG: when to abstain, and what to cite.

    python -m benchmarks.rag_mtrag

The reference tasks in three folds by group (conversation, first turn, document): each row is answered by an adapter
that saw the other folds only. Before that, one adapter learns what is relevant (`benchmarks.judgment_trecdl19.warm`)
and one to answer SQuAD or abstain (`warm`); both are merged into the base of the three. About two hours on 2 cores;
what is done lies in `benchmarks/work/rag_mtrag` and is used again. Answers to read are written there, to `answers.md`.
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
    """Write all results from what was answered."""
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
            "share of answerable training rows that stand there without gold too": MISSING,
            "passages of a row of SQuAD -> how many are trained on first": ROWS,
        },
        "training": answers.training,
        "confusions": {
            name: {title: asdict(each) for title, each in evaluation.confusions.items()}
            for name, evaluation in found.items()
        },
    }


if __name__ == "__main__":
    main()
