"""The stage `passages`: the texts of the first hits, for stages that read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from searchlora.errors import PipelineError
from searchlora.pipelines.stages.stage import BuildContext, Needs, Stage, StageSettings, document_of
from searchlora.records import Document, SearchContext


class PassagesSettings(StageSettings):
    """`- passages: {k: 10}`: fetch the texts of the first k hits, for stages that read `passages`."""

    kind: ClassVar[str] = "passages"
    reads_hits: ClassVar[bool] = True

    k: int = Field(10, ge=1, description="number of hits whose texts are fetched")

    def needs(self) -> Needs:
        return Needs(texts=True)

    def build(self, context: BuildContext) -> PassagesStage:
        return PassagesStage(context.corpus.documents, self.k)


@dataclass(frozen=True)
class PassagesStage(Stage):
    """`hits` -> `passages`: the texts of the first k hits, best first, each with `id`, `title`, `text` and `score`."""

    documents: Mapping[str, Document]
    k: int

    @property
    def label(self) -> str:
        return f"passages({self.k})"

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        return [{**search, "passages": self._passages(search)} for search in searches]

    def _passages(self, search: SearchContext) -> list[dict[str, str | float]]:
        if "hits" not in search:
            raise PipelineError(
                "there are no hits to fetch passages of",
                where=f"query {search['id']}",
                fix="Put a retrieval stage before 'passages'.",
            )
        passages = []
        for hit in search["hits"][: self.k]:
            document = document_of(self.documents, hit, search)
            passages.append({"id": document.id, "title": document.title, "text": document.text, "score": hit.score})
        return passages

    def inputs(self, search: SearchContext) -> Iterator[tuple[str, Any]]:
        """The ids of the hits."""
        yield "hits", [hit.document for hit in search.get("hits", ())][: self.k]

    def if_skipped(self, search: SearchContext) -> dict[str, Any]:
        """No passages."""
        del search
        return {"passages": []}

    def notes(self, before: SearchContext, after: SearchContext, rank: int | None) -> Iterator[str]:
        """Whether the document is behind the passages."""
        del before, after
        if rank is not None and rank > self.k:
            yield f"at rank {rank}; later stages read the first {self.k} only"
