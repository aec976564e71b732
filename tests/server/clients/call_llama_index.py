"""Calls a server through LlamaIndex as a user configures it, and prints what it returns.

Run by the Python of the clients: it imports nothing of this project.
"""

import asyncio
import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

url, key = sys.argv[1:]
options = {"api_base": f"{url}/v1", "api_key": key, "max_tokens": 8, "temperature": 0}
completions = OpenAILike(model="rewriting", **options)
chats = OpenAILike(model="rewriting", is_chat_model=True, **options)
talk = [ChatMessage(role="system", content="Be short."), ChatMessage(role="user", content="tent")]
default = OpenAILike(model="tiny", is_chat_model=True, api_base=f"{url}/v1", api_key=key)
embedding = OpenAILikeEmbedding(model_name="encoder", api_base=f"{url}/v1", api_key=key)
print(
    json.dumps(
        {
            "complete": completions.complete("telly").text,
            "acomplete": asyncio.run(completions.acomplete("telly")).text,
            "stream complete": [each.text for each in completions.stream_complete("telly")][-1],
            "chat": chats.chat([ChatMessage(role="user", content="telly")]).message.content,
            "stream chat": "".join(each.delta or "" for each in chats.stream_chat(talk[1:])),
            "talk": OpenAILike(model="tiny", is_chat_model=True, **options).chat(talk).message.content,
            "default": default.complete("tent", max_tokens=8).text,
            "documents": embedding.get_text_embedding_batch(["Hello world", "red tent"]),
            "query": embedding.get_query_embedding("red tent"),
        }
    )
)
