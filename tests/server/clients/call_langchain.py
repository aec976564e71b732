"""Calls a server through LangChain as a user configures it, and prints what it returns.

Run by the Python of the clients: it imports nothing of this project.
"""

import asyncio
import json
import sys

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

url, key = sys.argv[1:]
options = {"base_url": f"{url}/v1", "api_key": key}
chat = ChatOpenAI(model="rewriting", max_tokens=8, **options)
base = ChatOpenAI(model="tiny", max_tokens=8, **options)
schema = {"title": "Answer", "description": "An answer.", "type": "object", "properties": {"yes": {"type": "boolean"}}}
schema |= {"required": ["yes"], "additionalProperties": False}
tool = {"title": "search", "description": "Searches.", "type": "object", "properties": {"query": {"type": "string"}}}
talk = [SystemMessage("Be short."), HumanMessage("tent")]
whole = chat.invoke("telly")
likely = base.bind(logprobs=True, top_logprobs=2).invoke("tent")
sampled = ChatOpenAI(model="tiny", max_tokens=8, temperature=0.9, top_p=0.9, seed=3, n=3, stop=["zz"], **options)
embeddings = OpenAIEmbeddings(model="encoder", **options)
print(
    json.dumps(
        {
            "invoke": whole.content,
            "usage": whole.usage_metadata["input_tokens"],
            "model": whole.response_metadata["model_name"],
            "ainvoke": asyncio.run(chat.ainvoke("telly")).content,
            "batch": [each.content for each in chat.batch(["telly", "couch"])],
            "stream": "".join(each.content for each in chat.stream("telly")),
            "talk": base.invoke(talk).content,
            "tools": base.bind_tools([tool]).invoke("tent").content,
            "structured": ChatOpenAI(model="tiny", max_tokens=60, **options)
            .with_structured_output(schema, method="json_schema")
            .invoke("tent"),
            "logprobs": [each["logprob"] for each in likely.response_metadata["logprobs"]["content"]],
            "sampled": [each.message.content for each in sampled.generate([[HumanMessage("tent")]]).generations[0]],
            "completion": OpenAI(model="rewriting", max_tokens=8, temperature=0, **options).invoke("telly"),
            "continued": OpenAI(model="tiny", max_tokens=8, temperature=0, **options).invoke("tent"),
            "documents": embeddings.embed_documents(["Hello world", "red tent", ""]),
            "query": embeddings.embed_query("red tent"),
            "texts": OpenAIEmbeddings(model="encoder", check_embedding_ctx_length=False, **options).embed_query(
                "red tent"
            ),
        }
    )
)
