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
from searchlora.errors import StoreError, some
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
    """The result of `evaluate`."""

    task: GenerationTask | EncoderTask
    comparison: Comparison
    systems: Mapping[str, SystemResult]  # system name -> its outputs and evaluation
    records: Sequence[Record]
    dataset: Dataset
    split: str
    adapters: Sequence[StoredAdapter]
    judgments: Judgments
    reused: tuple[str, ...]
    learned: LearnedBaselines
    baselines: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    seen: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()  # the engines that computed the models' outputs, none for encoders

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

    @property
    def left_out_rows(self) -> str:
        """How many rows are left out since the adapter was trained on their queries, in words; empty if none is."""
        total = len(self.records) + len(self.seen)
        return f"{len(self.seen)} of {total} rows ({some(self.seen)}) are left out: they are training queries" * bool(
            self.seen
        )

    def seen_in_training(self, store: Store) -> tuple[str, ...] | None:
        """Ids of the evaluated records whose query the adapter was trained on; None if unknown."""
        return seen_in_training(store, self.adapter, self.task, self.dataset, self.split, self.records)

    def record(self, store: Store) -> None:
        """Record the headline figures in the store, for listings and for the count of candidates on these rows.

        A store that cannot be written gives a warning. An adapter that is only compared with keeps an earlier record,
        which names the baselines that are better.
        """
        try:
            for stored in self.adapters:
                record = self._record(stored)
                same = (record.version, record.data, record.split)
                known = store.evaluations(stored.manifest.name)
                if stored is self.adapter or same not in [(each.version, each.data, each.split) for each in known]:
                    store.record_evaluation(stored.manifest.name, record)
        except StoreError as error:
            warnings.warn(f"the evaluation is not recorded in the store: {error}", stacklevel=3)

    def _record(self, stored: StoredAdapter) -> EvaluationRecord:
        score = self.comparison.row(stored.reference, self.comparison.measures[0])
        losses = self.comparison.losses(self.baselines) if stored is self.adapter else ()
        return EvaluationRecord(
            version=stored.manifest.version,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            data=self.judgments.data,
            split=self.split,
            measure=score.measure,
            **{name: value if isfinite(value := getattr(score, name)) else None for name in ("value", "low", "high")},
            n=score.n,
            loses_to=tuple(pair.b for pair in losses),
            engine="; ".join(self.engines)[:MAX_ENGINE] or None,
        )
