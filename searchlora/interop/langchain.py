"""A LangChain retriever: `SearchloraRetriever(source=pipeline_source(...), k=5).invoke("red couch", history=[])`."""

from __future__ import annotations

import asyncio
from typing import Any

from searchlora.extras import importing

with importing():
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import Field


class SearchloraRetriever(BaseRetriever):  # type: ignore[misc]
    """The `k` best documents of a source; further arguments of `invoke` are fields of the search that stages read."""

    source: Any
    k: int = Field(10, ge=1)

    def _get_relevant_documents(self, query: str, *, run_manager: Any, **fields: Any) -> list[Document]:
        del run_manager
        found = self.source(query, self.k, fields)
        return [Document(id=each.id, page_content=each.text, metadata=each.metadata) for each, _ in found]

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any, **fields: Any) -> list[Document]:
        return await asyncio.to_thread(self._get_relevant_documents, query, run_manager=run_manager, **fields)
