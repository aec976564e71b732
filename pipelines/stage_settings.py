"""Settings of each kind of stage of a pipeline."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.conditions import Condition
from searchlora.renamed import RenamedWarning
from searchlora.retrieval.field_filter import Operator


class Settings(BaseModel):
    """Base class of stage settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StageSettings(Settings):
    """Keys of every stage, also of the parts of a `fuse`: with skip, the others are fused without the part."""

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


class AdapterSettings(StageSettings):
    """`- adapter: {name: shop-rewriter@production}`: run an adapter on each query; its manifest names task and base.

    With `name: null`, also as the value of a parameter, the stage is left out: the slot is empty.
    """

    name: str = Field(description="adapter: `name`, `name@3` or `name@alias`")
    max_new_tokens: int | None = Field(
        None, ge=1, description="maximum number of generated tokens; default: that of the adapter's recipe"
    )
    constrained: bool = Field(True, description="constrain the output to the output form of the task")
    rest: bool = Field(
        True, description="also generate the text that follows a scored choice, such as the reason for a grade"
    )
    engine: EngineSettings | None = Field(
        None, description="see [engine](#engine); default: the file's engine, else this process"
    )
    bare: bool = Field(False, description="use the base model without the adapter, zero-shot, with the same prompt")
    rewrite: Literal["replace", "fuse"] = Field(
        "replace",
        description="for rewriting tasks; replace: later stages search with the rewritten query; fuse: they search with"
        " the query and its rewrite, and fuse the hits by reciprocal rank fusion",
    )
    tuned: dict[str, Any] = Field(
        default_factory=dict,
        description="tuned values that replace those in the adapter's manifest, such as `{abstain: judge}` for"
        " rag_answer; `searchlora tune` fits them",
    )


class PassagesSettings(StageSettings):
    """`- passages: {k: 10}`: fetch the texts of the first k hits, for stages that read `passages`."""

    k: int = Field(10, ge=1, description="number of hits whose texts are fetched")


class SimilaritySettings(StageSettings):
    """`- similarity: {model: all-minilm-l6-v2}`: grade `passages` by their cosine similarity to the query.

    The order of the hits does not change. It is a judge without an LLM, for later stages that read `grades`.
    `adapter: shop-embedder` adds an adapter to the encoder.
    """

    model: str = Field(description="encoder: catalogue name, folder or hub id")
    adapter: str | None = Field(None, description="adapter of the encoder")
    dimensions: int | None = Field(None, ge=1, description="truncate vectors to this many dimensions (Matryoshka)")
    query_prefix: str = Field("", description="text before each query, as some encoders expect it")
    document_prefix: str = Field("", description="text before each document")
    batch_size: int = Field(32, ge=1, description="texts per forward pass")


class FieldSettings(Settings):
    """`{max: intent.max_price}`: how a field is compared with the values at a path; all that are given must hold."""

    equals: str | None = Field(None, description="the field is one of the values")
    contains: str | None = Field(None, description="the words of a value stand together in the field")
    prefix: str | None = Field(None, description="the field begins with a value")
    min: str | None = Field(None, description="the field is a number, and this or more")
    max: str | None = Field(None, description="the field is a number, and this or less")

    @property
    def condition(self) -> Condition:
        """The comparison of a stage."""
        paths = {operator: getattr(self, operator) for operator in get_args(Operator)}
        return Condition({operator: path for operator, path in paths.items() if path is not None})


def _compared(value: Any) -> Any:
    """Each path as a comparison; the message of a wrong one names the field."""
    if not isinstance(value, dict):
        return value
    compared = {field: {"equals": each} if isinstance(each, str) else each for field, each in value.items()}
    for field, each in compared.items():
        known = tuple(FieldSettings.model_fields)
        if isinstance(each, FieldSettings):
            continue
        if not isinstance(each, dict) or not each or not each.keys() <= set(known):
            raise ValueError(f"the field '{field}' needs a path, or one of {', '.join(known)} with a path")
    return compared


#: Field of the documents -> how it is compared; a path alone stands for `{equals: PATH}`.
Fields: TypeAlias = Annotated[dict[str, FieldSettings], BeforeValidator(_compared)]


def conditions(fields: Fields) -> dict[str, Condition]:
    """The conditions of a stage."""
    return {field: each.condition for field, each in fields.items()}


class MatchSettings(StageSettings):
    """`- match: {filter: {brand: intent.brand, price: {max: intent.max_price}}}`: filter or boost hits.

    Hits are compared with earlier outputs. Each key is a field of the documents: title, text, or another column of the
    corpus. Its value is the path of an output: `intent` for labels, `intent.brand` for an attribute. A field matches if
    it equals the output, or one of several, ignoring case. Other comparisons take a path too: `{contains: PATH}` for
    words in the field, `{prefix: PATH}` for its beginning, `{min: PATH, max: PATH}` for numbers. `filter` keeps the
    hits that match; `boost` raises their scores. A path without an output has no effect. The stage sees only the hits
    of earlier stages, so those must return more hits than needed; `filter_by` of a retriever searches all documents.
    """

    filter: Fields = Field(
        default_factory=dict, description="field -> path, or a comparison; hits that do not match are removed"
    )
    boost: Fields = Field(
        default_factory=dict, description="field -> path, or a comparison; the scores of matches are raised"
    )
    factor: float = Field(2.0, gt=1, description="factor of the score of a hit, for each field of `boost` that matches")
    k: int | None = Field(None, ge=1, description="number of hits to keep; default: all")

    @model_validator(mode="after")
    def _of_something(self) -> MatchSettings:
        if not self.filter and not self.boost:
            raise ValueError("'filter' or 'boost' is needed")
        return self


class RetrieveSettings(StageSettings):
    """Settings of a stage that searches the corpus; `k` is the number of hits."""

    k: int = Field(100, ge=1, description="number of hits")
    filter_by: Fields = Field(
        default_factory=dict,
        description="field -> path, or a comparison, as `filter` of [match](#match): only documents that match are"
        " searched; search engines compare by `equals` only",
    )

    @model_validator(mode="after")
    def _filters(self) -> RetrieveSettings:
        if self.filter_by and isinstance(self, HttpSettings):
            raise ValueError("a query by HTTP takes no 'filter_by'; use a stage 'match'")
        if isinstance(self, EngineSearchSettings):
            for name, each in self.filter_by.items():
                if set(each.condition.paths) != {"equals"}:
                    raise ValueError(f"a search engine compares '{name}' by 'equals' only; use a stage 'match'")
        return self


class Bm25Settings(RetrieveSettings):
    """`- bm25: {k: 100}`: lexical search with BM25."""

    k1: float = Field(0.9, ge=0, description="saturation of term frequencies")
    b: float = Field(0.4, ge=0, le=1, description="normalisation by document length: 0 none, 1 full")
    stopwords: Literal["english"] | None = Field("english", description="stop words to remove")
    stemmer: Literal["english"] | None = Field(None, description="Snowball stemmer")
    shortest: int = Field(2, ge=1, description="minimum length of a term in characters")
    fields: dict[str, int] | None = Field(
        None,
        description="field -> boost, a whole number, as in `{title: 3, text: 1, brand: 2}`; fields are title, text and"
        " other columns of the corpus; default: title and text",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_a_backend(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "backend" not in values:
            return values
        if values["backend"] != "bm25s":
            raise ValueError("'backend' is no longer a key: bm25s, Lucene's variant of BM25, is the only one")
        warnings.warn("'backend' is no longer a key of 'bm25'; remove it.", RenamedWarning, 2)
        return {key: value for key, value in values.items() if key != "backend"}


class EncodingSettings(RetrieveSettings):
    """Settings of a stage that searches by the vectors of an encoder."""

    model: str = Field(description="encoder: catalogue name, folder or hub id")
    adapter: str | None = Field(None, description="adapter of the encoder")
    dimensions: int | None = Field(None, ge=1, description="truncate vectors to this many dimensions (Matryoshka)")
    normalise: bool = Field(True, description="normalise vectors to length 1, so that inner products are cosines")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="precision in which documents are encoded")
    query_prefix: str = Field("", description="text before each query, as some encoders expect it")
    document_prefix: str = Field("", description="text before each document")
    query_batch_size: int = Field(
        1, ge=1, description="queries per forward pass; with 1, hits do not depend on other queries"
    )
    batch_size: int = Field(32, ge=1, description="documents per forward pass")


class DenseSettings(EncodingSettings):
    """`- dense: {model: all-minilm-l6-v2, k: 100}`: dense search; the model is a catalogue name, a folder or a hub id.

    `adapter: shop-embedder@production` adds an adapter to the model. The search is exact; `index: hnsw` and
    `index: ivf` search large collections approximately.
    """

    index: Literal["flat", "hnsw", "ivf"] = Field(
        "flat", description="exact search (flat), or approximate search in a graph (hnsw) or in lists of vectors (ivf)"
    )
    hnsw_m: int = Field(32, ge=2, description="hnsw: neighbours per vector")
    hnsw_ef_construction: int = Field(200, ge=1, description="hnsw: candidates per vector while the graph is built")
    hnsw_ef_search: int = Field(64, ge=1, description="hnsw: candidates per query, at least its hits")
    ivf_lists: int | None = Field(
        None, ge=1, description="ivf: number of lists; default: four times the square root of the number of documents"
    )
    ivf_probes: int = Field(16, ge=1, description="ivf: lists that are searched per query")

    @model_validator(mode="after")
    def _of_the_index(self) -> DenseSettings:
        for key in sorted(self.model_fields_set):
            kind = key.partition("_")[0]
            if kind in ("hnsw", "ivf") and kind != self.index:
                raise ValueError(f"'{key}' is for 'index: {kind}'")
        return self


class HttpSettings(RetrieveSettings):
    """`- http: {url: http://localhost:9200/products/_search, engine: opensearch, k: 100}`: query an engine by HTTP.

    `engine` sets the other keys to the defaults of OpenSearch, Elasticsearch or Solr; each key can be overridden. In
    `body`, `{query}` stands for the query, and the value `{k}` for the number of hits. Paths such as `_source.title`
    address fields in the JSON response. The texts come with the hits, so no corpus is needed.
    """

    url: str = Field(description="search endpoint, without a query string")
    engine: Literal["opensearch", "elasticsearch", "solr"] | None = Field(
        None, description="sets the defaults of the keys below"
    )
    body: dict[str, Any] | None = Field(None, description="JSON body of the request")
    hits: str | None = Field(None, description="path of the list of hits in the response")
    id: str | None = Field(None, description="path of the id in a hit")
    score: str | None = Field(None, description="path of the score in a hit; without it, the order of the hits counts")
    title: str | None = Field(None, description="path of the title in a hit")
    text: tuple[str, ...] | None = Field(None, description="paths of the text in a hit, joined by a space")
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_]\w*$",
        description="environment variable that holds the key; SEARCHLORA_API_KEY_VARIABLES must list it",
    )
    auth: Literal["bearer", "apikey", "basic"] = Field(
        "bearer", description="how the key is sent; for `basic` it is `user:password`"
    )
    concurrency: int = Field(8, ge=1, description="maximum number of queries in flight")
    timeout_s: float = Field(30, gt=0, description="time limit of one attempt in seconds")
    retries: int = Field(4, ge=0, description="attempts after the first")

    @field_validator("text", mode="before")
    @classmethod
    def _one_or_more(cls, text: Any) -> Any:
        return (text,) if isinstance(text, str) else text

    @model_validator(mode="after")
    def _complete(self) -> HttpSettings:
        missing = [key for key in ("body", "hits", "id") if self.engine is None and getattr(self, key) is None]
        if missing:
            raise ValueError(f"'{missing[0]}' is needed, or an 'engine' that sets it")
        return self


class EngineSearchSettings(RetrieveSettings):
    """Settings of a stage that searches an index in a search engine, which `searchlora index load` filled.

    The texts come with the hits, so that no corpus is needed.
    """

    engine: Literal["postgres", "milvus", "opensearch", "elasticsearch"] = Field(description="kind of search engine")
    url: str = Field(
        min_length=1,
        description="address without a password: `postgresql://user@host/database`, `https://host:9200`,"
        " `http://host:19530` for Milvus, or the path of a file `.db` of Milvus Lite, relative to the working folder",
    )
    index: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="name of the index in the engine")
    filter: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict,
        description="field -> value, or a list of values of which one must match, ignoring case; fields are other"
        " columns of the corpus",
    )
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_]\w*$",
        description="environment variable that holds the password or key; SEARCHLORA_API_KEY_VARIABLES must list it",
    )
    auth: Literal["bearer", "apikey", "basic"] = Field(
        "basic", description="OpenSearch, Elasticsearch: how the key is sent; for `basic` it is `user:password`"
    )
    concurrency: int = Field(8, ge=1, description="maximum number of queries in flight")
    timeout_s: float = Field(30, gt=0, description="time limit of a query in seconds")

    @field_validator("filter")
    @classmethod
    def _with_values(cls, filter: dict[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
        for name, values in filter.items():
            if not values or not all(each.strip() for each in ((values,) if isinstance(values, str) else values)):
                raise ValueError(f"the filter of '{name}' has no value")
        return filter

    @model_validator(mode="after")
    def _of_the_engine(self) -> EngineSearchSettings:
        if "auth" in self.model_fields_set and self.engine not in ("opensearch", "elasticsearch"):
            raise ValueError(f"'auth' is not for '{self.engine}'")
        return self


class TextSearchSettings(EngineSearchSettings):
    """`- text_search: {engine: postgres, url: "postgresql:///shop", index: products}`: full-text search.

    The engine analyses the texts and scores them: OpenSearch, Elasticsearch and Milvus by BM25, PostgreSQL by cover
    density. The score of a document is a sum over fields, weighted by their boosts.
    """

    fields: dict[str, float] | None = Field(
        None,
        description="field -> boost, as in `{title: 3, text: 1, brand: 0.5}`; fields are title, text and other"
        " columns of the corpus, in PostgreSQL at most four; default: title and text",
    )
    analyzer: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*$",
        description="the engine's name of the analyser, such as `english`; default: an analyser without a language,"
        " `simple` in PostgreSQL and `standard` in the others",
    )

    @field_validator("fields")
    @classmethod
    def _boosted(cls, fields: dict[str, float] | None) -> dict[str, float] | None:
        if fields is not None and (not fields or min(fields.values()) <= 0):
            raise ValueError("a field with a boost above 0 is needed")
        return fields


class VectorSearchSettings(EncodingSettings, EngineSearchSettings):
    """`- vector_search: {engine: milvus, url: shop.db, index: products, model: all-minilm-l6-v2}`: dense search.

    Queries are encoded in this process, and their vectors are sent. `adapter: shop-embedder@production` adds an adapter
    to the encoder. An index with vectors of another encoder or adapter is refused.
    """

    structure: Literal["flat", "hnsw"] = Field(
        "flat", description="exact search (flat), or approximate search in a graph (hnsw)"
    )
    hnsw_m: int = Field(16, ge=2, le=100, description="hnsw: neighbours per vector")
    hnsw_ef_construction: int = Field(
        200, ge=4, le=1000, description="hnsw: candidates per vector while the graph is built"
    )
    hnsw_ef_search: int = Field(64, ge=1, le=1000, description="hnsw: candidates per query, at least its hits")

    @model_validator(mode="after")
    def _of_the_structure(self) -> VectorSearchSettings:
        for key in sorted(self.model_fields_set):
            if key.startswith("hnsw_") and self.structure != "hnsw":
                raise ValueError(f"'{key}' is for 'structure: hnsw'")
        if self.hnsw_ef_construction < 2 * self.hnsw_m and self.structure == "hnsw":
            raise ValueError("'hnsw_ef_construction' is at least twice 'hnsw_m'")
        return self


class HitsSettings(StageSettings):
    """`- hits: {run: bm25.trec, k: 100}`: take the hits of another search engine, from a TREC run.

    Without `run`, the hits are the field `hits` of each query row: a list of document ids, best first, or of
    `{"document": "d1", "score": 12.5}`.
    """

    run: str | None = Field(None, description="TREC run, plain or gzip; relative to the working folder")
    k: int = Field(100, ge=1, description="number of hits to keep per query")


class FuseSettings(RetrieveSettings):
    """`- fuse: {method: rrf, k: 100, of: [{bm25: {k: 100}}, {dense: {model: all-minilm-l6-v2}}]}`: rank fusion.

    The `k` of a stage under `of` is the number of its hits that are fused.
    """

    of: tuple[SerializeAsAny[RetrieveSettings], ...] = Field(min_length=1, description="stages whose hits are fused")
    method: Literal["rrf", "combsum", "combmnz"] = Field(
        "rrf",
        description="reciprocal rank fusion (rrf), the sum of scaled scores (combsum), or that sum times the number of"
        " lists that contain the document (combmnz)",
    )
    constant: float = Field(
        60, ge=0, description="constant of reciprocal rank fusion; larger values give less weight to the first ranks"
    )
    weights: tuple[float, ...] | None = Field(None, description="one positive weight per stage under 'of'")

    @model_validator(mode="before")
    @classmethod
    def _without_a_gate(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and not values.keys().isdisjoint(("gate", "gate_sha256", "gate_parts")):
            raise ValueError(
                "'gate' is no longer a key: `searchlora tune` chooses 'weights' on judged validation topics instead"
            )
        return values

    @field_validator("of")
    @classmethod
    def _filtered_alike(cls, of: tuple[RetrieveSettings, ...], info: ValidationInfo) -> tuple[RetrieveSettings, ...]:
        filter_by = info.data.get("filter_by", {})
        if any(stage.filter_by not in ({}, filter_by) for stage in of):
            raise ValueError("'filter_by' is a key of the fusion, not of its parts")
        # Parts know what they are filtered by, so that each can be built without the fusion.
        return tuple(_filtered_by(stage, filter_by) for stage in of)

    @field_validator("weights")
    @classmethod
    def _one_per_stage(cls, weights: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        stages = info.data.get("of")
        if weights is not None and stages is not None and len(weights) != len(stages):
            raise ValueError(f"there are {len(weights)} weights for {len(stages)} stages")
        if weights is not None and not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError("weights must be above 0")
        return weights


def _filtered_by(stage: RetrieveSettings, filter_by: Fields) -> RetrieveSettings:
    if not filter_by:
        return stage
    values = {name: getattr(stage, name) for name in stage.model_fields_set}
    return type(stage)(**{**values, "filter_by": filter_by})


def stage_kind(stage: Settings) -> str:
    """The key of a stage in a pipeline file."""
    return next(kind for kind, model in KINDS.items() if type(stage) is model)


def dumped(stage: Settings) -> dict[str, Any]:
    """The settings of a stage on which its hits and outputs depend, as JSON. What filters nothing is left out, so that
    runs that were kept before there were filters are still those of the stage."""
    return _without_empty_filters(stage.model_dump(mode="json"))


def _without_empty_filters(content: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in content.items() if key != "filter_by" or value}
    if isinstance(kept.get("of"), list):
        kept["of"] = [_without_empty_filters(part) for part in kept["of"]]
    return kept


#: Kind of a stage, its key in a pipeline file -> its settings.
KINDS: dict[str, type[Settings]] = {
    "adapter": AdapterSettings,
    "bm25": Bm25Settings,
    "dense": DenseSettings,
    "fuse": FuseSettings,
    "hits": HitsSettings,
    "http": HttpSettings,
    "match": MatchSettings,
    "passages": PassagesSettings,
    "similarity": SimilaritySettings,
    "text_search": TextSearchSettings,
    "vector_search": VectorSearchSettings,
}
