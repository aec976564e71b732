"""Answers from passages on MT-RAG: when to abstain, and what to cite.

    python -m benchmarks.rag_mtrag

The reference tasks are in three folds by group (conversation, first turn, document). A judge of the passages decides
when to abstain and what to cite, and the answer quotes the sentence of a passage that it holds most relevant: an
embedding adapter, trained on the other folds, by the cosine of question and passage; or the encoder without it. No
threshold is fitted on a row of its fold. Everything in `benchmarks/work/rag_mtrag` is reused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, real_data, save, training_figures
from benchmarks.rag_mtrag.data import FOLDS, MISSING, SETTINGS, TASK, MtRag, Record, fold_of
from benchmarks.rag_mtrag.embedder import MODEL, embedders
from benchmarks.rag_mtrag.grading import graded
from benchmarks.rag_mtrag.quoting import Judge, quoted
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.pipelines.stages.similarity import SimilaritySettings
from searchlora.progress import Steps
from searchlora.task import EvaluationInput, GenerationTask, load_generation_task
from searchlora.tasks.rag_answer.baselines import fitted_baselines

NAME = "rag_mtrag"
ADAPTER, ENCODER = "adapter, quoting", "MiniLM, quoting"

#: Measures of the table.
MEASURES = frozenset(
    {
        *("answerability F1", "abstention F1", "abstention precision", "abstention recall", "answering F1"),
        *("citation precision", "citation recall", "citation F1", "unsupported sentences"),
        *("unsupported by what they cite", "token F1", "ROUGE-L", "words", "invalid", "cites what was not given"),
        "right to answer",
    }
)


def main() -> None:
    work = WORK / NAME
    mtrag, store = MtRag.read(real_data()), Store(work / "store")
    task = load_generation_task(TASK)
    task = task.bound(task.settings_of(SETTINGS, ()))
    with progress_bars() as steps:
        adapters = embedders(mtrag, work, store, steps)
        plain = graded(mtrag.official, SimilaritySettings(model=MODEL), store, work / "grades", steps("Encoding"))
        judges = {ENCODER: Judge.of_all_folds(plain), ADAPTER: _held_out(mtrag, adapters, store, work, steps)}
    outputs, rules = rules_of_folds(mtrag, str(task.settings["abstention"])), {}
    for name, judge in judges.items():
        outputs[name], rules[name] = quoted(task, judge)
    evaluations = {name: _evaluated(task, mtrag.official, by_id) for name, by_id in outputs.items()}
    comparison = compare(evaluations, candidate=ADAPTER)
    save(NAME, comparison, _about(mtrag, adapters, rules, evaluations))
    print_comparison(comparison)


def _held_out(mtrag: MtRag, adapters: Sequence[StoredAdapter], store: Store, work: Path, steps: Steps) -> Judge:
    """The embedding adapters as judges; the thresholds of a fold are fitted on its validation rows."""
    fits = [mtrag.validation(fold) for fold in range(FOLDS)]
    rows = []
    for fold, adapter in enumerate(adapters):
        needed = [row for row in mtrag.official if fold_of(row) == fold or row["id"] in fits[fold]]
        settings = SimilaritySettings(model=MODEL, adapter=adapter.reference)
        rows.append(graded(needed, settings, store, work / "grades", steps(f"Encoding: {adapter.reference}")))
    return Judge(rows, fits)


def rules_of_folds(mtrag: MtRag, abstention: str) -> dict[str, dict[str, Any]]:
    """Name -> row id -> output of the task's baselines; their threshold is fitted on the rows of the other folds."""
    outputs: dict[str, dict[str, Any]] = {}
    for fold in range(FOLDS):
        rows = mtrag.test(fold)
        for name, of_fold in fitted_baselines(rows, mtrag.training(fold), abstention).items():
            by_id = {row["id"]: output for row, output in zip(rows, of_fold, strict=True)}
            outputs.setdefault(name, {}).update(by_id)
    return outputs


def _evaluated(task: GenerationTask, rows: Sequence[Record], outputs: Mapping[str, Any]) -> Evaluation:
    evaluation = task.evaluate(EvaluationInput(rows, [outputs[row["id"]] for row in rows]))
    return replace(
        evaluation,
        values={name: values for name, values in evaluation.values.items() if name in MEASURES},
        aggregates={name: aggregate for name, aggregate in evaluation.aggregates.items() if name in MEASURES},
    )


def _about(
    mtrag: MtRag, adapters: Sequence[StoredAdapter], rules: Mapping[str, Any], evaluations: Mapping[str, Evaluation]
) -> dict[str, Any]:
    rows = mtrag.official
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
            "fitted rules of each fold": rules,
        },
        "training": {adapter.reference: training_figures(adapter) for adapter in adapters},
        "confusions": {
            name: {title: asdict(confusion) for title, confusion in evaluation.confusions.items()}
            for name, evaluation in evaluations.items()
        },
    }


if __name__ == "__main__":
    main()
