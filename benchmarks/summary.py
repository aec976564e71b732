"""The README's table: each task's adapter beside the best rule and the bare base model, from the committed results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from benchmarks.common import RESULTS
from searchlora.eval.formatting import figure, markdown_table


@dataclass(frozen=True)
class Line:
    """A row of the table: which systems of which results file, by their names there."""

    task: str
    data: str
    results: str
    measure: str
    rule: str
    base: str
    adapter: str


LINES = (
    Line("rewriting", "CANARD", "rewriting_canard", "MRR@10", "first question + question", "base zero-shot", "adapter"),
    Line(
        *("intent", "BANKING77", "intent_banking77", "accuracy"),
        *("TF-IDF + logistic regression", "base zero-shot", "adapter"),
    ),
    Line(
        "judgment, reranking",
        "TREC DL 2019",
        "judgment_trecdl19_rerank",
        "nDCG@10",
        "BM25",
        "base zero-shot",
        "adapter",
    ),
    Line(
        *("rag_answer", "MT-RAG", "rag_mtrag", "answerability F1", "BM25 threshold", "base zero-shot", "adapter"),
    ),
    Line("embedding", "SQuAD 1.1", "embedding_squad", "nDCG@10", "BM25", "zero-shot", "LoRA"),
)


def summary() -> str:
    """The table as Markdown, with n and 95% intervals."""
    rows = [_row(line) for line in LINES]
    header = ["task", "data", "measure", "best rule", "base model", "adapter", "n"]
    return markdown_table(header, rows) + "\n\nMean and 95% interval.\n"


def _row(line: Line) -> list[str]:
    results = json.loads((RESULTS / f"{line.results}.json").read_text(encoding="utf-8"))
    rows = {row["system"]: row for row in results["rows"] if row["measure"] == line.measure}
    cells = [_figure(rows[name]) for name in (line.rule, line.base, line.adapter)]
    cells[0] = f"{line.rule}: {cells[0]}"
    return [line.task, line.data, line.measure, *cells, str(rows[line.adapter]["n"])]


def _figure(row: dict[str, Any]) -> str:
    return figure(row["value"], row["low"], row["high"])
