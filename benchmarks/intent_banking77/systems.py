"""The systems that the benchmark compares; what a model answered is kept on disk and taken from there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.eval.comparison import Comparison, compare
from searchlora.experiments.evaluation_run import EvaluationRun, SystemResult
from searchlora.experiments.output_cache import Model, OutputCache
from searchlora.inference.local import LocalEngine
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.stages import AdapterStage
from searchlora.progress import Steps
from searchlora.records import Record
from searchlora.task import PromptedTask
from searchlora.tasks.intent.baselines import LINEAR

BASE, BASE_FREE = "base zero-shot", "base zero-shot, without constraint"
ADAPTER, FREE, RAW = "adapter", "adapter, without constraint", "adapter, temperature 1"

ACCURACY, MACRO_F1, VALID, ERROR = "accuracy", "macro-F1", "schema-valid", "calibration error"


def run_all(
    task: PromptedTask, dataset: Dataset, stored: StoredAdapter, engine: LocalEngine, keep: Path, steps: Steps
) -> tuple[dict[str, SystemResult], Mapping[str, Any]]:
    """Every row of the table, in its order; and what was tuned on validation.

    Args:
        task: With the adapter's settings, and nothing tuned.
    """
    records = dataset.records("test")
    most = int(stored.manifest.recipe["max_new_tokens"])
    held = EvaluationRun(task, records, max_new_tokens=most)
    free = replace(held, constrained=False)
    tuned = stored.manifest.tuned or _tuned(task, dataset, stored, engine, steps)
    systems = {name: held.given(name, outputs) for name, outputs in task.baselines(records, dataset.folder).items()}
    for model, trial in (
        (Model(BASE, stored, bare=True), held),
        (Model(BASE_FREE, stored, bare=True), free),
        (Model(RAW, stored), held),
        (Model(FREE, stored), free),
    ):
        systems[model.name] = _asked(model, trial, engine, keep, steps)
    tuned_task = task.bound(task.settings, tuned)
    raw = systems[RAW]
    outputs = [tuned_task.apply_tuning(output, record) for output, record in zip(raw.outputs, records, strict=True)]
    systems[ADAPTER] = held.given(ADAPTER, outputs, raw.evaluation.costs)
    return systems, tuned


def compared(systems: Mapping[str, SystemResult]) -> Comparison:
    """The adapter against all others, on accuracy and macro-F1 over all rows, an invalid output counted as wrong."""
    evaluations = {}
    for name, system in systems.items():
        if name == RAW:
            continue  # the same answers as the adapter's: only its probabilities differ
        values = system.evaluation.values
        valid = {row: 1 - invalid for row, invalid in values["invalid"].items()}
        evaluations[name] = replace(
            system.evaluation,
            values={ACCURACY: values[ACCURACY], VALID: valid},
            aggregates={MACRO_F1: system.evaluation.aggregates[MACRO_F1]},
            slices={},
        )
    return compare(evaluations, candidate=ADAPTER, measures=(ACCURACY, MACRO_F1, VALID))


def calibrated(systems: Mapping[str, SystemResult]) -> Comparison:
    """The calibration error of all systems that give probabilities, against the adapter's without temperature."""
    evaluations = {
        name: replace(
            systems[name].evaluation, slices={}, aggregates={ERROR: systems[name].evaluation.aggregates[ERROR]}
        )
        for name in (LINEAR, BASE, RAW, ADAPTER)
    }
    return compare(evaluations, candidate=ADAPTER, measures=(ERROR,))


def _asked(model: Model, trial: EvaluationRun, engine: LocalEngine, keep: Path, steps: Steps) -> SystemResult:
    cache = OutputCache(keep, trial)
    known = cache.outputs(model)
    if known is not None:
        return trial.given(model.name, *known)
    found = trial.generated(model.name, engine, model.reference, steps(f"Answering: {model.name}"))
    cache.save(model, found.outputs, found.evaluation.costs)
    return found


def _tuned(
    task: PromptedTask, dataset: Dataset, stored: StoredAdapter, engine: LocalEngine, steps: Steps
) -> Mapping[str, Any]:
    """As training does it at its end; for an adapter that was trained before it did."""
    progress = steps("Asking validation rows")
    stage = AdapterStage(task, engine, stored.reference)
    records = dataset.records("validation")
    outputs: list[Any] = []
    for start in range(0, len(records), 128):
        outputs += stage.ask(records[start : start + 128])
        progress(len(outputs), len(records))
    return task.tune(records, outputs)


def per_label(records: Sequence[Record], outputs: Sequence[Any]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label, the worst F1 first."""
    from sklearn.metrics import precision_recall_fscore_support

    gold = [str(record["label"]) for record in records]
    labels = sorted(set(gold))
    figures = precision_recall_fscore_support(gold, _said(outputs), labels=labels, zero_division=0)
    rows = [
        {"label": label, "precision": float(p), "recall": float(r), "F1": float(f), "n": int(n)}
        for label, p, r, f, n in zip(labels, *figures, strict=True)
    ]
    return sorted(rows, key=lambda row: float(row["F1"]))


def confused(records: Sequence[Record], outputs: Sequence[Any], most: int = 20) -> list[dict[str, Any]]:
    """The pairs of labels most often confused, true and said."""
    pairs = Counter((str(r["label"]), said) for r, said in zip(records, _said(outputs), strict=True))
    wrong = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    return [{"true": true, "said": said, "n": count} for (true, said), count in wrong.most_common(most)]


def to_read(records: Sequence[Record], held: Sequence[Any], free: Sequence[Any], each: int = 10) -> str:
    """So many right answers, wrong ones, and ones invalid without constraint, drawn by chance, as Markdown."""
    rows = list(zip(records, held, free, strict=True))
    parts = {
        "Right": [row for row in rows if row[1].value == row[0]["label"]],
        "Wrong": [row for row in rows if row[1].value != row[0]["label"]],
        "Invalid without constraint": [row for row in rows if isinstance(row[2], InvalidOutput)],
    }
    return "\n".join(line for title, found in parts.items() for line in _listed(title, found, each))


def _listed(title: str, rows: Sequence[tuple[Record, Any, Any]], each: int) -> Iterator[str]:
    yield f"## {title}: {len(rows)} rows, {min(each, len(rows))} of them drawn\n"
    for record, held, free in Random(0).sample(rows, min(each, len(rows))):
        sure = f"{max(held.probabilities):.2f}"
        wrote = repr(free.raw) if isinstance(free, InvalidOutput) else free.value
        yield f"* **{record['query']}** ({record['id']})"
        yield f"  true {record['label']}; said {held.value} at {sure}; without constraint {wrote}"
    yield ""


def _said(outputs: Sequence[Any]) -> list[str]:
    return ["(invalid)" if isinstance(output, InvalidOutput) else str(output.value) for output in outputs]
