"""The stage `filter`: hits are filtered and boosted by what earlier stages wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field, model_validator

from searchlora.errors import PipelineError
from searchlora.eval.trec import ranked
from searchlora.pipelines.stages.conditions import Conditions, bound, described, unmet, values_read
from searchlora.pipelines.stages.stage import BuildContext, Needs, Stage, StageSettings, document_of
from searchlora.records import Document, Hit, SearchContext


class FilterSettings(StageSettings):
    """`- filter: {filter: {brand: intent.brand, price: {max: intent.max_price}}}`: filter or boost hits.

    Hits are compared with earlier outputs. Each key is a field of the documents: title, text, or another column of the
    corpus. Its value is the path of an output: `intent` for labels, `intent.brand` for an attribute. A field matches if
    it equals the output, or one of several, ignoring case. Other comparisons take a path too: `{contains: PATH}` for
    words in the field, `{prefix: PATH}` for its beginning, `{min: PATH, max: PATH}` for numbers. `filter` keeps the
    hits that match; `boost` raises their scores. A path without an output has no effect. The stage sees only the hits
    of earlier stages, so those must return more hits than needed; `filter_by` of a retriever searches all documents.
    """

    kind: ClassVar[str] = "filter"
    reads_hits: ClassVar[bool] = True
    removable: ClassVar[bool] = True

    filter: Conditions = Field(
        default_factory=dict, description="field -> path, or a comparison; hits that do not match are removed"
    )
    boost: Conditions = Field(
        default_factory=dict, description="field -> path, or a comparison; the scores of matches are raised"
    )
    factor: float = Field(2.0, gt=1, description="factor of the score of a hit, for each field of `boost` that matches")
    k: int | None = Field(None, ge=1, description="number of hits to keep; default: all")

    @model_validator(mode="after")
    def _of_something(self) -> FilterSettings:
        if not self.filter and not self.boost:
            raise ValueError("'filter' or 'boost' is needed")
        return self

    def needs(self) -> Needs:
        return Needs(texts=True)

    def build(self, context: BuildContext) -> FilterStage:
        return FilterStage(context.corpus.documents, self)


@dataclass(frozen=True)
class FilterStage(Stage):
    """`hits` -> `hits`: filtered and boosted by fields of the documents that fit what earlier stages wrote.

    The score s of a hit becomes s + (factor - 1) · |s|, once for each field of `boost` that matches.
    """

    documents: Mapping[str, Document]
    settings: FilterSettings

    @property
    def label(self) -> str:
        own = self.settings
        phrases = [f"filter={phrase}" for phrase in described(own.filter)]
        phrases += [f"boost={phrase}^{own.factor:g}" for phrase in described(own.boost)]
        return f"filter({','.join(phrases if own.k is None else [*phrases, f'k={own.k}'])})"

    def __call__(self, searches: Sequence[SearchContext]) -> list[SearchContext]:
        return [{**search, "hits": self._matching(search)[: self.settings.k]} for search in searches]

    def _matching(self, search: SearchContext) -> list[Hit]:
        if "hits" not in search:
            where = f"query {search['id']}"
            fix = "Put a retrieval stage before 'filter'."
            raise PipelineError("there are no hits to filter", where=where, fix=fix)
        filters, boosts = bound(self.settings.filter, search), bound(self.settings.boost, search)
        if not filters and not boosts:
            return list(search["hits"])
        hits = {}
        for hit in search["hits"]:
            document = document_of(self.documents, hit, search)
            if all(test(document.field(name)) for name, test in filters.items()):
                score = hit.score
                for _ in range(sum(test(document.field(name)) for name, test in boosts.items())):
                    score += (self.settings.factor - 1) * abs(score)
                hits[hit.document] = replace(hit, score=score)
        return [hits[document] for document in ranked({document: hit.score for document, hit in hits.items()})]

    def inputs(self, search: SearchContext) -> Iterator[tuple[str, Any]]:
        """The values of the conditions."""
        yield from values_read(search, self.settings.filter, self.settings.boost).items()

    def unmet(self, search: SearchContext, content: Document | None) -> str:
        return unmet(self.settings.filter, search, content)
