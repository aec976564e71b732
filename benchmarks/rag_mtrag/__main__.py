"""Answers from passages on MT-RAG: when to abstain, and what to cite.

    python -m benchmarks.rag_mtrag
    python -m benchmarks.rag_mtrag --without-llm

The reference tasks are in three folds by group (conversation, first turn, document). The adapters of a row were trained
on other folds, and no threshold is fitted on a row of its fold. The systems differ in who decides to abstain and who
chooses the citations (`answering.GENERATED`): the answering adapter itself, a judge, or both. A judge is an embedding
adapter, trained on the other folds, by the cosine of question and passage; the encoder without it; or an LLM judge,
trained on pairs from elsewhere (`judge`) over the base of the answering adapters. Systems that quote answer with a
sentence of the passage that their judge holds most relevant; `--without-llm` measures only these and the rules.

Everything in `benchmarks/work/rag_mtrag` is reused.
Sample answers are written to `answers.md` there.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, as_called, real_data, save
from benchmarks.rag_mtrag.answering import Answers, answer
from benchmarks.rag_mtrag.data import FOLDS, MISSING, MtRag, Record
from benchmarks.rag_mtrag.squad_rows import ROWS
from benchmarks.rag_mtrag.systems import candidate, compared, evaluations, write_answers
from searchlora.cli.terminal import print_comparison, progress_bars

NAME = "rag_mtrag"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--without-llm", action="store_true", help="only rules, encoders and quotations")
    llm = not parser.parse_args().without_llm
    data, work = real_data(), WORK / NAME
    mtrag = MtRag.read(data)
    with progress_bars() as steps:
        answers = answer(mtrag, data, work, steps, llm=llm)
    evaluate(mtrag, mtrag.official, answers, work)


def evaluate(mtrag: MtRag, rows: Sequence[Record], answers: Answers, work: Path) -> None:
    """Write all results from the answers."""
    found = evaluations(rows, answers)
    comparison = compared(found)
    save(NAME, comparison, _about(mtrag, rows, answers, found), module=as_called(NAME))
    write_answers(work / "answers.md", rows, answers.outputs[candidate(found)], found[candidate(found)])
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
            "passages per SQuAD row -> number of such training rows in each fold": ROWS,
            "fitted rules of each fold": answers.rules,
        },
        "training": answers.training,
        "confusions": {
            name: {title: asdict(each) for title, each in evaluation.confusions.items()}
            for name, evaluation in found.items()
        },
    }


if __name__ == "__main__":
    main()
