"""Requests for 1,024 adapters over 16 LoRA slots, compared with 8 adapters and with the base alone.

    python -m benchmarks.many_adapters [--adapters 1024] [--requests 1024] [--repeats 3] [--try]

SmolLM2-135M in bf16, adapters of rank 8 on all linear layers with random weights of their own. 64 clients each send
their next request as soon as they have an answer: a prompt of 64 random tokens, 24 new tokens. The adapter is drawn
from a Zipf distribution (the n-th one is used 1/n times as often as the first), is one of 8 in turn, or
there is none. The ways take turns in each repeat, in one engine of 16 slots; the first repeat fills the memory for
adapters without a slot and is reported apart. Slot changes are counted.

Then each of `--checked` requests is answered by two batch-invariant engines, beside the others and alone, and the
answers are compared token by token. The second engine keeps no adapter without a slot: it reads their files again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, parser, print_or_save_speeds
from benchmarks.multi_adapter.systems import made_adapters
from benchmarks.speed import speed_ratio, speed_row
from searchlora.inference.local import LocalEngine
from searchlora.inference.scheduling.requests import GenerateRequest
from searchlora.models.resolve import BaseModel, resolve
from searchlora.recipe import load_recipe

RANK, SLOTS, CLIENTS, CONTEXT, TOKENS = 8, 16, 64, 64, 24
EMPTY, FEW = "empty slots", "8 adapters"
MEASURE = "requests/s"

#: Memory for adapters without a slot: 1,024 of rank 8 take 5 GB.
CACHE_BYTES = 8 << 30


def main() -> None:
    arguments = parser("many_adapters")
    arguments.add_argument("--adapters", type=int, default=1024)
    arguments.add_argument("--requests", type=int, default=1024, help="requests of one repeat")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--checked", type=int, default=256, help="requests whose answers are compared")
    arguments.add_argument("--try", action="store_true", dest="trial", help="print only")
    options = arguments.parse_args()
    base = resolve(load_recipe({}).base)
    folders = made_adapters(base, WORK / "many_adapters", options.adapters, RANK)
    many = f"{options.adapters:,} adapters, Zipf"
    draws: dict[str, Callable[[random.Random, int], Sequence[str | None]]] = {
        EMPTY: lambda _, count: [None] * count,
        FEW: lambda _, count: [f"a{number % 8}" for number in range(count)],
        many: lambda chance, count: _zipf(chance, options.adapters, count),
    }
    engine = _engine(base, folders, batch_invariant=False)
    speeds: dict[str, list[float]] = {name: [] for name in draws}
    first: dict[str, list[float]] = {}
    changes: dict[str, int] = {}
    for repeat in range(options.repeats + 1):
        for name, draw in draws.items():
            queued = _requests(random.Random(repeat), draw, options.requests)
            misses = engine.stats().slot_misses
            seconds = _served(engine, queued)
            changes[name] = engine.stats().slot_misses - misses
            (speeds[name] if repeat else first.setdefault(name, [])).append(options.requests / seconds)
    engine.close()
    rows = [speed_row(name, MEASURE, values) for name, values in speeds.items()]
    rows += [speed_row(f"{name}, first repeat", MEASURE, values) for name, values in first.items()]
    comparisons = [
        speed_ratio(a, b, MEASURE, speeds[a], speeds[b]) for a, b in ((FEW, EMPTY), (many, FEW), (many, EMPTY))
    ]
    wrong = _wrong_answers(base, folders, draws[many], options.checked)
    checked = {"checked": options.checked, "wrong": wrong}
    print(f"slot changes of the last repeat: {changes}; answers: {checked}")
    settings = {"rank": RANK, "slots": SLOTS, "clients": CLIENTS, "context": CONTEXT, "new_tokens": TOKENS}
    more = {**settings, "requests": options.requests, "slot_changes": changes, "answers": checked}
    print_or_save_speeds("many_adapters", rows, comparisons, more, trial=options.trial)


def _engine(
    base: BaseModel, folders: Sequence[Path], batch_invariant: bool, cache_bytes: int = CACHE_BYTES
) -> LocalEngine:
    """An engine that knows the adapters by name and has loaded none."""
    settings: dict[str, Any] = {"max_loras": SLOTS, "prefix_tokens": 0, "adapter_cache_bytes": cache_bytes}
    engine = LocalEngine(base, batch_invariant=batch_invariant, **settings)
    engine._folders.update({f"a{number}": folder for number, folder in enumerate(folders)})
    return engine


def _zipf(chance: random.Random, adapters: int, count: int) -> list[str | None]:
    shares = [1 / number for number in range(1, adapters + 1)]
    return [f"a{number}" for number in chance.choices(range(adapters), shares, k=count)]


def _requests(
    chance: random.Random, draw: Callable[[random.Random, int], Sequence[str | None]], count: int
) -> list[GenerateRequest]:
    return [
        GenerateRequest(
            ids=tuple(chance.randrange(100, 40_000) for _ in range(CONTEXT)),
            adapter=adapter,
            max_new_tokens=TOKENS,
            ignore_stop=True,
        )
        for adapter in draw(chance, count)
    ]


def _served(engine: LocalEngine, requests: Sequence[GenerateRequest]) -> float:
    """Seconds in which the clients get all answers; each client has one request in the engine."""
    done = threading.Event()
    left, lock = list(reversed(requests)), threading.Lock()
    open_ = [len(requests)]
    begun = time.perf_counter()

    def next_request(client: int) -> None:
        with lock:
            request = left.pop() if left else None
        if request is not None:
            request.result.add_done_callback(lambda _: answered(client))
            engine._core.submit([request], client)

    def answered(client: int) -> None:
        with lock:
            open_[0] -= 1
            if not open_[0]:
                done.set()
        next_request(client)

    for client in range(CLIENTS):
        next_request(client)
    done.wait()
    seconds = time.perf_counter() - begun
    for request in requests:
        request.result.result()  # raises the error of a request that failed
    return seconds


def _wrong_answers(
    base: BaseModel,
    folders: Sequence[Path],
    draw: Callable[[random.Random, int], Sequence[str | None]],
    count: int,
) -> int:
    """Requests whose tokens among the others differ from their tokens alone, in another engine that reads each adapter
    from its files.
    """
    together, alone = (_requests(random.Random(-1), draw, count) for _ in range(2))
    engine = _engine(base, folders, batch_invariant=True)
    _served(engine, together)
    engine.close()
    engine = _engine(base, folders, batch_invariant=True, cache_bytes=0)
    for request in alone:
        engine._core.finish([request])
    engine.close()
    answers = zip(together, alone, strict=True)
    return sum(one.result.result() != other.result.result() for one, other in answers)


if __name__ == "__main__":
    main()
