"""Calls a server through LiteLLM as a user configures it, and prints what it returns.

Run by the Python of the clients: it imports nothing of this project.
"""

import asyncio
import json
import sys

import litellm

url, key = sys.argv[1:]
options = {"api_base": f"{url}/v1", "api_key": key}
telly, tent = ([{"role": "user", "content": text}] for text in ("telly", "tent"))
chat = {"model": "openai/rewriting", "messages": telly, "max_tokens": 8, **options}
whole = litellm.completion(**chat)
tool = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
several = {"model": "openai/tiny", "messages": tent, "max_tokens": 8, "temperature": 0.9, "seed": 3, "n": 3}
try:
    litellm.completion(**chat | {"model": "openai/nobody"})
except litellm.NotFoundError as found:
    error = str(found)
print(
    json.dumps(
        {
            "completion": whole.choices[0].message.content,
            "usage": whole.usage.prompt_tokens,
            "acompletion": asyncio.run(litellm.acompletion(**chat)).choices[0].message.content,
            "stream": "".join(
                chunk.choices[0].delta.content or "" for chunk in litellm.completion(**chat, stream=True)
            ),
            "tools": litellm.completion(**chat, tools=[tool]).choices[0].message.content,
            "several": [choice.message.content for choice in litellm.completion(**several, **options).choices],
            "text": litellm.text_completion(
                model="text-completion-openai/rewriting", prompt="telly", max_tokens=8, **options
            )
            .choices[0]
            .text,
            "documents": [
                each["embedding"]
                for each in litellm.embedding(model="openai/encoder", input=["Hello world", "red tent"], **options).data
            ],
            "error": error,
        }
    )
)
