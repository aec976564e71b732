"""Loading a corpus into the indexes in search engines that stages of pipelines search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, read_documents
from searchlora.errors import PipelineError
from searchlora.inference.engines import Engines
from searchlora.pipelines.config import read_pipelines
from searchlora.pipelines.corpus import Shared
from searchlora.pipelines.stages.stage import BuildContext, StageSettings, leaves
from searchlora.progress import Steps, no_progress
from searchlora.retrieval.engine_index import IndexNeed, LoadedIndex, load_index
from searchlora.retrieval.index_folder import identity_of

#: Address of an engine and name of an index there -> what stages need of it.
EngineNeeds: TypeAlias = dict[tuple[str, str], IndexNeed]


def generations(stages: Iterable[StageSettings]) -> dict[str, str | None]:
    """Index -> the generation that is published now, for the indexes in search engines, on which hits depend."""
    shared = Shared()
    try:
        return dict(index for leaf in leaves(stages) for index in leaf.generations(shared).items())
    finally:
        shared.close()


def load_corpus(
    corpus: Corpus,
    *,
    pipelines: Sequence[str | Path],
    overrides: Sequence[str] = (),
    store: Store | str | Path | None = None,
    steps: Steps = no_progress,
) -> list[LoadedIndex]:
    """Load a corpus into every index in a search engine that stages of pipelines search.

    Arguments as of `build_index`. An index that holds the corpus as the pipelines need it is left as it is; another one
    is replaced when the new one is complete. All pipelines that search an index are given at once.

    Raises:
        PipelineError: for an invalid pipeline, one that searches in no engine, or stages that need different things of
            one index.
        DataError, EngineError: as `load_index`.
        BaseModelError, NotInStore, LoadCheckFailed: if an encoder or an adapter is missing or fails its load check.
    """
    store = Store.of(store)
    context = BuildContext(store, Engines(store))
    try:
        needs: EngineNeeds = {}
        for pipeline, config in read_pipelines(pipelines, overrides):
            searched = 0
            for stage in leaves(config.stages):
                searched += stage.add_to_engines(needs, context)
            if not searched:
                what = "no stage searches in an engine that is loaded from here"
                fix = "Give a pipeline with a stage 'text_search' or 'vector_search'."
                raise PipelineError(what, where=str(pipeline), fix=fix)
        identity = identity_of(corpus)
        return [
            load_index(
                need.engine,
                need.index,
                lambda: read_documents(corpus),
                corpus=identity,
                text=need.text,
                vectorizer=need.vectorizer,
                progress=steps(f"Loading {need.index}"),
            )
            for need in needs.values()
        ]
    finally:
        context.shared.close()
