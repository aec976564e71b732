"""Stages and pipelines as PyTerrier transformers.

    import pyterrier as pt
    from searchlora.interop import pyterrier as sl

    bm25 = sl.BM25("products.jsonl", k=100)
    rewritten = sl.Rewrite("shop-rewriter@production") >> bm25
    pt.Experiment([bm25, rewritten, rewritten >> sl.Judge("shop-judge")], topics, qrels, ["nDCG@10"])

A transformer executes stages of `searchlora.pipelines` on the searches of a frame, see `interop.frames`; it computes
nothing itself. Adapters are pinned to a version when a transformer is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, CorpusFile
from searchlora.errors import PipelineError
from searchlora.extras import importing
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.engines import Engines
from searchlora.inference.settings import EngineSettings, engine_settings
from searchlora.pipelines.config import PipelineConfig, parse_stages, read_pipeline
from searchlora.pipelines.corpus import IndexedCorpus, open_corpus
from searchlora.pipelines.pipeline import Pipeline as Loaded
from searchlora.pipelines.pipeline import own_corpus
from searchlora.pipelines.stages.stage import BuildContext, StageSettings, check_order, needs_of, pinned, produces_hits
from searchlora.records import Document, Hit

with importing():
    import pandas as pd
    import pyterrier as pt

    from searchlora.interop.frames import documents_of, frame_of, searches_of

if TYPE_CHECKING:
    #: Documents: a file or index folder, documents, dictionaries or a frame with `docno`, `text` and `title`, or what
    #: `pipelines.corpus.open_corpus` returns, which several transformers may share.
    AnyCorpus: TypeAlias = Corpus | pd.DataFrame | Iterable[Document | Mapping[str, Any]] | IndexedCorpus

#: Fields of documents that become columns of what retrieves.
METADATA = ("title", "text")


class Models:
    """Store, engines and encoders, which transformers share so that each model is loaded once.

    Transformers that are made without `models` share those of the default store.

    Args:
        store: The adapter store. Default: `SEARCHLORA_STORE`, else `./store`.
        engine: Where adapter stages are computed, as in a pipeline file: `{"quantization": "nf4"}`, or
            `{"url": "http://localhost:8000"}`. Default: in this process.
        tasks: A folder of task plugins.
        cache: A file in which the answers of adapter stages are kept.

    Raises:
        PipelineError: for invalid settings of an engine.
    """

    def __init__(
        self,
        store: Store | str | Path | None = None,
        *,
        engine: EngineSettings | Mapping[str, Any] | None = None,
        tasks: str | Path | None = None,
        cache: str | Path | None = None,
    ) -> None:
        settings = engine_settings(engine, "engine", from_file=False) if isinstance(engine, Mapping) else engine
        self.store = Store.of(store)
        answers = AnswerCache(Path(cache)) if cache is not None else None
        self._context = BuildContext(self.store, Engines(self.store, settings), tasks=tasks, cache=answers)

    def build(self, name: str, stages: Sequence[StageSettings], documents: IndexedCorpus) -> Loaded:
        """A pipeline of stages, with adapters pinned to versions. Raises as `StageSettings.build`."""
        return Loaded.build(name, pinned(stages, self.store.pin), replace(self._context, corpus=documents))


#: Models of transformers that name none, by the folder of the store, as long as a transformer needs them.
_DEFAULT: WeakValueDictionary[Path, Models] = WeakValueDictionary()


def _default() -> Models:
    store = Store(None)
    return _DEFAULT.setdefault(store.root.absolute(), Models(store))


class Stages(pt.Transformer):  # type: ignore[misc]
    """A transformer that executes stages: of queries, or of results where the first stage reads hits.

    What it returns has a row for each hit, if there are hits, and else one for each query. A query that is rewritten is
    kept as `query_0`. Fields that stages write are columns `qFIELD`, with values as in `searchlora.outputs`; what a
    model answered, valid or not, is in `qoutputs`.

    Args:
        models: Kept as long as the transformer, so that others share them.
        metadata: Fields of documents that become columns where the stages retrieve.
    """

    def __init__(self, pipeline: Loaded, models: Models | None = None, metadata: Sequence[str] = METADATA) -> None:
        self.pipeline = pipeline
        self.metadata = tuple(metadata)
        self._models = models

    @property
    def rewrites(self) -> bool:
        """Whether a stage rewrites the query."""
        return any(task.writes == "query" for stage in self.pipeline.stages for task in stage.tasks())

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Execute the stages on the searches of a frame.

        Raises:
            pyterrier.validate.InputValidationError: if a column is missing.
            PipelineError: for repeated ids, or hits without a text where a stage reads texts.
            SearchloraError: what a stage raises.
        """
        settings = self.pipeline.settings
        takes_hits = needs_of(settings).query_hits  # by a stage `from_run`
        reads_hits = any(stage.reads_hits and not produces_hits(settings[:n]) for n, stage in enumerate(settings))
        needed = ["qid", "query", *(["docno"] if takes_hits or reads_hits else [])]
        pt.validate.columns(inp, includes=needed, context=self)
        searches = searches_of(inp, self.pipeline.documents)
        retrieves = produces_hits(settings)
        if takes_hits:
            searches = [{**search, "hits": [_supplied(hit) for hit in search["hits"]]} for search in searches]
        elif retrieves:  # anew: the hits that the frame has are not those of this pipeline
            searches = [{name: value for name, value in search.items() if name != "hits"} for search in searches]
        return frame_of(
            self.pipeline.execute(searches),
            inp,
            retrieves=retrieves,
            rewrites=self.rewrites,
            metadata=self.metadata,
            documents=self.pipeline.documents,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({' >> '.join(self.pipeline.labels)})"


class Pipeline(Stages):
    """A whole pipeline: `sl.Pipeline("product_search.yaml", corpus)`.

    Args:
        pipeline: A YAML file, the name of a built-in pipeline or of a YAML file here, what `read_pipeline` made of one,
            or a loaded `searchlora.Pipeline`.
        corpus: Documents, see `Stage`. Default: what the pipeline names as `corpus`.
        overrides: Parameters of the pipeline, `name=value`.
        models: Store, engines and encoders; an engine that the pipeline names is used for its own stages.
        metadata: Fields of documents that become columns.

    Raises:
        PipelineError, StaleIndex, BaseModelError, NotInStore, LoadCheckFailed: as `searchlora.Pipeline.load`.
    """

    def __init__(
        self,
        pipeline: str | Path | PipelineConfig | Loaded,
        corpus: AnyCorpus | None = None,
        *,
        overrides: Sequence[str] = (),
        models: Models | None = None,
        metadata: Sequence[str] = METADATA,
    ) -> None:
        if isinstance(pipeline, Loaded):
            super().__init__(pipeline, models, metadata)
            return
        models = models or _default()
        config = pipeline if isinstance(pipeline, PipelineConfig) else read_pipeline(pipeline, overrides)
        check_order(config.stages, config.source)
        documents = _opened(own_corpus(config) if corpus is None else corpus, config.index_options)
        super().__init__(models.build(config.name, config.stages, documents), models, metadata)


class Stage(Stages):
    """One stage of any kind: `sl.Stage("filter", corpus, filter={"brand": "intent.brand"})`.

    Args:
        kind: The key of the stage in a pipeline file, such as `dense`, `fuse`, `filter` or `http`.
        corpus: Documents: a file or index folder, documents, dictionaries or a frame with `docno`, `text` and `title`,
            or what `searchlora.pipelines.corpus.open_corpus` returns, which several transformers may share.
        metadata: Fields of documents that become columns, where the stage retrieves.
        settings: The keys of the stage, as in a pipeline file.

    Raises:
        PipelineError: for a key or a value that the stage does not have, or without documents to search.
        StaleIndex: for an index folder that does not fit the stage.
        BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.
    """

    #: Stages that are executed before it.
    _before: Sequence[Mapping[str, Any]] = ()

    def __init__(
        self,
        kind: str,
        corpus: AnyCorpus | None = None,
        *,
        models: Models | None = None,
        metadata: Sequence[str] = METADATA,
        **settings: Any,
    ) -> None:
        models = models or _default()
        parsed = parse_stages([*self._before, {kind: settings}], type(self).__name__)
        super().__init__(models.build(kind, parsed, _opened(corpus)), models, metadata)


class BM25(Stage):
    """Lexical search: `sl.BM25("products.jsonl", k=100, fields={"title": 3, "text": 1})`. Arguments as of `Stage`."""

    def __init__(self, corpus: AnyCorpus, **settings: Any) -> None:
        super().__init__("bm25", corpus, **settings)


class Dense(Stage):
    """Dense search: `sl.Dense("products.jsonl", "all-minilm-l6-v2", adapter="shop-embedder")`; see `Stage`."""

    def __init__(self, corpus: AnyCorpus, model: str, **settings: Any) -> None:
        super().__init__("dense", corpus, model=model, **settings)


class Adapter(Stage):
    """A stage in which an adapter generates: `sl.Adapter("shop-intent@production")`.

    Args:
        name: The adapter, with or without a version or an alias.
        corpus: Texts of the hits, where the frame has no column `text`.
        k: The number of hits whose texts the adapter reads; None: it reads the query alone.
        settings: Further keys of a stage `adapter`, such as `on_failure` or `zero_shot`, and `models`.

    Raises:
        PipelineError, BaseModelError, NotInStore, LoadCheckFailed: as `Stage`.
    """

    def __init__(self, name: str, corpus: AnyCorpus | None = None, *, k: int | None = None, **settings: Any) -> None:
        self._before = [{"passages": {"k": k}}] if k is not None else []
        super().__init__("adapter", corpus, name=name, **settings)


class Rewrite(Adapter):
    """Rewrite the query, which is kept as `query_0`: `sl.Rewrite("shop-rewriter@production")`.

    With `rewrite="fuse"`, a searchlora retriever behind it searches with both queries. Of results, it keeps the hits.

    Raises:
        PipelineError: if the adapter's task does not rewrite queries; also as `Adapter`.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        if not self.rewrites:
            raise PipelineError(f"the adapter '{name}' rewrites no queries", fix="Take 'Adapter' for it.")


class Judge(Adapter):
    """Rerank the first `k` hits by their expected grade, which becomes their `score`; `qgrades` has all grades."""

    def __init__(self, name: str, corpus: AnyCorpus | None = None, *, k: int = 100, **settings: Any) -> None:
        super().__init__(name, corpus, k=k, **settings)


class Answer(Adapter):
    """Answer the query from its first `k` hits: a `CitedAnswer` in `qanswer`."""

    def __init__(self, name: str, corpus: AnyCorpus | None = None, *, k: int = 5, **settings: Any) -> None:
        super().__init__(name, corpus, k=k, **settings)


def _supplied(hit: Hit) -> dict[str, Any]:
    """A hit as a stage `from_run` reads it."""
    return {"document": hit.document, "score": hit.score}


def _opened(corpus: AnyCorpus | None, pipeline: str | None = None) -> IndexedCorpus:
    if corpus is None or isinstance(corpus, IndexedCorpus):
        return corpus or IndexedCorpus()
    return open_corpus(corpus if isinstance(corpus, str | Path | CorpusFile) else documents_of(corpus), pipeline)
