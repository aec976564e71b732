"""The verb `index build`: an index folder, whose vectors may be encoded in shards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus
from searchlora.experiments.sharding import WHOLE, Sharding, run_shards
from searchlora.files.shards import Parts
from searchlora.pipelines.index_build import BuiltIndex, build_index, encode_shard, prepare_shards
from searchlora.progress import Steps, no_progress


def index(
    corpus: Corpus,
    out: str | Path,
    *,
    pipelines: Sequence[str | Path] = ("bm25",),
    overrides: Sequence[str] = (),
    store: Store | str | Path | None = None,
    sharding: Sharding = WHOLE,
    steps: Steps = no_progress,
) -> BuiltIndex | None:
    """Build an index folder as `build_index` does; several processes or machines may encode its documents.

    The vectors have the same bytes for any number of shards. Everything else is built in this process.

    Args:
        sharding: Where and in how many shards the documents are encoded.

    Returns:
        The index; None for a shard alone, whose vectors the same call without a shard joins with those of the others.

    Raises:
        DataError: for a shard alone, if its documents were not saved before. Otherwise as `build_index`.
        ShardsFailed: naming the shards that failed.
    """
    given: dict[str, Any] = {"pipelines": tuple(pipelines), "overrides": tuple(overrides), "store": Store.of(store)}
    if not sharding.is_here or sharding.shard is not None:
        if sharding.shard is None:
            prepare_shards(corpus, out, **given, steps=steps)
        work = partial(encode_shard, corpus=corpus, out=out, **given)
        if not run_shards(work, sharding, Parts.beside(Path(out).resolve()), steps("Encoding")):
            return None
    return build_index(corpus, out, **given, steps=steps)
