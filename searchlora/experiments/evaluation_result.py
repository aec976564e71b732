"""The result of an evaluation of an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite

from searchlora.adapters.evaluations import MAX_ENGINE, EvaluationRecord
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.errors import StoreError
from searchlora.eval.comparison import Comparison
from searchlora.eval.formatting import interval, p_value
from searchlora.experiments.judge.judgments import Judgments
from searchlora.experiments.learned_baselines import LearnedBaselines
from searchlora.records import Record
from searchlora.systems.lineage import seen_in_training
from searchlora.systems.measure import SystemResult
from searchlora.task import EncoderTask, GenerationTask


@dataclass(frozen=True)
class EvaluationResult:
    """The result of `evaluate`.

    Attributes:
        comparison: The figures; the evaluated adapter is the candidate.
        systems: System name -> its outputs and evaluation.
        adapters: The evaluated adapter, followed by the adapters it is compared with.
        judgments: The relevance judgments and their source.
        reused: Names of systems whose outputs were reused from an earlier evaluation.
        learned: What the task's baselines learned from.
        baselines: Names of the systems that are no LLMs: rules and classical methods, without the upper bounds.
        left_out: Baseline over a frozen encoder -> why it is not compared.
        engines: The engines that computed the models' outputs, none for encoders.
    """

    task: GenerationTask | EncoderTask
    comparison: Comparison
    systems: Mapping[str, SystemResult]
    records: Sequence[Record]
    dataset: Dataset
    split: str
    adapters: Sequence[StoredAdapter]
    judgments: Judgments
    reused: tuple[str, ...]
    learned: LearnedBaselines
    baselines: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    engines: tuple[str, ...] = ()

    @property
    def adapter(self) -> StoredAdapter:
        """The evaluated adapter."""
        return self.adapters[0]

    @property
    def losses(self) -> tuple[str, ...]:
        """A sentence for each baseline that is significantly better than the adapter."""
        return tuple(
            f"{pair.a} loses to the baseline {pair.b}: {pair.measure} {pair.difference:+.3f} "
            f"{interval(pair.low, pair.high, '+')}, n = {pair.n}, corrected p {p_value(pair.p_corrected)}"
            for pair in self.comparison.losses(self.baselines)
        )

    def seen_in_training(self, store: Store) -> tuple[str, ...] | None:
        """Ids of the evaluated records whose query the adapter was trained on; None if unknown."""
        return seen_in_training(store, self.adapter, self.task, self.dataset, self.split, self.records)

    def record(self, store: Store) -> None:
        """Record the headline figure in the store, for listings; a store that cannot be written gives a warning."""
        score = self.comparison.row(self.adapter.reference, self.comparison.measures[0])
        manifest = self.adapter.manifest
        record = EvaluationRecord(
            version=manifest.version,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            data=self.judgments.data,
            split=self.split,
            measure=score.measure,
            **{name: value if isfinite(value := getattr(score, name)) else None for name in ("value", "low", "high")},
            n=score.n,
            loses_to=tuple(pair.b for pair in self.comparison.losses(self.baselines)),
            engine="; ".join(self.engines)[:MAX_ENGINE] or None,
        )
        try:
            store.record_evaluation(manifest.name, record)
        except StoreError as error:
            warnings.warn(f"the evaluation is not recorded in the store: {error}", stacklevel=3)
