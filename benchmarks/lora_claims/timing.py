"""Inference time of an adapter, merged into its base and beside it, as ratios to the base alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import timed
from searchlora.adapters.merging import export_merged
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.load import load_encoder
from searchlora.models.resolve import BaseModel
from searchlora.prompts import messages
from searchlora.records import Record
from searchlora.retrieval.encoder import Encoder
from searchlora.task import EncoderTask, GenerationTask

BASE, MERGED, UNMERGED = "base", "merged", "unmerged"

#: Measurements of each variant: single ones vary by more than the 3% that merged inference may differ from the base.
REPEATS = 21


def ratios(
    task: GenerationTask | EncoderTask,
    stored: StoredAdapter,
    records: Sequence[Record],
    store: Store,
    work: Path,
) -> list[dict[str, Any]]:
    """Comparisons `merged` and `unmerged` with `base`: see `median_ratio`, of the seconds for all records.

    An LLM scores one choice per record; an encoder encodes the queries. The variants take turns.
    """
    base = stored.manifest.base.resolve()
    merged = work / f"{stored.manifest.name}-{stored.manifest.version}-merged"
    if not merged.exists():
        export_merged(stored, merged)
    with ExitStack() as stack:
        if isinstance(task, EncoderTask):
            ways = _encoders(task, stored, records, base, merged)
        else:
            ways = _engines(task, stored, records, base, merged, store, stack)
        seconds, _ = timed(ways, REPEATS)
    name = stored.manifest.name
    return [
        {
            "a": f"{name}, {way}",
            "b": f"{name}, {BASE}",
            "measure": "seconds",
            **median_ratio(seconds[way], seconds[BASE]),
            "n": REPEATS,
        }
        for way in (MERGED, UNMERGED)
    ]


def median_ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median of the ratios within a repeat, and its 95% interval by bootstrap over repeats."""
    found = np.array(above) / np.array(below)
    drawn = np.random.default_rng(13).choice(found, size=(10_000, len(found)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {"ratio": float(np.median(found)), "low": float(low), "high": float(high)}


def _encoders(
    task: EncoderTask, stored: StoredAdapter, records: Sequence[Record], base: BaseModel, merged: Path
) -> Mapping[str, Callable[[], Any]]:
    texts = [task.query(record) for record in records]
    encoders = {
        BASE: Encoder(load_encoder(base), BASE),
        MERGED: Encoder.load(str(merged)),
        UNMERGED: Encoder.load(base.name, adapter=stored),
    }
    return {name: lambda encoder=encoder: encoder.encode(texts) for name, encoder in encoders.items()}  # type: ignore[misc]


def _engines(
    task: GenerationTask,
    stored: StoredAdapter,
    records: Sequence[Record],
    base: BaseModel,
    merged: Path,
    store: Store,
    stack: ExitStack,
) -> Mapping[str, Callable[[], Any]]:
    # Without a prefix cache every repeat computes the same.
    options: dict[str, Any] = {"prefix_tokens": 0, "batch_invariant": False}
    shared = LocalEngine(base, store, **options)
    own = LocalEngine(BaseModel(MERGED, merged), store, **options)
    for engine in (shared, own):
        stack.callback(engine.close)
    choices = [[task.target(record)] for record in records]

    def scored(engine: LocalEngine, adapter: str | None) -> Callable[[], Any]:
        requests = [Request(messages(task, record), adapter) for record in records]
        return lambda: engine.score(requests, choices)

    return {BASE: scored(shared, None), MERGED: scored(own, None), UNMERGED: scored(shared, stored.reference)}
