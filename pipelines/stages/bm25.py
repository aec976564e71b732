"""The stage `bm25`: lexical search of the corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from searchlora.pipelines.corpus import IndexedCorpus
from searchlora.pipelines.stages.retrieve import RetrieveSettings, RetrieveStage
from searchlora.pipelines.stages.stage import BuildContext, Needs
from searchlora.progress import Progress, silent
from searchlora.records import Document

if TYPE_CHECKING:
    from searchlora.pipelines.index_build import IndexNeeds
    from searchlora.retrieval.bm25 import BM25Index
    from searchlora.retrieval.index_manifest import Bm25Keys


class Bm25Settings(RetrieveSettings):
    """`- bm25: {k: 100}`: lexical search with BM25."""

    kind: ClassVar[str] = "bm25"

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

    def needs(self) -> Needs:
        return Needs(documents=True)

    def build(self, context: BuildContext) -> RetrieveStage:
        """Index the documents, or open their index."""
        return self.over(context.corpus, context.steps("Indexing"))

    def over(self, corpus: IndexedCorpus | Sequence[Document], progress: Progress = silent) -> RetrieveStage:
        """The stage over documents. Raises `PipelineError` if there are none."""
        corpus = corpus if isinstance(corpus, IndexedCorpus) else IndexedCorpus(corpus)
        index = corpus.indexes.get(("bm25", self.index_key), lambda: self._index(corpus, progress))
        if self.filter_by:
            index = index.filterable(corpus.columns(self.filter_by))
        return Bm25Stage(index, self.k, self.label(), self.filter_by, self.kind)

    def _index(self, corpus: IndexedCorpus, progress: Progress) -> BM25Index:
        from searchlora.retrieval.analysis import Analyzer
        from searchlora.retrieval.bm25 import BM25Index

        if corpus.folder is not None:
            return corpus.folder.bm25(self.keys())
        return BM25Index(
            corpus.rows(),
            k1=self.k1,
            b=self.b,
            analyzer=Analyzer(stopwords=self.stopwords, stemmer=self.stemmer, shortest=self.shortest),
            fields=self.fields,
            progress=progress,
        )

    def keys(self) -> Bm25Keys:
        """What an index in an index folder depends on."""
        from searchlora.retrieval.index_manifest import Bm25Keys

        return Bm25Keys(**self.model_dump(exclude=set(RetrieveSettings.model_fields)))

    def add_to_index(self, needs: IndexNeeds, context: BuildContext) -> None:
        del context
        needs.add_bm25(self.keys())


class Bm25Stage(RetrieveStage):
    """A stage that searches a BM25 index."""

    def terms(self, query: str, document: str) -> Mapping[str, float]:
        from searchlora.retrieval.bm25 import BM25Index

        if not isinstance(self.retriever, BM25Index):
            return {}
        try:
            return self.retriever.contributions(query, document)
        except ValueError:  # the document has no text, or belongs to another collection
            return {}
