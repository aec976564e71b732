"""Validation during training: loss and the task's own measures, on a copy of the base that nobody trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from searchlora.experiments.trial import Trial
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.prompts import messages
from searchlora.records import Record
from searchlora.task import PromptedTask

_CANDIDATE = "candidate"


class Validator:
    """Measures an adapter folder; given to training as its `validate` callback.

    Args:
        engine: With a base of its own.
        records: For the loss.
        trial: Of the records that are also generated; None measures the loss alone.
    """

    def __init__(
        self, task: PromptedTask, engine: LocalEngine, records: Sequence[Record], trial: Trial | None = None
    ) -> None:
        self.task = task
        self.engine = engine
        self.records = records
        self.trial = trial
        self.less_is_better: tuple[str, ...] = ()  # known once the task has measured

    def __call__(self, adapter: Path) -> dict[str, float]:
        """`loss` (nats per completion token, stop token included) and the mean of each measure of the task."""
        self.put_on(adapter)
        measures = {"loss": self._loss()}
        if self.trial is not None:
            evaluation = self.trial.generated(_CANDIDATE, self.engine, _CANDIDATE).evaluation
            measures.update(evaluation.figures())
            self.less_is_better = evaluation.less_is_better
        return measures

    def put_on(self, adapter: Path) -> str:
        """Let the engine know an adapter folder, by the name that is returned."""
        self.engine.load_folder(_CANDIDATE, adapter)
        return _CANDIDATE

    def _loss(self) -> float:
        targets = [self.task.target(record) for record in self.records]
        requests = [Request(messages(self.task, record), _CANDIDATE) for record in self.records]
        scores = self.engine.score(requests, [[target] for target in targets])
        tokens = sum(len(self.engine.renderer.completion_ids(target)) for target in targets)
        return -sum(score.log_probabilities[0] for score in scores) / tokens
