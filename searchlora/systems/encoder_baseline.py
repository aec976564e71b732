"""A baseline over a frozen encoder as a system: it learns when it is first run, and times its outputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.encoder_baseline import MAX_ROWS, EncoderBaseline
from searchlora.eval.judgments.lineage import RunLineage
from searchlora.files.result_cache import cache_key
from searchlora.models.fingerprint import fingerprint
from searchlora.models.resolve import public_name, resolve
from searchlora.progress import Progress, silent
from searchlora.records import Record
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.encoding import vectors_once
from searchlora.retrieval.shared_model import Vectors
from searchlora.systems.lineage import run_lineage
from searchlora.systems.system import Outputs, System
from searchlora.task import GenerationTask


@dataclass(eq=False)
class FrozenEncoder:
    """An encoder that several baselines share. Loaded on first use; keeps the vectors that they learn from."""

    model: str
    adapter: StoredAdapter | None = None
    _vectors: dict[str, Vectors] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.base = resolve(self.model)

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder.load(self.model, adapter=self.adapter)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of length 1, shape (texts, dimensions); equal texts are encoded once."""
        return vectors_once(self.encoder.encode, texts)

    def encode_once(self, texts: Sequence[str]) -> Vectors:
        """As `encode`, and the vectors are kept for the next baseline that learns from these texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        self._vectors.update(zip(new, self.encode(new) if new else (), strict=True))
        return np.stack([self._vectors[text] for text in texts])


def system_name(encoder: str, baseline: EncoderBaseline) -> str:
    """The name of a baseline over an encoder in tables and policies."""
    return f"{public_name(encoder)} {baseline.name}"


class EncoderBaselineSystem(System):
    """A baseline of a task over a frozen encoder."""

    def __init__(
        self,
        baseline: EncoderBaseline,
        encoder: FrozenEncoder,
        task: GenerationTask,
        rows: Sequence[Record],
        training: Sequence[Record],
        validation: Sequence[Record],
        store: Store,
    ) -> None:
        self.name = system_name(encoder.model, baseline)
        self._baseline, self._encoder, self._task = baseline, encoder, task
        self._rows, self._store = rows, store
        self._training, self._validation = training[:MAX_ROWS], validation[:MAX_ROWS]

    @cached_property
    def fingerprint(self) -> str:
        baseline, task = self._baseline, self._task
        return cache_key(
            "encoder baseline",
            fingerprint(self._encoder.base.path).model_dump(),
            [baseline.name, baseline.version, task.name, task.version, task.settings],
            [self._rows, self._training, self._validation],
        )

    @property
    def lineage(self) -> RunLineage:
        return run_lineage(self._store, (), [self._encoder.model])

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        del progress
        self._baseline.fit(self._training, self._validation, self._encoder.encode_once)
        started = time.monotonic()
        outputs = self._baseline.predict(rows, self._encoder.encode)
        return Outputs(list(outputs), costs={"ms per query": 1000 * (time.monotonic() - started) / len(rows)})
