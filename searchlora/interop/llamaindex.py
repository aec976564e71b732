"""A LlamaIndex retriever that searches by a pipeline, in this process or on a server.

It is made of a loaded pipeline, or of the address of a server:

    from searchlora.interop.llamaindex import SearchloraRetriever

    retriever = SearchloraRetriever.from_pipeline(Pipeline.load("product_search"), k=5)
    retriever = SearchloraRetriever.from_server("http://localhost:8000", "product_search", k=5)
    retriever.retrieve("red couch")
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from searchlora.errors import UsageError
from searchlora.extras import importing
from searchlora.interop.sources import SourceRetriever

with importing():
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

#: What an LLM or an encoder is shown of the metadata, besides the text.
_SHOWN = ("title",)


class SearchloraRetriever(SourceRetriever, BaseRetriever):  # type: ignore[misc]
    """Nodes of a pipeline's hits, best first: text, score, and the `metadata` of `sources.SearchResult.metadata`.

    Of the metadata, an LLM that gets the nodes sees the title only.

    Args:
        source: What searches, see `interop.sources`.
        k: The number of nodes.
        fields: Further fields of each search that stages read.
        options: Those of LlamaIndex's retrievers.

    Raises:
        UsageError: if k is less than 1.
    """

    def __init__(self, source: Any, *, k: int = 10, fields: Mapping[str, Any] | None = None, **options: Any) -> None:
        if k < 1:
            raise UsageError(f"{k} nodes cannot be requested", fix="Request 1 or more.")
        super().__init__(**options)
        self._source = source
        self._k = k
        self._fields = dict(fields or {})

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._source.search(query_bundle.query_str, self._k, self._fields)
        nodes = []
        for hit in found.documents:
            metadata = found.metadata(hit)
            hidden = [name for name in metadata if name not in _SHOWN]
            node = TextNode(
                id_=hit.id,
                text=hit.text,
                metadata=metadata,
                excluded_llm_metadata_keys=hidden,
                excluded_embed_metadata_keys=hidden,
            )
            nodes.append(NodeWithScore(node=node, score=hit.score))
        return nodes

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
