"""Load test of `searchlora serve`: 64 clients of the openai library on 8 adapters for a minute.

    python -m benchmarks.serving_load [--clients 64] [--seconds 60]

The server is a process of its own on the same machine, with slots for 8 adapters of random weights (speed does
not depend on them). Each client sends its next request as soon as it has an answer (at most 24 tokens), alternates
streaming and plain requests, and cycles through the adapters. Reported are errors, and the latency of whole answers and
of first stream chunks. `tests/chaos` checks that each answer is that of its adapter.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import cycle, product
from typing import Any

import httpx
import numpy as np
import openai

from benchmarks.common import WORK, as_called, parser, save_figures
from benchmarks.pipeline.adapters import stored_adapters
from benchmarks.servers import child_server
from searchlora.adapters.store import Store
from searchlora.models.resolve import resolve
from searchlora.prompts import messages
from searchlora.recipe import load_recipe
from searchlora.task import load_generation_task

HERE = WORK / "serving_load"
TOKENS = 24
ADAPTERS = tuple(f"adapter-{number}" for number in range(8))
QUERIES = tuple(product(("cheap", "red", "waterproof", "small"), ("tent", "boots", "lamp", "stove", "rope", "jacket")))


@dataclass
class Seen:
    """Seconds to a complete answer, seconds to the first chunk of a stream, and refused and failed requests."""

    complete: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def main() -> None:
    arguments = parser("serving_load")
    arguments.add_argument("--clients", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=60)
    options = arguments.parse_args()
    base, task = resolve(load_recipe({}).base), load_generation_task("rewriting")
    store = stored_adapters(base, HERE, dict.fromkeys(ADAPTERS, task))
    records = [{"id": f"q{n}", "group": "", "query": f"{kind} {thing}"} for n, (kind, thing) in enumerate(QUERIES)]
    chats = [[dict(message) for message in messages(task, record)] for record in records]
    with _served(store) as url:
        begun = time.monotonic()
        seen = asyncio.run(_load(url, chats, options.clients, options.seconds))
        elapsed = time.monotonic() - begun  # with the answers that were under way at the end
        metrics = httpx.get(f"{url}/metrics").text
    _tell(seen, options.clients, elapsed, metrics)


def _served(store: Store) -> AbstractContextManager[str]:
    command = [sys.executable, "-c", "from searchlora.cli import main; main()", "serve"]
    options = ["--store", str(store.root), "--max-loras", str(len(ADAPTERS))]
    return child_server(
        "searchlora serve", lambda port: [*command, *options, "--port", str(port)], HERE / "server.log", ready="/readyz"
    )


async def _load(url: str, chats: Sequence[Any], clients: int, seconds: float) -> Seen:
    seen = Seen()
    limits = httpx.Limits(max_connections=clients)
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.AsyncClient(limits=limits, timeout=120),
    ) as client:
        end = time.monotonic() + seconds
        await asyncio.gather(*(_client(client, number, chats, end, seen) for number in range(clients)))
    return seen


async def _client(client: openai.AsyncOpenAI, number: int, chats: Sequence[Any], end: float, seen: Seen) -> None:
    models = cycle([*ADAPTERS[number % len(ADAPTERS) :], *ADAPTERS[: number % len(ADAPTERS)]])
    turn = number
    while time.monotonic() < end:
        model, turn = next(models), turn + 1
        try:
            await _answer(client, model, chats[turn % len(chats)], turn % 2 == 0, seen)
        except openai.OpenAIError as error:
            seen.errors.append(f"{type(error).__name__}: {error}")


async def _answer(client: openai.AsyncOpenAI, model: str, chat: Any, stream: bool, seen: Seen) -> None:
    begun, first = time.monotonic(), None
    if stream:
        async for event in await client.chat.completions.create(
            model=model, messages=chat, max_tokens=TOKENS, stream=True
        ):
            if first is None and event.choices and event.choices[0].delta.content:
                first = time.monotonic() - begun
                seen.first.append(first)
    else:
        await client.chat.completions.create(model=model, messages=chat, max_tokens=TOKENS)
    seen.complete.append(time.monotonic() - begun)


def _tell(seen: Seen, clients: int, seconds: float, metrics: str) -> None:
    system = f"searchlora serve, {clients} clients, {len(ADAPTERS)} adapters"
    answers = len(seen.complete)
    rows: list[dict[str, Any]] = [
        {"system": system, "measure": measure, "value": value, "n": n}
        for measure, value, n in (
            ("answers", answers, answers),
            ("answers per second", answers / seconds, answers),
            ("tokens of an answer", _completion_tokens(metrics) / answers, answers),
            ("errors", len(seen.errors), answers + len(seen.errors)),
        )
    ]
    for name, values in (("answer", seen.complete), ("first piece of a stream", seen.first)):
        for percent in (50, 99):
            value = float(np.percentile(values, percent))
            rows.append(
                {"system": system, "measure": f"seconds to {name}, p{percent}", "value": value, "n": len(values)}
            )
    counted = [line for line in metrics.splitlines() if line.startswith(("searchlora_batch_size", "searchlora_slot"))]
    about = {"seconds": round(seconds, 1), "new_tokens": TOKENS, "errors": seen.errors[:20], "server": counted}
    save_figures("serving_load", rows, [], about, module=as_called("serving_load"))
    for row in rows:
        print(f"{row['measure']:45} {row['value']:10.3f}   n = {row['n']}")
    for error in seen.errors[:5]:
        print(error)


def _completion_tokens(metrics: str) -> float:
    lines = (line for line in metrics.splitlines() if line.startswith("searchlora_tokens_total"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'kind="completion"' in line)


if __name__ == "__main__":
    main()
