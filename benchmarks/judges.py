"""Judges of the benchmarks: grading by an adapter and its base, with and without tuned values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchlora.adapters.store import Store
from searchlora.eval.evaluation import Evaluation
from searchlora.experiments.judge.command import BATCH_SIZE
from searchlora.experiments.judge.llm_judge import Judge
from searchlora.experiments.task_model import TaskModel, load_task_model
from searchlora.files.shards import Job, Parts
from searchlora.outputs import Grade, from_json, to_json
from searchlora.progress import Progress, Steps
from searchlora.records import Record
from searchlora.systems.encoder_baseline import FrozenEncoder, system_name
from searchlora.task import GenerationTask, load_task
from searchlora.tasks.judgment import JudgmentTask
from searchlora.tasks.judgment.encoder_baselines import BoostingBaseline
from searchlora.tasks.judgment.reranking import expected_grade, log_odds
from searchlora.tasks.judgment.tuning import tuned, with_tuning

if TYPE_CHECKING:
    from numpy.typing import NDArray

BASE = "smollm2-135m-instruct-q4_1"

ADAPTER, LIKELIEST = "adapter", "adapter, likeliest grade"
BOOSTED = "boosting with the adapter's score"
ZERO_SHOT, ZERO_SHOT_TUNED = "base zero-shot", "base zero-shot, tuned"

#: Id of a pair, topic and document -> grade.
Grades = Mapping[str, Grade]


def judgment_task() -> JudgmentTask:
    """The task with default settings; its scale is that of the benchmarks' guidelines."""
    task = load_task("judgment")
    assert isinstance(task, JudgmentTask)
    return task


def graded(judge: Judge, records: Sequence[Record], folder: Path, steps: Steps) -> dict[str, Any]:
    """Id of a pair -> output as JSON holds it, before tuned values are applied; what is in the folder is reused."""
    plain = replace(judge, task=judge.task.bound(judge.task.settings))
    asked = [{name: value for name, value in record.items() if name not in ("grade", "votes")} for record in records]
    outputs = answered(plain, asked, folder, steps(f"Grading: {judge.reference}"))
    return {record["id"]: to_json(output) for record, output in zip(records, outputs, strict=True)}


def answered(model: TaskModel, records: Sequence[Record], folder: Path, progress: Progress) -> list[Any]:
    """One output per record, in order. Those of an earlier run are taken from the parts in `folder`.

    A stored output is used only for the same model, decoding options and records; a changed text is asked again.

    Raises:
        UsageError: when another process asks with this folder.
        DataError: when the folder cannot be written to, or a part is malformed.
    """
    contents = [json.dumps(record, sort_keys=True) for record in records]
    order = sorted(range(len(records)), key=lambda index: (str(records[index]["id"]), contents[index]))

    def compute(rows: Sequence[Record]) -> list[Any]:
        return [to_json(output) for output in model.ask(rows)]

    batch = max(BATCH_SIZE, model.engine.call_size)
    parts = Parts(folder)
    job = Job(model.key, [records[index] for index in order], compute, batch)
    parts.compute(job, progress=progress, total=len(records))
    outputs = dict(zip(order, map(from_json, parts.merged()), strict=True))
    return [outputs[index] for index in range(len(records))]


def answers_of(
    adapter: str, store: Store, records: Sequence[Record], label: str, folder: Path, steps: Steps
) -> tuple[GenerationTask, list[Any]]:
    """The task of an adapter and its outputs for records without their label; the bare base is not asked."""
    model = load_task_model(adapter=adapter, base=None, task=None, generate=False, store=store)
    asked = [{name: value for name, value in record.items() if name != label} for record in records]
    return model.task, answered(model, asked, folder, steps(f"Answering: {adapter}"))


def from_graded(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs that `graded` returned."""
    return {id_: from_json(output) for id_, output in outputs.items()}


def tuned_and_not(
    records: Sequence[Record],
    adapter: Grades,
    base: Grades,
    values: Mapping[str, Any],
    held_out: Sequence[Record],
) -> dict[str, dict[str, Grade]]:
    """System -> id of a record -> grade: adapter and base as they are, and with values tuned on held-out records.

    Args:
        values: The adapter's tuned values; the base's are fitted here.
    """
    scale = judgment_task().grades
    of_base = tuned(held_out, [base[str(record["id"])] for record in held_out], scale)
    variants: dict[str, tuple[Grades, Mapping[str, Any]]] = {
        ZERO_SHOT: (base, {}),
        ZERO_SHOT_TUNED: (base, of_base),
        LIKELIEST: (adapter, {}),
        ADAPTER: (adapter, values),
    }
    return {
        name: {str(record["id"]): with_tuning(outputs[record["id"]], tuning, scale) for record in records}
        for name, (outputs, tuning) in variants.items()
    }


def over_encoder(
    records: Sequence[Record], training: Sequence[Record], encoder: FrozenEncoder
) -> dict[str, dict[str, Grade]]:
    """Baseline over a frozen encoder -> id of a record -> grade, learned from training records."""
    found = {}
    for baseline in judgment_task().encoder_baselines():
        baseline.fit(training, (), encoder.encode_once)
        grades = baseline.predict(records, encoder.encode_once)
        by_id = {str(record["id"]): grade for record, grade in zip(records, grades, strict=True)}
        found[system_name(encoder.model, baseline)] = by_id
    return found


def boosted_with_adapter(
    records: Sequence[Record], training: Sequence[Record], encoder: FrozenEncoder, adapter: Grades
) -> dict[str, Grade]:
    """Id of a record -> grade by boosting with two features more: the adapter's expected grade and log odds.

    With cross-validation, an adapter that grades training records has learned from the records that are tested here:
    its outputs do not show their grades, but the adapters are not nested.

    Args:
        adapter: Its grades of all records, each by an adapter that has not learned from the record.
    """
    task = judgment_task()
    scale, relevant = task.grades, int(task.settings["relevant"])

    def scores(of: Sequence[Record]) -> NDArray[np.float64]:
        outputs = [adapter[str(record["id"])] for record in of]
        return np.array([(expected_grade(output, scale), log_odds(output, scale, relevant)) for output in outputs])

    baseline = BoostingBaseline(scale, scores)
    baseline.fit(training, (), encoder.encode_once)
    grades = baseline.predict(records, encoder.encode_once)
    return {str(record["id"]): grade for record, grade in zip(records, grades, strict=True)}


def labels(grades: Grades) -> dict[str, dict[str, int]]:
    """The grades of a judge as qrels."""
    qrels: dict[str, dict[str, int]] = {}
    for id_, grade in grades.items():
        topic, document = id_.split()
        qrels.setdefault(topic, {})[document] = grade.value
    return qrels


def with_measures(evaluation: Evaluation, measures: Iterable[str]) -> Evaluation:
    """The evaluation with these measures only, in their order."""
    return replace(
        evaluation,
        values={name: evaluation.values[name] for name in measures if name in evaluation.values},
        aggregates={name: evaluation.aggregates[name] for name in measures if name in evaluation.aggregates},
    )
