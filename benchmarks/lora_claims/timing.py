"""Inference time of an adapter, merged into its base and beside it, as ratios to the base alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.common import speed_ratio, timed
from searchlora.adapters.merging import export_merged
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.inference.engine import Request
from searchlora.inference.local import LocalEngine
from searchlora.models.load import load_encoder
from searchlora.models.resolve import BaseModel, resolve
from searchlora.prompts import messages
from searchlora.records import Record
from searchlora.retrieval.encoder import Encoder
from searchlora.task import EncoderTask, PromptedTask

BASE, MERGED, UNMERGED = "base", "merged", "unmerged"


def ratios(
    task: PromptedTask | EncoderTask,
    stored: StoredAdapter,
    records: Sequence[Record],
    store: Store,
    work: Path,
    repeats: int,
) -> list[dict[str, Any]]:
    """Comparisons `merged` and `unmerged` with `base`: ratio of the seconds for all records, and its range.

    An LLM scores one choice per record; an encoder encodes the queries. The variants take turns.
    """
    base = resolve(stored.manifest.base.name, stored.manifest.base.revision)
    merged = work / f"{stored.manifest.name}-{stored.manifest.version}-merged"
    if not merged.exists():
        export_merged(stored, merged)
    with ExitStack() as stack:
        if isinstance(task, EncoderTask):
            ways = _encoders(task, stored, records, base, merged)
        else:
            ways = _engines(task, stored, records, base, merged, store, stack)
        seconds, _ = timed(ways, repeats)
    name = stored.manifest.name
    return [
        {**speed_ratio(f"{name}, {way}", f"{name}, {BASE}", "seconds", seconds[way], seconds[BASE]), "n": repeats}
        for way in (MERGED, UNMERGED)
    ]


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
    task: PromptedTask,
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
