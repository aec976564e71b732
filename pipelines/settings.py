"""What can be set in each kind of stage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator


class Settings(BaseModel):
    """Of one stage. A key that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterSettings(Settings):
    """`- adapter: {name: shop-rewriter@production}`; task and base are those of its manifest."""

    name: str
    max_new_tokens: int | None = Field(None, ge=1, description="default: as in the adapter's recipe")


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
    """`- dense: {model: all-minilm-l6-v2, k: 100}`; the model is a catalogue name, a folder or a hub id."""

    model: str
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
    """The models of all dense stages, those under a `fuse` too, each once, as they were named."""
    found: dict[str, None] = {}
    for stage in stages:
        if isinstance(stage, DenseSettings):
            found[stage.model] = None
        elif isinstance(stage, FuseSettings):
            found |= dict.fromkeys(encoders(stage.of))
    return tuple(found)


#: Key of a stage in a pipeline file -> its settings.
KINDS: dict[str, type[Settings]] = {
    "adapter": AdapterSettings,
    "bm25": Bm25Settings,
    "dense": DenseSettings,
    "fuse": FuseSettings,
    "passages": PassagesSettings,
}
