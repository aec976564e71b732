"""The embedding task: train an encoder for dense retrieval or for classification."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.evaluation import Evaluation
from searchlora.records import Options, Record
from searchlora.task import EncoderTask, EvaluationInput
from searchlora.tasks.embedding import evaluator
from searchlora.tasks.embedding.dataset import FORMATS, check_kind

#: Name of the baseline of labelled records.
COMMONEST = "commonest class"


class EmbeddingTask(EncoderTask):
    """Texts -> vectors, so that queries are close to relevant texts, or texts of one class close to each other."""

    name = "embedding"
    version = 1
    formats = FORMATS

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        """No settings. Raises `DataError` for a mix of labelled records and records with positives."""
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
        """`commonest class` of the training split, for labelled records; BM25 is added by the command `evaluate`."""
        if not records or "label" not in records[0]:
            return {}
        with (dataset / "train.jsonl").open(encoding="utf-8") as lines:
            counts = Counter(json.loads(line)["label"] for line in lines)
        if not counts:
            return {}
        commonest = min(counts, key=lambda label: (-counts[label], label))
        return {COMMONEST: [commonest] * len(records)}

    def learned_baselines(self, records: Sequence[Record]) -> frozenset[str]:
        return frozenset({COMMONEST} if records and "label" in records[0] else ())
