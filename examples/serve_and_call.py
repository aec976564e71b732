"""Start `searchlora serve` and call it with the official OpenAI client."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import sample
from openai import OpenAI

adapter = sample.rewriter()
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]

script = Path(sys.executable).with_name("searchlora")
server = subprocess.Popen(
    [
        script,
        "serve",
        "--base",
        adapter.manifest.base.name,
        "--store",
        "store",
        "--load",
        adapter.reference,
        "--port",
        str(port),
    ]
)
try:
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").is_success:
                break
        except httpx.TransportError:
            time.sleep(0.1)
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    print([model.id for model in client.models.list()])
    answer = client.chat.completions.create(
        model=adapter.reference, max_tokens=12, messages=[{"role": "user", "content": "red telly"}]
    )
    print(answer.model, repr(answer.choices[0].message.content))
finally:
    server.terminate()
    server.wait(timeout=60)
