"""The stage `similarity`: grades of passages by an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from searchlora.errors import PipelineError
from searchlora.models.resolve import public_name
from searchlora.pipelines.stages.encoder import EncoderSettings
from searchlora.pipelines.stages.stage import BuildContext, Stage
from searchlora.records import Document, SearchContext
from searchlora.retrieval.encoding import normalised

if TYPE_CHECKING:
    from searchlora.retrieval.encoder import TextEncoder


class SimilaritySettings(EncoderSettings):
    """`- similarity: {model: all-minilm-l6-v2}`: grade `passages` by their cosine similarity to the query.

    The order of the hits does not change. It is a judge without an LLM, for later stages that read `grades`.
    `adapter: shop-embedder` adds an adapter to the encoder.
    """

    kind: ClassVar[str] = "similarity"
    works_on_records: ClassVar[bool] = True

    query_prefix: str = Field("", description="text before each query, as some encoders expect it")
    document_prefix: str = Field("", description="text before each document")
    batch_size: int = Field(32, ge=1, description="texts per forward pass")

    def build(self, context: BuildContext) -> SimilarityStage:
        return SimilarityStage(self.encoder(context), self)


@dataclass(frozen=True)
class SimilarityStage(Stage):
    """`passages` -> `grades`: of each passage its `id`, and as `relevance` its cosine with the query, from 0 to 1.

    A cosine c is written as (1 + c) / 2, so that rules for probabilities of relevance take it. It is no probability.
    """

    encoder: TextEncoder
    settings: SimilaritySettings

    @property
    def label(self) -> str:
        return f"similarity({public_name(self.encoder.name)})"

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        for search in searches:
            if "passages" not in search:
                raise PipelineError(
                    "there are no passages to grade",
                    where=f"query {search['id']}",
                    fix="Put a stage 'passages' before 'similarity'.",
                )
            if not all(isinstance(each, Mapping) and {"id", "text"} <= each.keys() for each in search["passages"]):
                raise PipelineError("a passage is no object with 'id' and 'text'", where=f"query {search['id']}")
        queries = [self.settings.query_prefix + str(search["query"]) for search in searches]
        prefix = self.settings.document_prefix
        passages = [[prefix + _searchable(passage) for passage in search["passages"]] for search in searches]
        of_query = self._units(self.encoder.encode, queries)
        of_passage = self._units(self.encoder.encode_documents, [text for texts in passages for text in texts])
        return [
            {**search, "grades": _cosine_grades(search["passages"], of_query[query], [of_passage[t] for t in texts])}
            for search, query, texts in zip(searches, queries, passages, strict=True)
        ]

    def _units(self, encode: Callable[..., Any], texts: Sequence[str]) -> dict[str, Any]:
        """Text -> its vector, of length 1. Each text is encoded once."""
        distinct = list(dict.fromkeys(texts))
        vectors = encode(distinct, batch_size=self.settings.batch_size)
        return dict(zip(distinct, normalised(vectors), strict=True))

    def inputs(self, search: SearchContext) -> Iterator[tuple[str, Any]]:
        """The query, and the ids of the passages."""
        yield "query", search["query"]
        yield "passages", [passage["id"] for passage in search.get("passages", ())]


def _cosine_grades(passages: Sequence[Mapping[str, Any]], query: Any, vectors: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"id": passage["id"], "relevance": min(max((1 + float(vector @ query)) / 2, 0.0), 1.0)}
        for passage, vector in zip(passages, vectors, strict=True)
    ]


def _searchable(passage: Mapping[str, Any]) -> str:
    return Document(str(passage["id"]), str(passage["text"]), str(passage.get("title") or "")).searchable
