"""The contract of a kind of stage: its settings, what it needs, how it is built, and the built stage.

A pipeline file names a kind and its keys. `StageSettings` checks the keys, says what the stage needs, and builds it.
The built `Stage` maps a batch of searches to searches with more fields. A further kind is one subclass of each and an
entry point of the group `searchlora.stages`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from searchlora.adapters.references import parse_reference
from searchlora.adapters.store import Store
from searchlora.errors import PipelineError
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.engine import Engine
from searchlora.inference.engines import Engines
from searchlora.inference.metered import Exchange
from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.corpus import IndexedCorpus, Shared
from searchlora.pipelines.stages.explanation import Retrieved, Sought
from searchlora.progress import Steps, no_progress
from searchlora.records import Document, Hit, Record, SearchContext
from searchlora.task import GenerationTask

if TYPE_CHECKING:
    from searchlora.pipelines.engine_load import EngineNeeds
    from searchlora.pipelines.index_build import IndexNeeds
    from searchlora.retrieval.retriever import Retriever

AnyStage = TypeVar("AnyStage", bound="StageSettings")

#: Hits of one search: for each query that it is searched with, for each part of a fusion.
PartHits: TypeAlias = Sequence[Sequence[Sequence[Hit]]]

#: Longest part of an adapter's name in the name of a slot.
_SHOWN = 36


class Settings(BaseModel):
    """Base class of what a pipeline file holds; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Needs:
    """What stages need besides the searches.

    Attributes:
        adapters: References of adapters that take part.
        zero_shot: References of adapters whose base model generates without them.
        encoders: Encoders without an adapter.
        runs: Run files that hits are taken from.
        ranking_models: Files of ranking models.
        datasets: Folders of datasets that classical models learn from.
        query_hits: Whether hits are taken from the query rows.
        documents: Whether the documents of the corpus are searched.
        texts: Whether the texts of hits are read.
        texts_with_hits: Whether hits come with their texts, from another engine.
        unversioned: Whether an index of unknown version is searched, so that hits cannot be cached.
    """

    adapters: tuple[str, ...] = ()
    zero_shot: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    ranking_models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    query_hits: bool = False
    documents: bool = False
    texts: bool = False
    texts_with_hits: bool = False
    unversioned: bool = False

    @property
    def corpus(self) -> bool:
        """Whether there must be a corpus: it is searched, or the texts of hits come from it."""
        return self.documents or (self.texts and not self.texts_with_hits)


@dataclass(frozen=True)
class BuildContext:
    """What stages are built with. Models, connections and indexes are loaded once.

    Attributes:
        shared: Encoders and connections by what they are made of.
        tasks: A folder of task plugins.
        cache: Answers of adapter stages; None: every answer is computed.
        pipeline: Options of `searchlora index` that name the pipeline, for error messages.
    """

    store: Store
    engines: Engines
    corpus: IndexedCorpus = field(default_factory=IndexedCorpus)
    shared: Shared = field(default_factory=Shared)
    tasks: str | Path | None = None
    cache: AnswerCache | None = None
    steps: Steps = no_progress
    pipeline: str = "--pipeline PIPELINE"


class StageSettings(Settings):
    """Keys of every stage, also of the parts of a `fuse`: with skip, the others are fused without the part."""

    #: The key of the stage in a pipeline file.
    kind: ClassVar[str]
    #: Keys with values that never refer to a parameter.
    literal: ClassVar[frozenset[str]] = frozenset()
    #: The key that names an adapter; None without one.
    adapter_key: ClassVar[str | None] = None
    #: Whether the stage retrieves, or takes the hits of another engine.
    produces_hits: ClassVar[bool] = False
    #: Whether the stage reads hits of an earlier stage.
    reads_hits: ClassVar[bool] = False
    #: Whether a pipeline may be measured without the stage.
    removable: ClassVar[bool] = False
    #: Whether a `fuse` can fuse its hits.
    fusible: ClassVar[bool] = False
    #: The key whose null leaves the stage out of its pipeline.
    slot_key: ClassVar[str | None] = None
    #: Whether the stage works on a record with passages of its own, without documents or hits.
    works_on_records: ClassVar[bool] = False

    on_failure: Literal["raise", "skip"] = Field(
        "raise",
        description="raise: an error of the stage ends the pipeline; skip: the pipeline continues without the stage,"
        " and `skipped` holds the reason",
    )
    budget_s: float | None = Field(
        None,
        gt=0,
        description="time limit in seconds per query; a call with n queries may take n times as long; a stage that"
        " takes longer has failed",
    )

    def build(self, context: BuildContext) -> Stage:
        """Build the stage: load its adapter, index its documents, or connect to its search engine.

        Raises:
            PipelineError: if the stage retrieves and there are no documents.
            StaleIndex: for an index that does not fit the stage or its model.
            BaseModelError, NotInStore, LoadCheckFailed: if a model or an adapter is missing or fails its load check.
        """
        raise NotImplementedError

    def needs(self) -> Needs:
        """What the stage itself needs; `needs_of` includes its parts."""
        return Needs()

    def add_to_index(self, needs: IndexNeeds, context: BuildContext) -> None:
        """Add what the stage needs of an index folder; nothing for one that searches no index of ours."""

    def add_to_engines(self, needs: EngineNeeds, context: BuildContext) -> bool:
        """Add what the stage needs of an index in a search engine. Returns whether it searches one."""
        del needs, context
        return False

    def generations(self, shared: Shared) -> dict[str, str | None]:
        """Index -> its published generation, for indexes in search engines. Raises `EngineError`."""
        del shared
        return {}

    def check_file(self, where: str) -> None:
        """Check what only settings from a file must not hold. Raises `PipelineError`, naming `where`."""

    @property
    def parts(self) -> tuple[StageSettings, ...]:
        """The stages that this one consists of."""
        return ()

    def with_parts(self, parts: Mapping[int, StageSettings]) -> Self:
        """The stage with only these of its parts, by index; at least one."""
        del parts
        return self

    @property
    def part_weights(self) -> tuple[float, ...]:
        """The weight of each part in a fusion, which `tune` chooses; empty for a stage that fuses nothing."""
        return ()

    def fused_hits(self, hits: PartHits, weights: Sequence[float]) -> list[Hit]:
        """The hits of a fusion under other weights; a part of weight 0 is left out."""
        raise NotImplementedError

    def to_tune(self, task: str, store: Store) -> Mapping[str, Any]:
        """The values of a task that `tune` fits for the stage; empty for another task."""
        del task, store
        return {}

    def untuned(self) -> Self:
        """The stage without tuned values, as they are fitted on its outputs."""
        raise NotImplementedError

    def decides_for(self, task: str, store: Store) -> bool:
        """Whether the stage has the first say on a task, so that `tune --risk` can fit when it decides alone."""
        del task, store
        return False

    @property
    def adapter_reference(self) -> str | None:
        """The adapter that takes part; None without one."""
        return None if self.adapter_key is None else getattr(self, self.adapter_key)

    def with_adapter(self, reference: str | None) -> Self:
        """The stage with another adapter; None: the base model without one."""
        return self if self.adapter_key is None else self.model_copy(update={self.adapter_key: reference})

    def check_fitted(self, reference: str) -> None:
        """Raise `PipelineError` for a version of the adapter that a setting of the stage was not fitted for."""
        del reference

    def pinned(self, pin: Callable[[str], str]) -> Self:
        """The stage with every adapter reference resolved to a version by `pin` (`Store.pin`)."""
        if self.parts:
            return self.with_parts({index: part.pinned(pin) for index, part in enumerate(self.parts)})
        if self.adapter_key is None or (reference := getattr(self, self.adapter_key)) is None:
            return self
        return self.model_copy(update={self.adapter_key: pin(reference)})

    def with_default_engine(self, engine: EngineSettings) -> Self:
        """The stage with an engine if it generates and has none."""
        del engine
        return self

    @property
    def slot_name(self) -> str:
        """The name of the stage as a slot of its pipeline."""
        return self.kind

    def can_swap(self, reference: str, store: Store) -> bool:
        """Whether a version of its adapter can take part in a loaded pipeline, without indexing documents again."""
        del reference, store
        return False

    def identity(self) -> dict[str, Any]:
        """The settings on which hits and outputs depend, as JSON."""
        return self.model_dump(mode="json")


class Stage(ABC):
    """One built step of a pipeline. Only `label` and `__call__` are needed; the rest is for traces and explanations."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The stage with pinned versions, for run files and reports."""

    @abstractmethod
    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        """The searches in the same order, each a new mapping with the fields that this stage adds."""

    def takes(self, search: SearchContext) -> bool:
        """Whether the stage does anything with a search; a failure does not concern the others."""
        del search
        return True

    def engines(self) -> tuple[Engine, ...]:
        """The engines that the stage asks."""
        return ()

    def tasks(self) -> tuple[GenerationTask, ...]:
        """The tasks whose outputs the stage writes."""
        return ()

    def ask(self, records: Sequence[Record]) -> list[Any]:
        """The output of its task for each record."""
        raise NotImplementedError

    def with_engines(self, change: Callable[[Engine], Engine]) -> Stage:
        """The stage with each of its engines changed."""
        del change
        return self

    def with_retriever(self, change: Callable[[Retriever], Retriever]) -> Stage:
        """The stage with its retriever changed."""
        del change
        return self

    def part_hits(self, searches: Sequence[SearchContext]) -> Iterator[PartHits]:
        """The hits of each part of a fusion, for each search."""
        raise NotImplementedError

    def inputs(self, search: SearchContext) -> Iterator[tuple[str, Any]]:
        """The fields of a search that the stage reads, as JSON, for traces."""
        del search
        yield from ()

    def if_skipped(self, search: SearchContext) -> dict[str, Any]:
        """The fields of a search for which the stage was skipped, where later stages need them."""
        del search
        return {}

    def trace(
        self, before: SearchContext, after: SearchContext, exchanges: Mapping[str, Sequence[Exchange]]
    ) -> tuple[dict[str, Any], list[str]]:
        """Further keys of a row of a trace, and its flags.

        Args:
            exchanges: Requests of the stage and their answers, by the `repr` of their messages.
        """
        del before, after, exchanges
        return {}, []

    def look_up(self, search: SearchContext, sought: Sought) -> Retrieved | None:
        """Where the stage ranks a document; None if it does not retrieve."""
        del search, sought
        return None

    def unmet(self, search: SearchContext, content: Document | None) -> str:
        """The conditions of its filter that a document does not fulfil; empty if there are none."""
        del search, content
        return ""

    def notes(self, before: SearchContext, after: SearchContext, rank: int | None) -> Iterator[str]:
        """What else the stage did with a search and the document at a rank, one sentence each."""
        del before, after, rank
        yield from ()


# Fields of a search that stages share

#: The queries whose hits retrievers fuse: those before a rewrite, and last `query`.
FUSED_QUERIES = "fused_queries"

#: The parts of a fusion that failed, label -> error, until the stage is executed.
FAILED_PARTS = "failed_parts"


def has_own_hits(search: SearchContext) -> bool:
    """Whether `hits` are those of a stage, and not those that a query row holds, which may be anything."""
    hits = search.get("hits")
    return isinstance(hits, list | tuple) and all(isinstance(hit, Hit) for hit in hits)


def document_of(documents: Mapping[str, Document], hit: Hit, search: SearchContext) -> Document:
    """The document of a hit. Raises `PipelineError` if the corpus does not have it."""
    if hit.fetched is not None:
        return hit.fetched
    try:
        return documents[hit.document]
    except KeyError:
        raise PipelineError(
            f"the document '{hit.document}' is not in the corpus",
            where=f"query {search['id']}",
            fix="Give the corpus that the hits were retrieved from.",
        ) from None


# Lists of stages


def leaves(stages: Iterable[StageSettings]) -> Iterator[StageSettings]:
    """The stages without parts, and the parts of the others."""
    for stage in stages:
        if stage.parts:
            yield from leaves(stage.parts)
        else:
            yield stage


def _with_parts(stages: Iterable[StageSettings]) -> Iterator[StageSettings]:
    """All stages, each followed by its parts."""
    for stage in stages:
        yield stage
        yield from _with_parts(stage.parts)


def needs_of(stages: Iterable[StageSettings]) -> Needs:
    """What a list of stages needs, parts included, without repetitions."""
    needs = [stage.needs() for stage in _with_parts(stages)]
    united: dict[str, Any] = {}
    for key in fields(Needs):
        values = [getattr(need, key.name) for need in needs]
        if isinstance(key.default, tuple):
            united[key.name] = tuple(dict.fromkeys(value for of_stage in values for value in of_stage))
        else:
            united[key.name] = any(values)
    return Needs(**united)


def pinned(stages: Iterable[AnyStage], pin: Callable[[str], str]) -> list[AnyStage]:
    """The stages with every adapter reference resolved to a version by `pin` (`Store.pin`)."""
    return [stage.pinned(pin) for stage in stages]


def produces_hits(stages: Iterable[StageSettings]) -> bool:
    """Whether a stage retrieves, or takes the hits of another engine: only then there is a run to write."""
    return any(stage.produces_hits for stage in stages)


def check_order(stages: Sequence[StageSettings], where: str) -> None:
    """Raise `PipelineError` if a stage reads hits before any stage produces them."""
    for number, stage in enumerate(stages, 1):
        if stage.reads_hits and not produces_hits(stages[: number - 1]):
            raise PipelineError(
                "no stage before it produces hits",
                where=f"{where}, stage {number}, {stage.kind}",
                fix="Put a stage before it that retrieves, such as '- bm25: {k: 100}', or '- from_run: {run: FILE}'.",
            )


def short_name(reference: str) -> str:
    """The name of an adapter for tables: without its version, and at most 36 characters."""
    name = parse_reference(reference).name
    return name if len(name) <= _SHOWN else f"{name[: _SHOWN - 1]}…"
