"""The stage `titles`: titles of the passages that the whole conversation finds, for stages that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.pipelines.stages.stage import BuildContext, Needs, Stage, StageSettings
from searchlora.records import Document, SearchContext
from searchlora.retrieval.feedback import PASSAGES, TITLES, conversation_text, found_titles
from searchlora.retrieval.retriever import Retriever

if TYPE_CHECKING:
    from searchlora.pipelines.index_build import IndexNeeds


class TitlesSettings(StageSettings):
    """`- titles: {k: 10}`: search with the whole conversation by BM25, and give an adapter the titles that it finds.

    For rewriting adapters that learned from a dataset with `--option titles=CORPUS`. Hits and query do not change.
    """

    kind: ClassVar[str] = "titles"
    removable: ClassVar[bool] = True
    slot_key: ClassVar[str | None] = "k"

    k: int = Field(PASSAGES, ge=1, description="number of first passages whose titles are counted")
    titles: int = Field(TITLES, ge=1, description="maximum number of titles, the most frequent first")

    def needs(self) -> Needs:
        return Needs(documents=True)

    def add_to_index(self, needs: IndexNeeds, context: BuildContext) -> None:
        Bm25Settings().add_to_index(needs, context)

    def build(self, context: BuildContext) -> TitlesStage:
        retriever = Bm25Settings().over(context.corpus, context.steps("Indexing")).retriever
        return TitlesStage(retriever, context.corpus.documents, self.k, self.titles)


@dataclass(frozen=True)
class TitlesStage(Stage):
    """`query` and `history` -> `titles`: those of the first k passages, the most frequent first."""

    retriever: Retriever
    documents: Mapping[str, Document]
    k: int
    titles: int

    @property
    def label(self) -> str:
        return f"titles({self.k},{self.titles})"

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        found = found_titles(self.retriever, self.documents, searches, self.k, self.titles)
        return [{**search, "titles": titles} for search, titles in zip(searches, found, strict=True)]

    def with_retriever(self, change: Callable[[Retriever], Retriever]) -> TitlesStage:
        return replace(self, retriever=change(self.retriever))

    def inputs(self, search: SearchContext) -> Iterator[tuple[str, Any]]:
        yield "conversation", conversation_text(search)

    def if_skipped(self, search: SearchContext) -> dict[str, Any]:
        """No titles."""
        del search
        return {"titles": []}
