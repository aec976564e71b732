"""Pipelines: stages that are applied in order, and building them from settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus
from searchlora.errors import PipelineError, UsageError
from searchlora.eval.trec import Run
from searchlora.files.json_text import text_fault
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.engines import Engines
from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.config import PipelineConfig, read_pipeline
from searchlora.pipelines.corpus import IndexedCorpus, open_corpus
from searchlora.pipelines.execution import WRITTEN, Trace, execute_stage
from searchlora.pipelines.results import result
from searchlora.pipelines.shared_batches import SharedBatches
from searchlora.pipelines.stages.stage import BuildContext, Stage, StageSettings, check_order, needs_of, pinned
from searchlora.progress import Progress, Steps, no_progress, silent
from searchlora.records import Document, SearchContext


@dataclass(frozen=True)
class Pipeline:
    """A sequence of stages.

    Attributes:
        settings: The settings of the stages, with pinned adapters.
        documents: The corpus by id, for pipelines that search one.
    """

    name: str
    stages: Sequence[Stage]
    settings: Sequence[StageSettings] = ()
    documents: Mapping[str, Document] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        pipeline: str | Path | PipelineConfig,
        *,
        corpus: Corpus | Iterable[Document] | None = None,
        overrides: Sequence[str] = (),
        engine: EngineSettings | None = None,
        store: Store | str | Path | None = None,
        tasks: str | Path | None = None,
        cache: str | Path | AnswerCache | None = None,
        steps: Steps = no_progress,
    ) -> Pipeline:
        """Load a pipeline: read its file, pin its adapters to versions, load them, and index the documents.

        Args:
            pipeline: A YAML file, the name of a built-in pipeline or of a YAML file here, or what `read_pipeline` made
                of one, with the overrides and the engine.
            corpus: Documents, or a file of rows with `id`, `text` and optionally `title`, or an index folder. Default:
                what the pipeline names as `corpus`. A pipeline that neither searches documents nor reads their texts
                needs none.
            overrides: Parameters of the pipeline, `name=value`.
            engine: Where the adapter stages are computed; replaces the engine of the pipeline.
            store: The adapter store. Default: `SEARCHLORA_STORE`, else `./store`.
            tasks: A folder of task plugins.
            cache: A file in which the answers of adapter stages are kept, and looked up by prompt, engine, base, and
                the hashes of the adapter's files; or an `AnswerCache` with another limit than a gibibyte. None: every
                answer is computed.

        Raises:
            PipelineError: for an invalid file, or if a stage needs documents and there are none.
            UsageError: for overrides or an engine of a pipeline that was read before.
            DataError: for a row that is not a document, or two documents with the same id.
            StaleIndex: for an index folder that does not fit the pipeline, the models or the corpus.
            BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.

        Examples:
            >>> shop = Pipeline.load("bm25", corpus=[Document("d1", "red couch"), Document("d2", "green tent")])
            >>> [hit["document"] for hit in shop.search("a green couch")["hits"]]
            ['d2', 'd1']
        """
        if isinstance(pipeline, PipelineConfig):
            if overrides or engine is not None:
                raise UsageError("overrides and engine are for `read_pipeline`", where=pipeline.source)
            config = pipeline
        else:
            config = read_pipeline(pipeline, overrides, engine)
        store = Store.of(store)
        check_order(config.stages, config.source)
        stages = pinned(config.stages, store.pin)
        if corpus is None:
            corpus = own_corpus(config)
        context = BuildContext(
            store,
            Engines(store),
            open_corpus(corpus if corpus is not None else (), config.index_options),
            tasks=tasks,
            cache=AnswerCache(Path(cache)) if isinstance(cache, str | Path) else cache,
            steps=steps,
            pipeline=config.index_options,
        )
        return cls.build(config.name, stages, context)

    @classmethod
    def build(cls, name: str, stages: Sequence[StageSettings], context: BuildContext) -> Pipeline:
        """Build stages with pinned adapters; pipelines may share a context. Raises as `StageSettings.build`."""
        return cls(name, [stage.build(context) for stage in stages], tuple(stages), context.corpus.documents)

    def search(self, query: str, **fields: Any) -> dict[str, Any]:
        """Execute the pipeline on one query.

        Args:
            fields: Further fields that stages read, such as `history`, a list of turns.

        Returns:
            What the stages wrote, as `pipelines.results.result` describes it.
        """
        if written := sorted(WRITTEN & fields.keys()):
            raise PipelineError(f"'{written[0]}' is a field that stages write", where="fields", fix="Leave it out.")
        search = {"id": "1", "query": query, **fields}
        (executed,) = self.execute([search])
        return result(search, executed, self.labels)

    @property
    def labels(self) -> list[str]:
        """The stages with pinned versions."""
        return [stage.label for stage in self.stages]

    @property
    def tag(self) -> str:
        """The name and the pinned stages without white space, for the tag column of a run file."""
        return "-".join("_".join([self.name, *self.labels]).split())

    @property
    def engine_id(self) -> list[str]:
        """The engines of the adapter stages, see `Engine.engine_id`."""
        return [engine.engine_id for stage in self.stages for engine in stage.engines()]

    @property
    def batch_size(self) -> int:
        """The number of searches per call of a stage that keeps the engines of the stages busy."""
        return max([_BATCH, *(engine.call_size for stage in self.stages for engine in stage.engines())])

    def execute(
        self,
        searches: Sequence[SearchContext],
        *,
        batch: int | None = None,
        progress: Progress = silent,
        trace: Trace | None = None,
    ) -> list[SearchContext]:
        """Apply all stages to searches. Adapter stages that do not depend on each other generate in one batch.

        Args:
            searches: Each has `id` and `query`, and further fields that stages read.
            batch: Number of searches per call of a stage; None: `batch_size`.
            trace: Gets a row for each search and stage, search by search, see `execution.trace_row`. None: nothing is
                kept.

        Returns:
            The searches in the same order, with the fields that the stages added.

        Raises:
            PipelineError: if a search lacks `id` or `query`, or two have the same id.
            DeadlineExceeded: if a stage takes longer than its `budget_s`.
            SearchloraError: what a stage raises, except where its `on_failure` is `skip`.
        """
        _check(searches)
        batch = batch or self.batch_size
        done: list[SearchContext] = []
        for start in range(0, len(searches), batch):
            part = list(searches[start : start + batch])
            rows: list[Mapping[str, Any]] = []
            shared = SharedBatches(self.stages, self.settings)
            for number, (_, settings) in enumerate(zip_longest(self.stages, self.settings), 1):
                stage, earlier = shared.stage(number - 1, part)
                part = execute_stage(stage, settings, part, number, rows.append if trace is not None else None, earlier)
            if trace is not None:
                order = {str(search["id"]): place for place, search in enumerate(part)}
                for row in sorted(rows, key=lambda row: order[row["id"]]):  # stable: stages stay in order
                    trace(row)
            done += part
            progress(len(done), len(searches))
        return done


#: Smallest number of searches per call of a stage.
_BATCH = 256


def own_corpus(config: PipelineConfig) -> Corpus | None:
    """The file of documents that a pipeline names; None if it names none and no stage reads documents."""
    if config.corpus is None and needs_of(config.stages).corpus:
        raise PipelineError(
            "the pipeline needs documents, and none are given",
            where=config.source,
            fix="Give --corpus FILE, or name a file as 'corpus' in the pipeline.",
        )
    return config.corpus


def run_of(searches: Sequence[SearchContext]) -> Run:
    """The TREC run of searches with hits: topic -> document -> score."""
    return {str(search["id"]): {hit.document: hit.score for hit in search["hits"]} for search in searches}


def _check(searches: Sequence[SearchContext]) -> None:
    seen: set[str] = set()
    for number, search in enumerate(searches, 1):
        for name in ("id", "query"):
            if name not in search:
                raise PipelineError(f"has no '{name}'", where=f"query {number}")
            if fault := text_fault(str(search[name]), allow_nul=True):
                raise PipelineError(f"'{name}': {fault}", where=f"query {number}", fix="Give text that UTF-8 can hold.")
        if str(search["id"]) in seen:
            raise PipelineError(f"the id '{search['id']}' is repeated", where=f"query {number}")
        seen.add(str(search["id"]))


def build_pipeline(
    name: str,
    stages: Sequence[StageSettings],
    *,
    store: Store,
    documents: Sequence[Document] | IndexedCorpus,
    tasks: str | Path | None = None,
    cache: AnswerCache | None = None,
    steps: Steps = no_progress,
) -> Pipeline:
    """Build a pipeline of stages that were written in Python; arguments as of `Pipeline.load`."""
    corpus = documents if isinstance(documents, IndexedCorpus) else IndexedCorpus(documents)
    return Pipeline.build(
        name, stages, BuildContext(store, Engines(store), corpus, tasks=tasks, cache=cache, steps=steps)
    )
