"""Answers from passages on MT-RAG: when to abstain, and what to cite.

    python -m benchmarks.rag_mtrag

The reference tasks are in three folds by group (conversation, first turn, document). Answers are quoted, as the
task's baseline does it: cosines of question and passage decide when to abstain and what to cite, and the sentences of
the cited passages that are nearest to the question are the answer. The encoder is MiniLM, or MiniLM with an embedding
adapter that was trained on the other folds. No threshold, and no number of sentences, is fitted on a row of its fold.
Adapters in `benchmarks/work/rag_mtrag` are reused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks.common import WORK, real_data, save, training_figures
from benchmarks.rag_mtrag.data import FOLDS, MISSING, SETTINGS, TASK, MtRag, Record, fold_of
from benchmarks.rag_mtrag.embedder import MODEL, embedders
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.encoder_baseline import Encode
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.systems.encoder_baseline import FrozenEncoder
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
    outputs = rules_of_folds(mtrag, str(task.settings["abstention"]))
    rules: dict[str, Any] = {}
    plain = [FrozenEncoder(MODEL).encode_once] * FOLDS
    adapted = [FrozenEncoder(MODEL, adapter).encode_once for adapter in adapters]
    others = [mtrag.others(fold) for fold in range(FOLDS)]
    # An adapter has learned from most of the other rows: its cosines there are not those on new rows.
    unseen = [mtrag.validation(fold) for fold in range(FOLDS)]
    for name, encoders, fits in ((ENCODER, plain, others), (ADAPTER, adapted, unseen)):
        outputs[name], rules[name] = quoted(task, mtrag.official, encoders, fits)
    evaluations = {name: evaluated(task, mtrag.official, by_id) for name, by_id in outputs.items()}
    comparison = compare(evaluations, candidate=ADAPTER)
    save(NAME, comparison, _about(mtrag, adapters, rules, evaluations))
    print_comparison(comparison)


def quoted(
    task: GenerationTask,
    rows: Sequence[Record],
    encoders: Sequence[Encode],
    fits: Sequence[frozenset[str]],
    more: int = 0,
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Row id -> the quoted answer; and what the baseline of each fold has learned.

    Args:
        encoders: Of each fold.
        fits: Of each fold, the ids of the rows that its baseline learns from; none of them is of the fold.
        more: Number of sentences beyond those that it learns to quote.
    """
    outputs, rules = dict[str, Any](), []
    for fold, (encode, ids) in enumerate(zip(encoders, fits, strict=True)):
        tested = [row for row in rows if fold_of(row) == fold]
        (quoting,) = task.encoder_baselines()
        quoting.fit([row for row in rows if row["id"] in ids], (), encode)
        quoting.rules = {**quoting.rules, "sentences": quoting.rules["sentences"] + more}
        outputs |= {row["id"]: output for row, output in zip(tested, quoting.predict(tested, encode), strict=True)}
        rules.append(quoting.rules)
    return outputs, rules


def rules_of_folds(mtrag: MtRag, abstention: str) -> dict[str, dict[str, Any]]:
    """Name -> row id -> output of the task's baselines; their threshold is fitted on the rows of the other folds."""
    outputs: dict[str, dict[str, Any]] = {}
    for fold in range(FOLDS):
        rows = mtrag.test(fold)
        for name, of_fold in fitted_baselines(rows, mtrag.training(fold), abstention).items():
            by_id = {row["id"]: output for row, output in zip(rows, of_fold, strict=True)}
            outputs.setdefault(name, {}).update(by_id)
    return outputs


def evaluated(task: GenerationTask, rows: Sequence[Record], outputs: Mapping[str, Any]) -> Evaluation:
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
            "what quoting learned for each fold": rules,
        },
        "training": {adapter.reference: training_figures(adapter) for adapter in adapters},
        "confusions": {
            name: {title: asdict(confusion) for title, confusion in evaluation.confusions.items()}
            for name, evaluation in evaluations.items()
        },
    }


if __name__ == "__main__":
    main()
