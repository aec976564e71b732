"""The stage that fetches the texts of what was found, for the stages that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchlora.errors import PipelineError
from searchlora.records import Document, SearchContext


@dataclass(frozen=True)
class PassagesStage:
    """The first k `hits` -> `passages`, best first: each an `id`, `title`, `text` and `score`.

    Raises:
        PipelineError: when a search has no hits yet because no stage before it retrieves.
    """

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
                "there are no hits whose passages could be fetched",
                where=f"query {search['id']}",
                fix="Put a stage that retrieves before 'passages'.",
            )
        found = []
        for hit in search["hits"][: self.k]:
            document = self.documents[hit.document]
            found.append({"id": document.id, "title": document.title, "text": document.text, "score": hit.score})
        return found
