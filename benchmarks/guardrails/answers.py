"""`min_support`: answers to MT-RAG that a base writes without an adapter, and quoted ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.common import WORK, read_results, real_data
from benchmarks.guardrails.measured import Guarded, guarded
from benchmarks.judges import BASE, answered
from benchmarks.rag_mtrag.__main__ import ENCODER
from benchmarks.rag_mtrag.data import SETTINGS, TASK, MtRag, Record
from benchmarks.rag_mtrag.embedder import MODEL
from searchlora.adapters.store import Store
from searchlora.experiments.task_model import load_task_model
from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.pipelines.stages.guards import support
from searchlora.progress import Steps
from searchlora.systems.encoder_baseline import FrozenEncoder
from searchlora.task import EvaluationInput, GenerationTask, load_generation_task
from searchlora.tasks.rag_answer.baselines import graded

#: The fold whose questions are answered.
FOLD = 0
MIN_SUPPORT = 0.5
MEASURES = ["unsupported sentences", "answerability F1", "token F1"]


def measured(steps: Steps) -> tuple[list[Guarded], Mapping[str, Any]]:
    """The guard on written answers."""
    task = load_generation_task(TASK)
    task = task.bound(task.settings_of(SETTINGS, ()))
    rows = graded(MtRag.read(real_data()).test(FOLD), FrozenEncoder(MODEL).encode_once)
    outputs = _written(task, rows, steps)
    kept = [_guarded(task, row, output) for row, output in zip(rows, outputs, strict=True)]
    acts = sum(one is not other for one, other in zip(outputs, kept, strict=True)) / len(rows)
    bad = _unsupported(task, rows, outputs), _unsupported(task, rows, kept)
    saves = f"{bad[0] - bad[1]} of {bad[0]} unsupported sentences"
    evaluations = [task.evaluate(EvaluationInput(rows, each)) for each in (kept, outputs)]
    name = f"min_support {MIN_SUPPORT:g}"
    about = {"invalid answers without an adapter": sum(isinstance(output, InvalidOutput) for output in outputs)}
    found = guarded(name, "MT-RAG", "base without adapter", acts, saves, (evaluations[0], evaluations[1]), MEASURES)
    return list(found), about


def _written(task: GenerationTask, rows: Sequence[Record], steps: Steps) -> list[Any]:
    """What the base answers where the rules of quoting do not abstain, with the citations that they choose."""
    learned = read_results("rag_mtrag")["design"]["what quoting learned for each fold"][ENCODER][FOLD]
    model = load_task_model(adapter=None, base=BASE, task=TASK, generate=False, store=Store(WORK / "store"))
    model = replace(model, task=task.bound(task.settings, {key: learned[key] for key in ("abstain", "cite")}))
    hidden = ("answer", "reference", "gold", "answerable")
    asked = [{key: value for key, value in row.items() if key not in hidden} for row in rows]
    return answered(model, asked, WORK / "guardrails" / "answers" / f"fold{FOLD + 1}", steps("Answering"))


def _guarded(task: GenerationTask, row: Record, output: CitedAnswer | InvalidOutput) -> Any:
    """The output, or the abstention where too little of it is supported, as the stage does it."""
    if isinstance(output, InvalidOutput) or support(task.evidence(row, output)) >= MIN_SUPPORT:
        return output
    return task.fallback(row)


def _unsupported(task: GenerationTask, rows: Sequence[Record], outputs: Sequence[Any]) -> int:
    """The number of sentences that no passage supports."""
    return sum(
        each.supported is False
        for row, output in zip(rows, outputs, strict=True)
        if not isinstance(output, InvalidOutput)
        for each in task.evidence(row, output)
    )
