"""`tune --risk`: fit the probability above which a stage decides alone, on labelled rows that its adapter has not seen.

Writes the pipeline with the threshold and pinned adapters.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.eval.risk import SafeThreshold, check_rows, threshold_at_risk
from searchlora.experiments.tune import OpenedStage, ask_stage, origin
from searchlora.files import check_writable
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.config import PipelineConfig
from searchlora.pipelines.stages.deciding import check_decides, confidence
from searchlora.pipelines.stages.stage import Needs, StageSettings
from searchlora.progress import Steps, no_progress
from searchlora.records import Record
from searchlora.systems.lineage import seen_in_learning, seen_in_training
from searchlora.task import GenerationTask

#: Chooses the row of each group.
SEED = 13


@dataclass(frozen=True)
class RiskResult:
    """What `tune_risk` wrote."""

    path: Path
    adapter: str
    rule: SafeThreshold
    invalid: int
    unknown: bool

    @property
    def coverage(self) -> float:
        """Share of all rows, those with an invalid output among them, that are decided."""
        return self.rule.decided / (self.rule.rows + self.invalid)


def tune_risk(
    pipeline: str | Path | PipelineConfig,
    data: str | Path,
    out: str | Path,
    risk: float,
    *,
    split: str = "validation",
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> RiskResult:
    """Fit when a stage decides alone, so that at most a share `risk` of its decisions is wrong.

    One row of each group counts, drawn at random. Rows on which the adapter was trained or tuned would make the model
    look surer than it is; they are refused.
    """
    out, store = Path(out), Store.of(store)
    check_writable(out)
    opened = OpenedStage.of(
        pipeline, data, store, tasks, _deciding_stage, lambda settings: settings.model_copy(update={"decides": None})
    )
    dataset, built, task = opened.dataset, opened.built, opened.task
    adapter = built.stages[-1].label
    check_decides(task, f"{opened.config.source}, {adapter}")
    task.check_dataset(dataset.settings or task.default_settings)
    everything = dataset.records(split)
    seen = _seen(built.settings[-1].needs(), store, task, dataset, split, everything)
    _check_unseen(seen, adapter, dataset, split, everything)
    unknown = seen is None
    records = _one_of_each_group(everything)
    check_rows(len(records), risk)
    answers = scored_answers(task, *ask_stage(built, task, records, steps))
    probabilities, wrong = zip(*answers, strict=True) if answers else ((), ())
    rule = threshold_at_risk(probabilities, wrong, risk)
    invalid = len(records) - len(answers)
    fitted = {
        "adapter": adapter,
        "risk": risk,
        "confidence": rule.confidence,
        "rows": rule.rows,
        "decided": rule.decided,
        "errors": rule.errors,
        "invalid": invalid,
        "training_unknown": unknown,
        **origin(dataset, built, split),
    }
    values = {"decides": {"above": rule.above, "origin": fitted}}
    opened.write(out, values, "`origin` says on what the threshold was fitted.")
    return RiskResult(out, adapter, rule, invalid, unknown)


def _deciding_stage(stages: Sequence[StageSettings], store: Store, task: str, where: str) -> int:
    """The index of the first stage that answers a task: later ones see only what it left undecided."""
    for place, stage in enumerate(stages):
        if stage.decides_for(task, store):
            return place
    raise PipelineError(
        f"no stage that answers the task '{task}' decides first",
        where=where,
        fix="Give --data of the task of a stage 'adapter' or 'classical' that is neither 'zero_shot' nor"
        " 'only_undecided'.",
    )


def _one_of_each_group(records: Sequence[Record]) -> list[Record]:
    """One row of each group, drawn at random: rows of a group are not independent."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(str(record["group"]), []).append(record)
    chance = random.Random(SEED)
    return [chance.choice(rows) for rows in groups.values()]


def _seen(
    needs: Needs, store: Store, task: GenerationTask, dataset: Dataset, split: str, records: Sequence[Record]
) -> tuple[str, ...] | None:
    """Ids of the records that the stage was trained on, by its adapter or its dataset; None if unknown."""
    rows = (task, dataset, split, records)
    found = [seen_in_training(store, store.get(reference), *rows) for reference in needs.adapters]
    found += [seen_in_learning(load_dataset(folder), *rows) for folder in needs.datasets]
    known = tuple(dict.fromkeys(id_ for ids in found if ids is not None for id_ in ids))
    return None if not known and None in found else known


def _check_unseen(
    seen: Sequence[str] | None, adapter: str, dataset: Dataset, split: str, records: Sequence[Record]
) -> None:
    """Raise `DataError` if there are no rows, or the adapter has seen some."""
    if not records:
        raise DataError(f"has no {split} records", where=str(dataset.folder), fix="Name another one with --split.")
    if seen:
        raise DataError(
            f"{adapter} was trained or tuned on {len(seen)} of the {len(records)} {split} records ({seen[0]})",
            where=str(dataset.folder),
            fix="Label other queries, and build a dataset of them: --split-ratios 0,0,1, then --split test.",
        )


def scored_answers(task: GenerationTask, records: Sequence[Record], outputs: Sequence[Any]) -> list[tuple[float, bool]]:
    """The probability of each answer that has one, and whether it differs from the record's label.

    A label that the adapter does not know is always an error. Invalid outputs are left out.
    """
    found = []
    for record, output in zip(records, outputs, strict=True):
        expected = task.baseline_class(record)
        if expected is None:
            raise UsageError("has no label", where=f"record {record['id']}", fix="Give labelled rows.")
        if not isinstance(output, InvalidOutput) and (sure := confidence(task, record, output)) is not None:
            found.append((sure, task.baseline_class(task.labelled(record, output)) != expected))
    return found
