"""A LangChain retriever that searches by a pipeline, in this process or on a server.

It is made of a loaded pipeline, or of the address of a server:

    from searchlora.interop.langchain import SearchloraRetriever

    retriever = SearchloraRetriever.from_pipeline(Pipeline.load("product_search"), k=5)
    retriever = SearchloraRetriever.from_server("http://localhost:8000", "product_search", k=5)
    retriever.invoke("red couch", history=[])
"""

from __future__ import annotations

import asyncio
from typing import Any

from searchlora.extras import importing
from searchlora.interop.sources import SourceRetriever

with importing():
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import Field


class SearchloraRetriever(SourceRetriever, BaseRetriever):  # type: ignore[misc]
    """Documents of a pipeline's hits, best first: the text, and `metadata` as of `sources.SearchResult.metadata`.

    Further keyword arguments of `invoke`, such as `history`, are fields of the search that stages read.

    Attributes:
        source: What searches, see `interop.sources`.
        k: The number of documents.
    """

    source: Any
    k: int = Field(10, ge=1)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **fields: Any
    ) -> list[Document]:
        del run_manager
        found = self.source.search(query, self.k, fields)
        return [Document(id=hit.id, page_content=hit.text, metadata=found.metadata(hit)) for hit in found.documents]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **fields: Any
    ) -> list[Document]:
        return await asyncio.to_thread(
            self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **fields
        )
