"""Systems of the intent benchmark, their outputs (stored on disk and reused), and tables of labels."""

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
from searchlora.files.result_cache import ResultCache
from searchlora.inference.engines import Engines
from searchlora.inference.local import LocalEngine
from searchlora.outputs import InvalidOutput
from searchlora.progress import Steps
from searchlora.records import Record
from searchlora.systems.fixed import FixedResults
from searchlora.systems.measure import SystemResult, run_system
from searchlora.systems.measures import TaskMeasures
from searchlora.systems.models import AdapterSystem, EngineSystem, ZeroShotSystem
from searchlora.task import GenerationTask
from searchlora.tasks.intent.baselines import LINEAR

BASE, BASE_FREE = "base zero-shot", "base zero-shot, without constraint"
ADAPTER, FREE, RAW = "adapter", "adapter, without constraint", "adapter, temperature 1"

ACCURACY, MACRO_F1, VALID, ERROR = "accuracy", "macro-F1", "schema-valid", "calibration error"


def run_all(
    task: GenerationTask, dataset: Dataset, stored: StoredAdapter, engine: LocalEngine, keep: Path, steps: Steps
) -> tuple[dict[str, SystemResult], Mapping[str, Any]]:
    """The result of every system, in the order of the table, and the values tuned on validation rows.

    Args:
        task: The task with the adapter's settings and without tuned values.
    """
    records = dataset.records("test")
    measures, cache = TaskMeasures(task), ResultCache(keep / "results.sqlite")
    tuned = stored.manifest.tuned or _tuned(task, dataset, stored, engine, steps)
    untuned = replace(stored, manifest=stored.manifest.model_copy(update={"tuned": None}))
    engines = Engines(engine.store)
    systems = {
        name: run_system(FixedResults(name, records, outputs), records, measures)
        for name, outputs in task.baselines(records, dataset.folder).items()
    }
    for system in (
        ZeroShotSystem(stored, task, engines, name=BASE),
        ZeroShotSystem(stored, task, engines, name=BASE_FREE, constrained=False),
        AdapterSystem(untuned, task, engines, name=RAW),
        AdapterSystem(untuned, task, engines, name=FREE, constrained=False),
    ):
        progress = steps(f"Answering: {system.name}")
        systems[system.name] = run_system(system, records, measures, cache, progress)
    tuned_task = task.bound(task.settings, tuned)
    raw = systems[RAW]
    outputs = [tuned_task.apply_tuning(output, record) for output, record in zip(raw.outputs, records, strict=True)]
    fixed = FixedResults(ADAPTER, records, outputs, costs=raw.evaluation.costs)
    systems[ADAPTER] = run_system(fixed, records, measures)
    return systems, tuned


def compared(systems: Mapping[str, SystemResult]) -> Comparison:
    """Compare the adapter with all others on accuracy and macro-F1 over all rows; an invalid output is wrong."""
    evaluations = {}
    for name, system in systems.items():
        if name == RAW:
            continue  # same answers as the adapter; only the probabilities differ
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
    """Compare the calibration error of the adapter with that of all systems with probabilities."""
    evaluations = {
        name: replace(
            systems[name].evaluation, slices={}, aggregates={ERROR: systems[name].evaluation.aggregates[ERROR]}
        )
        for name in (LINEAR, BASE, RAW, ADAPTER)
    }
    return compare(evaluations, candidate=ADAPTER, measures=(ERROR,))


def _tuned(
    task: GenerationTask, dataset: Dataset, stored: StoredAdapter, engine: LocalEngine, steps: Steps
) -> Mapping[str, Any]:
    """Tune on validation rows, for an adapter stored without tuned values."""
    records = dataset.records("validation")
    system = EngineSystem(RAW, task, engine, stored.reference)
    outputs = system.run(records, steps("Validation rows")).outputs
    return task.tune(records, outputs)


def per_label(records: Sequence[Record], outputs: Sequence[Any]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label, lowest F1 first."""
    from sklearn.metrics import precision_recall_fscore_support

    gold = [str(record["label"]) for record in records]
    labels = sorted(set(gold))
    figures = precision_recall_fscore_support(gold, _predicted(outputs), labels=labels, zero_division=0)
    rows = [
        {"label": label, "precision": float(p), "recall": float(r), "F1": float(f), "n": int(n)}
        for label, p, r, f, n in zip(labels, *figures, strict=True)
    ]
    return sorted(rows, key=lambda row: float(row["F1"]))


def confused(records: Sequence[Record], outputs: Sequence[Any], limit: int = 20) -> list[dict[str, Any]]:
    """The most frequently confused pairs of gold and predicted labels."""
    gold = [str(record["label"]) for record in records]
    pairs = Counter(zip(gold, _predicted(outputs), strict=True))
    wrong = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    return [{"gold": label, "predicted": other, "n": count} for (label, other), count in wrong.most_common(limit)]


def sample_answers(records: Sequence[Record], constrained: Sequence[Any], free: Sequence[Any], count: int = 10) -> str:
    """A random sample of right answers, wrong answers, and answers invalid without constraint, as Markdown."""
    rows = list(zip(records, constrained, free, strict=True))
    parts = {
        "Right": [row for row in rows if row[1].value == row[0]["label"]],
        "Wrong": [row for row in rows if row[1].value != row[0]["label"]],
        "Invalid without constraint": [row for row in rows if isinstance(row[2], InvalidOutput)],
    }
    return "\n".join(line for title, rows_of_part in parts.items() for line in _listed(title, rows_of_part, count))


def _listed(title: str, rows: Sequence[tuple[Record, Any, Any]], count: int) -> Iterator[str]:
    yield f"## {title}: {len(rows)} rows, {min(count, len(rows))} of them drawn\n"
    for record, constrained, free in Random(0).sample(rows, min(count, len(rows))):
        confidence = f"{max(constrained.probabilities):.2f}"
        answer = repr(free.raw) if isinstance(free, InvalidOutput) else free.value
        yield f"* **{record['query']}** ({record['id']})"
        yield f"  gold {record['label']}; predicted {constrained.value} at {confidence}; without constraint {answer}"
    yield ""


def _predicted(outputs: Sequence[Any]) -> list[str]:
    return ["(invalid)" if isinstance(output, InvalidOutput) else str(output.value) for output in outputs]
