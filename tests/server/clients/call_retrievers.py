"""Searches by LangChain's and LlamaIndex' retrievers as a user configures them, and prints what they return.

Run by the Python of the clients. The part that asks a server imports what the clients' environment has; for a pipeline
in this process, the project's other libraries stand behind those of the clients.
"""

import asyncio
import json
import sys

from langchain_core.runnables import RunnableLambda
from llama_index.core.schema import MetadataMode, QueryBundle

from searchlora.errors import EngineError
from searchlora.interop import langchain, llamaindex
from searchlora.interop.sources import pipeline_source, server_source

url, key, libraries, pipeline, corpus = sys.argv[1:]


def documents(found):
    return [{"id": each.id, "text": each.page_content, "metadata": each.metadata} for each in found]


def nodes(found):
    return [{"id": each.node.node_id, "text": each.text, "score": each.score, **each.metadata} for each in found]


chain = langchain.SearchloraRetriever(source=server_source(url, "judged", api_key=key), k=2)
index = llamaindex.SearchloraRetriever(source=server_source(url, "judged", api_key=key), k=2)
lexical = langchain.SearchloraRetriever(source=server_source(url, "lexical", api_key=key))
shown = index.retrieve("red couch")[0].node.get_content(MetadataMode.LLM)
try:
    langchain.SearchloraRetriever(source=server_source(url, "nothing", api_key=key)).invoke("red couch")
except EngineError as raised:
    error = str(raised)
remote = {
    "invoke": documents(chain.invoke("red couch")),
    "ainvoke": documents(asyncio.run(chain.ainvoke("red couch"))),
    "chain": (lexical | RunnableLambda(len)).invoke("lamp"),
    "rewritten": documents(
        langchain.SearchloraRetriever(source=server_source(url, "rewritten", api_key=key), k=1).invoke("red couch")
    ),
    "retrieve": nodes(index.retrieve("red couch")),
    "aretrieve": nodes(asyncio.run(index.aretrieve(QueryBundle("red couch")))),
    "shown": shown,
    "error": error,
}

sys.path.append(libraries)
from searchlora import Pipeline  # noqa: E402

loaded = Pipeline.load(pipeline, corpus=corpus)
chain = langchain.SearchloraRetriever(source=pipeline_source(loaded), k=2)
local = {
    "invoke": documents(chain.invoke("red couch", history=["hello"])),
    "ainvoke": documents(asyncio.run(chain.ainvoke("red couch"))),
    "retrieve": nodes(llamaindex.SearchloraRetriever(source=pipeline_source(loaded), k=2).retrieve("red couch")),
}
print(json.dumps({"remote": remote, "local": local}))
