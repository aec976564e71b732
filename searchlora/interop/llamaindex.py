"""A LlamaIndex retriever: `SearchloraRetriever(source=pipeline_source(...), k=5).retrieve("red couch")`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchlora.extras import importing
from searchlora.interop.sources import Source

with importing():
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode


class SearchloraRetriever(BaseRetriever):  # type: ignore[misc]
    """The `k` best documents of a source; `fields` are further fields of each search that stages read. Of the metadata,
    an LLM that gets the nodes sees the title only.
    """

    def __init__(self, source: Source, *, k: int = 10, fields: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._source, self._k, self._fields = source, k, dict(fields or {})

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes = []
        for document, score in self._source(query_bundle.query_str, self._k, self._fields):
            node = TextNode(id_=document.id, text=document.text, metadata=document.metadata)
            hidden = [name for name in document.metadata if name != "title"]
            node.excluded_llm_metadata_keys = node.excluded_embed_metadata_keys = hidden
            nodes.append(NodeWithScore(node=node, score=score))
        return nodes
