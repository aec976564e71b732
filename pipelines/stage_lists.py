"""Questions about a list of stages: what they load, search and read, and whether their order is possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from searchlora.errors import PipelineError
from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.stage_settings import (
    AdapterSettings,
    Bm25Settings,
    DenseSettings,
    EncodingSettings,
    EngineSearchSettings,
    FuseSettings,
    HitsSettings,
    HttpSettings,
    MatchSettings,
    PassagesSettings,
    RetrieveSettings,
    Settings,
    SimilaritySettings,
    stage_kind,
)

#: Stages that search in another engine, whose hits come with their texts.
REMOTE = (HttpSettings, EngineSearchSettings)


def encoders(stages: Iterable[Settings]) -> tuple[str, ...]:
    """The distinct models of encoder stages without an adapter, including those under `fuse`."""
    return tuple(dict.fromkeys(stage.model for stage in _dense(stages) if stage.adapter is None))


def adapters(stages: Iterable[Settings]) -> tuple[str, ...]:
    """The distinct adapter references of all stages, including those under `fuse`."""
    stages = list(stages)
    generating = [stage.name for stage in stages if isinstance(stage, AdapterSettings) and not stage.bare]
    encoding = [stage.adapter for stage in _dense(stages) if stage.adapter is not None]
    return tuple(dict.fromkeys([*generating, *encoding]))


def zero_shot(stages: Iterable[Settings]) -> tuple[str, ...]:
    """The distinct adapter references of the stages whose base model generates without the adapter."""
    return tuple(dict.fromkeys(stage.name for stage in stages if isinstance(stage, AdapterSettings) and stage.bare))


def pinned(stages: Iterable[Settings], pin: Callable[[str], str]) -> list[Settings]:
    """The stages with every adapter reference resolved to a version.

    Args:
        pin: Resolves a reference to `name@version` (`Store.pin`).
    """
    return [_pinned(stage, pin) for stage in stages]


def with_engine(stages: Iterable[Settings], engine: EngineSettings) -> list[Settings]:
    """The stages, with an engine for adapter stages that have none."""
    return [
        stage.model_copy(update={"engine": engine})
        if isinstance(stage, AdapterSettings) and not stage.engine
        else stage
        for stage in stages
    ]


def check_order(stages: Sequence[Settings], where: str) -> None:
    """Raise `PipelineError` if a stage reads hits before any stage produces them."""
    for number, stage in enumerate(stages, 1):
        if isinstance(stage, PassagesSettings | MatchSettings) and not produces_hits(stages[: number - 1]):
            raise PipelineError(
                "no stage before it produces hits",
                where=f"{where}, stage {number}, {stage_kind(stage)}",
                fix="Put a stage before it that retrieves, such as '- bm25: {k: 100}', or '- hits: {run: FILE}'.",
            )


def searching(stages: Iterable[Settings]) -> list[Bm25Settings | DenseSettings]:
    """The stages that search documents by an index, including those under `fuse`."""
    found: list[Bm25Settings | DenseSettings] = []
    for stage in stages:
        if isinstance(stage, FuseSettings):
            found += searching(stage.of)
        elif isinstance(stage, Bm25Settings | DenseSettings):
            found.append(stage)
    return found


def engine_searches(stages: Iterable[Settings]) -> list[EngineSearchSettings]:
    """The stages that search an index in a search engine, including those under `fuse`."""
    found: list[EngineSearchSettings] = []
    for stage in stages:
        if isinstance(stage, FuseSettings):
            found += engine_searches(stage.of)
        elif isinstance(stage, EngineSearchSettings):
            found.append(stage)
    return found


def searches_by_http(stages: Iterable[Settings]) -> bool:
    """Whether a stage `http` queries a search engine, also under `fuse`."""
    return any(
        isinstance(stage, HttpSettings) or (isinstance(stage, FuseSettings) and searches_by_http(stage.of))
        for stage in stages
    )


def supplied_runs(stages: Iterable[Settings]) -> tuple[str, ...]:
    """The run files that stages take hits from."""
    return tuple(stage.run for stage in stages if isinstance(stage, HitsSettings) and stage.run is not None)


def produces_hits(stages: Iterable[Settings]) -> bool:
    """Whether a stage retrieves, or takes the hits of another engine: only then there is a run to write."""
    return any(isinstance(stage, RetrieveSettings | HitsSettings) for stage in stages)


def reads_corpus(stages: Iterable[Settings]) -> bool:
    """Whether a stage needs the documents: it searches them, or fetches their texts."""
    readers = PassagesSettings | MatchSettings
    searches = [stage for stage in stages if not isinstance(stage, readers)]
    if any(_searches_corpus(stage) for stage in searches):
        return True
    fetched = any(isinstance(stage, RetrieveSettings) for stage in searches)  # in another engine, with the texts
    return any(isinstance(stage, readers) for stage in stages) and not fetched


def _searches_corpus(stage: Settings) -> bool:
    if isinstance(stage, FuseSettings):
        return any(_searches_corpus(inner) for inner in stage.of)
    return isinstance(stage, RetrieveSettings) and not isinstance(stage, REMOTE)


def _pinned(stage: Settings, pin: Callable[[str], str]) -> Settings:
    if isinstance(stage, AdapterSettings):
        return stage.model_copy(update={"name": pin(stage.name)})
    if isinstance(stage, EncodingSettings | SimilaritySettings) and stage.adapter is not None:
        return stage.model_copy(update={"adapter": pin(stage.adapter)})
    if isinstance(stage, FuseSettings):
        return stage.model_copy(update={"of": tuple(_pinned(inner, pin) for inner in stage.of)})
    return stage


def _dense(stages: Iterable[Settings]) -> Iterator[EncodingSettings | SimilaritySettings]:
    """The stages with an encoder."""
    for stage in stages:
        if isinstance(stage, EncodingSettings | SimilaritySettings):
            yield stage
        elif isinstance(stage, FuseSettings):
            yield from _dense(stage.of)
