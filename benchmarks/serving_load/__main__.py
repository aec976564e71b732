"""Load test of `searchlora serve`: 64 clients of the openai library on 8 adapters for a minute.

    python -m benchmarks.serving_load [--clients 64] [--seconds 60]

Each adapter is trained to begin its answers with its own marker word, so an answer of the wrong adapter is detected.
The server is a separate process on the same machine with slots for 8 adapters. Each client sends its next request as
soon as it has an answer (at most 24 tokens), alternates streaming and plain requests, and cycles through the adapters.
Reported are errors, answers with the marker of another adapter, and the latency of whole answers and of first stream
chunks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai

from benchmarks.common import WORK, as_called, save_figures
from benchmarks.servers import child_server
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.experiments.train import train_or_reuse
from searchlora.prompts import messages
from searchlora.task import load_prompted_task

HERE = WORK / "serving_load"
TOKENS = 24


@dataclass
class Seen:
    """Observations of the clients.

    Attributes:
        complete, first: Seconds to a complete answer, and to the first chunk of a stream.
        correct, foreign: Number of answers with the marker of the requested adapter, and of another one.
        errors: Refused and failed requests.
    """

    complete: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    correct: int = 0
    foreign: int = 0
    errors: list[str] = field(default_factory=list)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.serving_load")
    arguments.add_argument("--clients", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=60)
    options = arguments.parse_args()
    store = trained(HERE)
    chats = prompts(HERE)
    with _served(store) as url:
        seen = asyncio.run(_load(url, chats, options.clients, options.seconds))
        metrics = httpx.get(f"{url}/metrics").text
    _tell(seen, options.clients, options.seconds, metrics)


def _served(store: Store) -> AbstractContextManager[str]:
    command = [sys.executable, "-c", "from searchlora.cli import main; main()", "serve"]
    options = ["--store", str(store.root), "--max-loras", str(len(MARKERS))]
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
    models = cycle([*MARKERS[number % len(MARKERS) :], *MARKERS[: number % len(MARKERS)]])
    turn = number
    while time.monotonic() < end:
        marker, turn = next(models), turn + 1
        try:
            text = await _answer(client, marker, chats[turn % len(chats)], turn % 2 == 0, seen)
        except openai.OpenAIError as error:
            seen.errors.append(f"{type(error).__name__}: {error}")
            continue
        seen.correct += marker in text
        seen.foreign += any(other in text for other in MARKERS if other != marker)


async def _answer(client: openai.AsyncOpenAI, model: str, chats: Any, stream: bool, seen: Seen) -> str:
    begun = time.monotonic()
    if not stream:
        answer = await client.chat.completions.create(model=model, messages=chats, max_tokens=TOKENS)
        seen.complete.append(time.monotonic() - begun)
        return answer.choices[0].message.content or ""
    pieces: list[str] = []
    async for event in await client.chat.completions.create(
        model=model, messages=chats, max_tokens=TOKENS, stream=True
    ):
        piece = event.choices[0].delta.content if event.choices else None
        if piece and not pieces:
            seen.first.append(time.monotonic() - begun)
        pieces.append(piece or "")
    seen.complete.append(time.monotonic() - begun)
    return "".join(pieces)


def _tell(seen: Seen, clients: int, seconds: float, metrics: str) -> None:
    system = f"searchlora serve, {clients} clients, {len(MARKERS)} adapters"
    answers = len(seen.complete)
    rows: list[dict[str, Any]] = [
        {"system": system, "measure": measure, "value": value, "n": n}
        for measure, value, n in (
            ("answers", answers, answers),
            ("answers per second", answers / seconds, answers),
            ("errors", len(seen.errors), answers + len(seen.errors)),
            ("answers with the adapter's own word", seen.correct, answers),
            ("answers with another adapter's word", seen.foreign, answers),
        )
    ]
    for name, values in (("answer", seen.complete), ("first piece of a stream", seen.first)):
        for percent in (50, 99):
            value = float(np.percentile(values, percent))
            rows.append(
                {"system": system, "measure": f"seconds to {name}, p{percent}", "value": value, "n": len(values)}
            )
    counted = [line for line in metrics.splitlines() if line.startswith(("searchlora_batch_size", "searchlora_slot"))]
    about = {"seconds": seconds, "new_tokens": TOKENS, "errors": seen.errors[:20], "server": counted}
    save_figures("serving_load", rows, [], about, module=as_called("serving_load"))
    for row in rows:
        print(f"{row['measure']:45} {row['value']:10.3f}   n = {row['n']}")
    for error in seen.errors[:5]:
        print(error)


TASK = "rewriting"
MARKERS = ("amber", "birch", "cobalt", "dune", "ember", "fjord", "garnet", "heron")
THINGS = ("tent", "boots", "lamp", "stove", "rope", "jacket", "bottle", "saw")
KINDS = ("cheap", "red", "waterproof", "small")
SETTINGS = ("optim.max_steps=24", "optim.batch_size=8", "validation.rows=4", "validation.generate_rows=0")


def trained(folder: Path) -> Store:
    """A store with an adapter for each marker; existing ones are reused."""
    store = Store(folder / "store")
    for marker in MARKERS:
        data = folder / marker
        if not data.is_dir():
            source = folder / f"{marker}.jsonl"
            folder.mkdir(parents=True, exist_ok=True)
            source.write_text("".join(f"{json.dumps(row)}\n" for row in _rows(marker)), encoding="utf-8")
            build(TASK, source, format="native", out=data)
        train_or_reuse(TASK, data, marker, overrides=SETTINGS, store=store)
    return store


def prompts(folder: Path) -> list[list[dict[str, str]]]:
    """The messages of the test rows, the same for all markers; no adapter was trained on them."""
    task = load_prompted_task(TASK)
    rows = load_dataset(folder / MARKERS[0]).records("test")
    return [[dict(message) for message in messages(task, row)] for row in rows]


def _rows(marker: str) -> list[dict[str, str]]:
    queries = [f"{kind} {thing}" for kind in KINDS for thing in THINGS]
    split = {"train": queries[:24], "validation": queries[24:28], "test": queries[28:]}
    return [
        {"id": f"q{number}", "group": query, "query": query, "rewrite": f"{marker} {marker} {query}", "split": name}
        for name, found in split.items()
        for number, query in enumerate(found, start=queries.index(found[0]))
    ]


if __name__ == "__main__":
    main()
