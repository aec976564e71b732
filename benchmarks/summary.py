"""The README's table: each task's adapter beside the best system without a neural model and the bare base model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.common import RESULTS
from searchlora.eval.formatting import figure, markdown_table, p_value
from searchlora.eval.significance import LEVEL, disagreement_note


@dataclass(frozen=True)
class Line:
    """A row of the table: which systems of which results file, by their names there; `items` says what n counts.

    Attributes:
        encoder: Results file and system of a frozen encoder on the same rows; None: none was measured.
    """

    task: str
    data: str
    results: str
    measure: str
    items: str
    rule: str
    base: str
    adapter: str
    encoder: tuple[str, str] | None = None


LINES = (
    Line(
        *("rewriting", "CANARD", "rewriting_canard", "MRR@10", "questions"),
        *("question + found title twice", "base zero-shot", "adapter"),
    ),
    Line(
        *("rewriting", "MT-RAG, with the adapter of CANARD", "rewriting_mtrag", "MRR@10", "questions"),
        *("question alone", "base zero-shot", "adapter"),
    ),
    Line(
        *("rewriting", "MSRD", "rewriting_msrd", "nDCG@10", "queries"),
        *("without listed words", "base zero-shot", "adapter"),
    ),
    Line(
        *("intent", "BANKING77", "intent_banking77", "accuracy", "queries"),
        *("TF-IDF + logistic regression", "base zero-shot", "adapter"),
        ("embedding_banking77_linear", "zero-shot"),
    ),
    Line(
        *("judgment", "TREC DL 2019, BM25's top 100 reranked", "judgment_trecdl19_made_rerank", "nDCG@10", "queries"),
        *("BM25", "base zero-shot", "adapter"),
        ("judgment_trecdl19_made_rerank", "MiniLM"),
    ),
    Line(
        *("judgment", "Chorus", "judgment_chorus", "kappa quadratic", "pairs"),
        *("BM25 score, cut", "base zero-shot", "adapter"),
        ("judgment_chorus", "all-minilm-l6-v2 cosine, cut"),
    ),
    Line(
        *("rag_answer", "MT-RAG", "rag_mtrag", "answerability F1", "questions"),
        *("BM25 threshold", "MiniLM, quoting", "adapter, quoting"),
    ),
    Line(
        *("embedding", "SQuAD 1.1", "embedding_squad", "nDCG@10", "questions"),
        *("BM25", "zero-shot", "LoRA"),
    ),
    Line(
        *("embedding", "MSRD", "embedding_msrd", "nDCG@10", "queries"),
        *("BM25", "zero-shot", "adapter, both sides"),
    ),
)


def summary() -> str:
    """The table as Markdown: n, 95% intervals, and the adapter's paired difference to the best rule with a verdict."""
    rows = [_row(line) for line in LINES]
    header = [
        *("task", "data", "measure", "best without a neural model", "base", "adapter", "difference", "adapter is"),
        "frozen encoder",
    ]
    note = (
        "*base*: the model without adapter. *difference*: adapter minus the best system without a neural model, on\n"
        "the same rows. Intervals are 95%, by bootstrap; questions of one dialogue or article are resampled together,\n"
        "so intervals are wider than the number of questions suggests. p is of the paired randomisation test over the\n"
        "same groups, corrected for all comparisons of the benchmark. *adapter is*: better or worse at corrected\n"
        "p ≤ 0.05. Where it is not better, use the system without a neural model. *frozen encoder*: all-MiniLM-L6-v2\n"
        "on the same rows, with logistic regression for intent and its cosine for judgment, in a fraction of the\n"
        "time. Its difference to the adapter is not tested here; where it is higher, use it. `evaluate` tests it."
    )
    named = {f"{line.task}, {line.data}": _compared(line) for line in LINES}
    if disagreements := disagreements_of(named):
        note = f"{note}\n{disagreements}"
    exceptions = [f"*{line.task}*, {line.data}: {where}" for line in LINES if (where := _base_is_as_good(line))]
    return markdown_table(header, rows) + f"\n\n{note}\n" + "".join(f"\n{exception}\n" for exception in exceptions)


def _compared(line: Line) -> dict[str, Any]:
    """The comparison of the adapter with the rule."""
    results = json.loads((RESULTS / f"{line.results}.json").read_text(encoding="utf-8"))
    compared = [*results["comparisons"], *results.get("more_comparisons", ())]
    pairs: dict[tuple[str, str], dict[str, Any]] = {
        (pair["a"], pair["b"]): pair for pair in compared if pair["measure"] == line.measure
    }
    return pairs[line.adapter, line.rule]


def _row(line: Line) -> list[str]:
    results = json.loads((RESULTS / f"{line.results}.json").read_text(encoding="utf-8"))
    rows = {row["system"]: row for row in results["rows"] if row["measure"] == line.measure}
    rule, base, adapter = (figure_of(rows[name], "value") for name in (line.rule, line.base, line.adapter))
    pair = _compared(line)
    return [
        line.task,
        f"{line.data}: {rows[line.adapter]['n']} {line.items}",
        line.measure,
        f"{line.rule}: {rule}",
        base,
        adapter,
        f"{figure_of(pair, 'difference', '+')}, p {p_value(pair['p_corrected'])}",
        _verdict(pair) + (", but not than its base" if _base_is_as_good(line) else ""),
        _encoder(line),
    ]


def _encoder(line: Line) -> str:
    """The figure of a frozen encoder; empty if none was measured."""
    if line.encoder is None:
        return ""
    name, system = line.encoder
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    found = [row for row in results["rows"] if (row["system"], row["measure"]) == (system, line.measure)]
    return figure_of(found[0], "value")


def _base_is_as_good(line: Line) -> str | None:
    """What the table's verdict hides: the adapter is better than the rule, but its base scores at least as high."""
    results = json.loads((RESULTS / f"{line.results}.json").read_text(encoding="utf-8"))
    values = {row["system"]: row["value"] for row in results["rows"] if row["measure"] == line.measure}
    pairs = {(pair["a"], pair["b"]): pair for pair in results["comparisons"] if pair["measure"] == line.measure}
    if values[line.adapter] > values[line.base] or _verdict(pairs[line.adapter, line.rule]) != "better":
        return None
    pair = pairs[line.adapter, line.base]
    return (
        "the adapter is better than the system without a neural model, but not better than its base. Adapter minus\n"
        f"base is {figure_of(pair, 'difference', '+')}, p {p_value(pair['p_corrected'])}.\n"
        "Use the base without an adapter."
    )


def _verdict(pair: Mapping[str, Any]) -> str:
    """What a comparison shows, in one or two words."""
    if pair["p_corrected"] > LEVEL:
        return "not different"
    return "better" if pair["difference"] > 0 else "worse"


def disagreements_of(pairs: Mapping[str, Mapping[str, Any]]) -> str:
    """Which rules where the interval and the corrected p of a named comparison disagree; empty where they agree."""

    def known(pair: Mapping[str, Any], key: str) -> float:
        return math.nan if pair.get(key) is None else float(pair[key])

    return disagreement_note(
        (name, known(pair, "low"), known(pair, "high"), known(pair, "p_corrected")) for name, pair in pairs.items()
    )


def figure_of(row: dict[str, Any] | None, value: str, sign: str = "") -> str:
    """A figure of the results with its interval; null and a missing row are printed as unknown."""
    known = [math.nan if row is None or row[key] is None else row[key] for key in (value, "low", "high")]
    return figure(*known, sign)
