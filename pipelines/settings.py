"""What can be set in each kind of stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator


class Settings(BaseModel):
    """Of one stage. A key that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSettings(Settings):
    """`engine: {url: http://localhost:8000}`, a server that adapters are asked of; at the top of a pipeline file it
    holds for every adapter stage that has none of its own. See `RemoteEngine`."""

    kind: Literal["openai"] = "openai"
    url: str
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$", description="the variable that holds the key")
    names: dict[str, str] = Field(default_factory=dict, description="reference -> what the server calls the adapter")
    model: str | None = Field(None, description="what the server calls the base; default: the first that it lists")
    dialect: Literal["vllm", "searchlora", "openai"] | None = Field(None, description="default: found out")
    load: bool = Field(False, description="let vLLM load adapters from the store's folder")
    concurrency: int = Field(16, ge=1)
    timeout_s: float = Field(60, gt=0, description="of one attempt")
    retries: int = Field(4, ge=0)


class AdapterSettings(Settings):
    """`- adapter: {name: shop-rewriter@production}`; task and base are those of its manifest."""

    name: str
    max_new_tokens: int | None = Field(None, ge=1, description="default: as in the adapter's recipe")
    constrained: bool = Field(True, description="hold the answer to its form, where the task has one")
    rest: bool = Field(True, description="write what follows a scored answer, such as the reason of a grade")
    engine: EngineSettings | None = Field(None, description="default: that of the file, else this process")


class PassagesSettings(Settings):
    """`- passages: {k: 10}`; fetches the texts of the first k hits for the stages that read `passages`."""

    k: int = Field(10, ge=1)


class RetrieveSettings(Settings):
    """Of a stage that searches the corpus given to the run."""

    k: int = Field(100, ge=1)


class Bm25Settings(RetrieveSettings):
    """`- bm25: {k: 100}`."""

    k1: float = Field(0.9, ge=0)
    b: float = Field(0.4, ge=0, le=1)
    stopwords: Literal["english"] | None = "english"
    stemmer: Literal["english"] | None = None
    shortest: int = Field(2, ge=1, description="words of fewer characters are dropped")
    backend: Literal["bm25s", "rank-bm25"] = "bm25s"


class DenseSettings(RetrieveSettings):
    """`- dense: {model: all-minilm-l6-v2, k: 100}`; the model is a catalogue name, a folder or a hub id.

    With `adapter: shop-embedder@production` that adapter is put on it.
    """

    model: str
    adapter: str | None = None
    dimensions: int | None = Field(None, ge=1, description="cut vectors after so many numbers (Matryoshka)")
    normalise: bool = True
    query_prefix: str = ""
    document_prefix: str = ""
    batch_size: int = Field(32, ge=1)


class FuseSettings(RetrieveSettings):
    """`- fuse: {method: rrf, k: 100, of: [{bm25: {k: 100}}, {dense: {model: all-minilm-l6-v2}}]}`.

    The k of a stage under `of` is how many of its hits count.
    """

    of: tuple[SerializeAsAny[RetrieveSettings], ...] = Field(min_length=1)
    method: Literal["rrf", "combsum", "combmnz"] = "rrf"
    constant: float = Field(60, ge=0, description="of rrf: how little the first ranks stand out")
    weights: tuple[float, ...] | None = Field(None, description="one for each stage under 'of', above 0")

    @field_validator("weights")
    @classmethod
    def _one_each(cls, weights: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        stages = info.data.get("of")
        if weights is not None and stages is not None and len(weights) != len(stages):
            raise ValueError(f"there are {len(weights)} weights for {len(stages)} stages")
        if weights is not None and not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError("a weight is above 0")
        return weights


def encoders(stages: Iterable[Settings]) -> tuple[str, ...]:
    """The models of dense stages without an adapter, those under a `fuse` too, each once, as they were named."""
    return tuple(dict.fromkeys(stage.model for stage in _dense(stages) if stage.adapter is None))


def adapters(stages: Iterable[Settings]) -> tuple[str, ...]:
    """The adapters of all stages, dense ones and those under a `fuse` too, each once, as they were named."""
    stages = list(stages)
    asked = [stage.name for stage in stages if isinstance(stage, AdapterSettings)]
    searching = [stage.adapter for stage in _dense(stages) if stage.adapter is not None]
    return tuple(dict.fromkeys([*asked, *searching]))


def pinned(stages: Iterable[Settings], pin: Callable[[str], str]) -> list[Settings]:
    """The stages with every adapter by its version.

    Args:
        pin: A reference -> the version that it means now (`Store.pin`).
    """
    return [_pinned(stage, pin) for stage in stages]


def asked_of(stages: Iterable[Settings], engine: EngineSettings) -> list[Settings]:
    """The stages, those of adapters without an engine of their own with this one."""
    return [
        stage.model_copy(update={"engine": engine})
        if isinstance(stage, AdapterSettings) and not stage.engine
        else stage
        for stage in stages
    ]


def _pinned(stage: Settings, pin: Callable[[str], str]) -> Settings:
    if isinstance(stage, AdapterSettings):
        return stage.model_copy(update={"name": pin(stage.name)})
    if isinstance(stage, DenseSettings) and stage.adapter is not None:
        return stage.model_copy(update={"adapter": pin(stage.adapter)})
    if isinstance(stage, FuseSettings):
        return stage.model_copy(update={"of": tuple(_pinned(inner, pin) for inner in stage.of)})
    return stage


def _dense(stages: Iterable[Settings]) -> Iterator[DenseSettings]:
    for stage in stages:
        if isinstance(stage, DenseSettings):
            yield stage
        elif isinstance(stage, FuseSettings):
            yield from _dense(stage.of)


#: Key of a stage in a pipeline file -> its settings.
KINDS: dict[str, type[Settings]] = {
    "adapter": AdapterSettings,
    "bm25": Bm25Settings,
    "dense": DenseSettings,
    "fuse": FuseSettings,
    "passages": PassagesSettings,
}
