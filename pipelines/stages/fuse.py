"""The stage `fuse`: rank fusion of the hits of several stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, SerializeAsAny, ValidationInfo, field_validator

from searchlora.errors import EngineError
from searchlora.files import file_sha256
from searchlora.pipelines.stages.conditions import Conditions
from searchlora.pipelines.stages.explanation import Retrieved, Sought
from searchlora.pipelines.stages.retrieve import RetrieveSettings, RetrieveStage, searched_queries
from searchlora.pipelines.stages.stage import BuildContext, Needs, PartHits, StageSettings, document_of
from searchlora.records import Document, Hit, SearchContext
from searchlora.retrieval.field_filter import FieldFilter
from searchlora.retrieval.fusion import Failure, Fused, Source, fuse
from searchlora.retrieval.learning_to_rank import LearnedFusion, RankingFeatures
from searchlora.retrieval.retriever import Retriever, search_filtered


class FuseSettings(RetrieveSettings):
    """`- fuse: {method: rrf, k: 100, of: [{bm25: {k: 100}}, {dense: {model: all-minilm-l6-v2}}]}`: rank fusion.

    The `k` of a stage under `of` is the number of its hits that are fused.
    """

    kind: ClassVar[str] = "fuse"
    unlabelled: ClassVar[frozenset[str]] = frozenset({"of", "method", "model", "model_parts", "fields"})

    of: tuple[SerializeAsAny[RetrieveSettings], ...] = Field(min_length=1, description="stages whose hits are fused")
    method: Literal["rrf", "combsum", "combmnz"] = Field(
        "rrf",
        description="reciprocal rank fusion (rrf), the sum of scaled scores (combsum), or that sum times the number of"
        " lists that contain the document (combmnz)",
    )
    rrf_k: float = Field(
        60, ge=0, description="constant of reciprocal rank fusion; larger values give less weight to the first ranks"
    )
    weights: tuple[PositiveFloat, ...] | None = Field(None, description="one positive weight per stage under 'of'")
    model: str | None = Field(
        None,
        description="ranking model, which `searchlora tune --ranking-model` trains: it orders the documents of all"
        " stages under 'of', in place of 'method' and 'weights'; a file, relative to the working folder",
    )
    model_parts: tuple[str, ...] | None = Field(
        None, description="names of the stages under 'of' in the ranking model; `tune` writes them"
    )
    fields: tuple[str, ...] = Field(
        (), description="fields of documents with numbers that the model reads, such as `popularity`"
    )

    @field_validator("of")
    @classmethod
    def _filtered_alike(cls, of: tuple[RetrieveSettings, ...], info: ValidationInfo) -> tuple[RetrieveSettings, ...]:
        filter_by = info.data.get("filter_by", {})
        if any(stage.filter_by not in ({}, filter_by) for stage in of):
            raise ValueError("'filter_by' is a key of the fusion, not of its parts")
        # Parts know what they are filtered by, so that each can be built without the fusion.
        return tuple(_filtered_by(stage, filter_by) for stage in of)

    @field_validator("weights", "model_parts")
    @classmethod
    def _one_per_stage(cls, values: tuple[Any, ...] | None, info: ValidationInfo) -> tuple[Any, ...] | None:
        stages = info.data.get("of")
        if values is not None and stages is not None and len(values) != len(stages):
            what = "weights" if info.field_name == "weights" else "names"
            raise ValueError(f"there are {len(values)} {what} for {len(stages)} stages")
        return values

    @property
    def parts(self) -> tuple[RetrieveSettings, ...]:
        return self.of

    @property
    def part_weights(self) -> tuple[float, ...]:
        return self.weights or (1.0,) * len(self.of)

    def needs(self) -> Needs:
        return Needs() if self.model is None else Needs(texts=True, ranking_models=(self.model,))

    def identity(self) -> dict[str, Any]:
        """With the identities of the parts, and the hash of the model, whose file may be replaced."""
        identity = super().identity()
        identity["of"] = [part.identity() for part in self.of]
        if self.model is None:
            return {key: value for key, value in identity.items() if key not in ("model", "model_parts", "fields")}
        return {**identity, "model": file_sha256(self.model)}

    def fused_hits(self, hits: PartHits, weights: Sequence[float]) -> list[Hit]:
        """See `StageSettings.fused_hits`."""
        used = {part: weight for part, weight in enumerate(weights) if weight > 0}
        by_query = [
            fuse([parts[part] for part in used], method=self.method, weights=[*used.values()], rrf_k=self.rrf_k)
            for parts in hits
        ]
        return (by_query[0] if len(by_query) == 1 else fuse([query[: self.k] for query in by_query]))[: self.k]

    def with_parts(self, parts: Mapping[int, StageSettings]) -> Self:
        """See `StageSettings.with_parts`; each keeps its weight."""
        weights = tuple(self.weights[index] for index in parts) if self.weights is not None else None
        names = tuple(self.model_parts[index] for index in parts) if self.model_parts is not None else None
        return self.model_copy(update={"of": tuple(parts.values()), "weights": weights, "model_parts": names})

    def labelled_filters(self) -> list[str]:
        """None: the parts tell it."""
        return []

    def build(self, context: BuildContext) -> FuseStage:
        """Build the parts."""
        built = [part.build(context) for part in self.of]
        documents = context.corpus.documents if self.model is not None else {}
        return self.of_parts([part for part in built if isinstance(part, RetrieveStage)], documents)

    def of_parts(self, parts: Sequence[RetrieveStage], documents: Mapping[str, Document] = {}) -> FuseStage:
        """The stage that fuses the hits of built parts, one for each of `of`."""
        sources = [
            Source(part.retriever, part.k, weight, name, own.on_failure == "skip", own.budget_s)
            for part, name, weight, own in zip(parts, _labels(parts), self.part_weights, self.of, strict=True)
        ]
        labels = [part.label for part in parts]
        if self.model is None:
            fused = Fused(sources, method=self.method, rrf_k=self.rrf_k)
            label = self.label(*labels, name=self.method)
        else:
            fused = LearnedFusion(sources, self.model, ranking_features(self, documents))
            label = self.label(*labels, f"model={file_sha256(self.model)[:12]}", name="ltr")
        how: dict[str, Any] = {"parts": tuple(parts), "settings": self, "documents": documents}
        return FuseStage(fused, self.k, label, self.filter_by, self.kind, **how)


def part_names(settings: StageSettings) -> tuple[str, ...]:
    """The names of the parts of a fusion: those of their slots, and `fuse` for one that fuses again.

    Examples:
        >>> from searchlora.pipelines.config import parse_stages
        >>> (stage,) = parse_stages([{"fuse": {"of": [{"bm25": {}}, {"dense": {"model": "m"}}]}}], "example")
        >>> part_names(stage)
        ('bm25', 'dense')
    """
    return _distinct([part.slot_name for part in settings.parts])


def _labels(parts: Sequence[RetrieveStage]) -> tuple[str, ...]:
    """The labels of parts by which failures are told: two requests to one path of two servers share theirs."""
    return _distinct([part.label for part in parts])


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    often = Counter(names)
    return tuple(f"{name} ({place + 1})" if often[name] > 1 else name for place, name in enumerate(names))


def ranking_features(settings: FuseSettings, documents: Mapping[str, Document]) -> RankingFeatures:
    """The features of the documents that a fusion retrieves. Raises `PipelineError` for one without its text."""
    return RankingFeatures(settings.model_parts or part_names(settings), settings.fields, partial(_document, documents))


def _document(documents: Mapping[str, Document], hit: Hit) -> Document:
    return document_of(documents, hit, {"id": "?"})


def _filtered_by(stage: RetrieveSettings, filter_by: Conditions) -> RetrieveSettings:
    if not filter_by:
        return stage
    values = {name: getattr(stage, name) for name in stage.model_fields_set}
    return type(stage)(**{**values, "filter_by": filter_by})


@dataclass(frozen=True)
class FuseStage(RetrieveStage):
    """The fused hits of parts. A part that may be skipped and fails is left out."""

    parts: tuple[RetrieveStage, ...] = field(kw_only=True)
    settings: FuseSettings = field(kw_only=True)
    documents: Mapping[str, Document] = field(kw_only=True)

    def _search(self, queries: Sequence[str], filters: Sequence[FieldFilter]) -> list[tuple[list[Hit], list[Failure]]]:
        assert isinstance(self.retriever, Fused)
        return self.retriever.search_with_failures(queries, self.k, filters)

    def with_retriever(self, change: Callable[[Retriever], Retriever]) -> FuseStage:
        return self.settings.of_parts([part.with_retriever(change) for part in self.parts], self.documents)

    def part_hits(self, searches: Sequence[SearchContext]) -> Iterator[PartHits]:
        queries = [searched_queries(search) for search in searches]
        flat = [query for of_search in queries for query in of_search]
        filters = self.filters(searches)
        rankings = [iter(search_filtered(part.retriever, flat, part.k, filters)) for part in self.parts]
        for of_search in queries:
            yield [[next(hits) for hits in rankings] for _ in of_search]

    def look_up_parts(self, query: str, filter: FieldFilter, sought: Sought) -> tuple[Retrieved, ...]:
        return tuple(
            replace(part.look_up_query(query, filter, sought), skipped=sought.skipped.get(label, ""))
            for part, label in zip(self.parts, _labels(self.parts), strict=True)
        )

    def deepest(self) -> int:
        """All hits of the parts."""
        return sum(part.k for part in self.parts)

    def without_skipped(self, sought: Sought) -> FuseStage:
        if not sought.skipped:
            return self
        parts = [
            replace(part, retriever=_Skipped(sought.skipped[label]))
            if label in sought.skipped
            else part.without_skipped(sought)
            for part, label in zip(self.parts, _labels(self.parts), strict=True)
        ]
        return self.settings.of_parts(parts, self.documents)


@dataclass(frozen=True)
class _Skipped:
    """A part of a fusion that was skipped: it is not asked again, as it might answer in time now."""

    reason: str

    def search(
        self, queries: Sequence[str], k: int, *, filters: Sequence[FieldFilter] | None = None
    ) -> list[list[Hit]]:
        del queries, k, filters
        raise EngineError(self.reason)
