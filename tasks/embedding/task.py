"""The embedding task: ties schema, dataset builder and evaluator together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.evaluation import Evaluation
from searchlora.records import Options, Record
from searchlora.task import EncoderTask, EvaluationInput
from searchlora.tasks.embedding import baselines, evaluator
from searchlora.tasks.embedding.dataset import FORMATS, check_kind


class EmbeddingTask(EncoderTask):
    """Texts -> vectors: queries lie close to what they shall find, or texts of a class close to each other."""

    name = "embedding"
    version = 1
    formats = FORMATS

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        """Nothing is kept; records of two kinds are refused."""
        del options
        check_kind(records)
        return self.default_settings

    def query(self, record: Record) -> str:
        return str(record["query"])

    def positives(self, record: Record) -> Sequence[str]:
        return tuple(record.get("positives", ()))

    def negatives(self, record: Record) -> Sequence[str]:
        return tuple(record.get("negatives", ()))

    def label(self, record: Record) -> str | None:
        return record.get("label")

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        return evaluator.evaluate(inputs)

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[Any]]:
        return baselines.baseline_outputs(records, dataset)
