"""Throughput with 1 to 16 adapters mixed in a batch, compared with transformers, PEFT and the base model alone.

    python -m benchmarks.multi_adapter                      everything, on an idle machine
    python -m benchmarks.multi_adapter --batches 32 --contexts 64 --adapters 8,16 --try      a part, not stored
    python -m benchmarks.multi_adapter --contexts 64 --adapters 8 --vllm-python PYTHON --llama-server LLAMA_SERVER

The last one adds vLLM and llama.cpp, in a results file of its own; README.md describes their installation.

SmolLM2-135M in bf16, and in llama.cpp with the 4-bit weights from which the bf16 weights were converted. Adapters have
rank 16 on all linear layers and random weights (speed does not depend on them). Prompts are random tokens, so no prefix
is shared; every row generates 32 tokens. All systems take turns in each repeat, driven by one process. Results are
written after each cell (rows × context), the largest batch first.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, as_called, parser, save_figures, speed_table
from benchmarks.multi_adapter.served import LLAMA, VLLM, llama_systems, served_bare, vllm_systems
from benchmarks.multi_adapter.systems import (
    BARE,
    EMPTY,
    Run,
    engine_systems,
    engine_with,
    made_adapters,
    transformers_systems,
    with_adapters,
)
from benchmarks.speed import speed_ratio, speed_row
from searchlora.models.resolve import resolve
from searchlora.recipe import load_recipe

RANK, TOKENS = 16, 32
WRITING, READING = "new tokens/s", "prompt tokens/s"


def main() -> None:
    options = _arguments()
    base = resolve(load_recipe({}).base)
    work = WORK / "multi_adapter"
    folders = made_adapters(base, work, max(options.adapters), RANK)
    with ExitStack() as servers:
        systems = {
            **transformers_systems(base, folders, options.peft),
            **engine_systems(base, folders, options.adapters),
        }
        if options.vllm_python:
            how = {"rank": RANK, "rows": max(options.batches), "log": work / "vllm.log"}
            systems |= servers.enter_context(vllm_systems(options.vllm_python, base, folders, options.peft, **how))
        if options.llama_server:
            longest = max(options.contexts) + TOKENS
            how = {"rows": max(options.batches), "context": longest, "log": work / "llama.log"}
            counts = sorted({1, *options.peft})
            systems |= servers.enter_context(llama_systems(options.llama_server, base, folders, counts, **how))
        rows: list[dict[str, Any]] = []
        comparisons: list[dict[str, Any]] = []
        for context in options.contexts:
            for batch in sorted(options.batches, reverse=True):
                speeds = _speeds(systems, batch, context, options.repeats)
                rows += [
                    speed_row(system, _measure(measure, batch, context), values)
                    for system, found in speeds.items()
                    for measure, values in found.items()
                ]
                comparisons += _comparisons(speeds, batch, context, options.adapters)
                if not options.trial:
                    about = {"rank": RANK, "new_tokens": TOKENS}
                    save_figures(_name(options), rows, comparisons, about, module=as_called("multi_adapter"))
    print(speed_table(rows, comparisons))


def _name(options: argparse.Namespace) -> str:
    """Name of the results file; servers are slow to measure, so they have fewer cells and a separate file."""
    return "multi_adapter_served" if options.vllm_python or options.llama_server else "multi_adapter"


def _arguments() -> argparse.Namespace:
    arguments = parser("multi_adapter")
    numbers = lambda text: [int(number) for number in text.split(",")]  # noqa: E731
    arguments.add_argument("--batches", type=numbers, default=[1, 8, 32])
    arguments.add_argument("--contexts", type=numbers, default=[64, 512])
    arguments.add_argument("--adapters", type=numbers, default=[1, 2, 4, 8, 16])
    arguments.add_argument("--peft", type=numbers, default=[8], help="adapters that PEFT and servers mix")
    file = lambda text: Path(text).expanduser()  # noqa: E731  a result keeps the command as it was given
    arguments.add_argument("--vllm-python", type=file, help="of an environment that has vLLM, to measure it too")
    arguments.add_argument("--llama-server", type=file, help="the server of llama.cpp, to measure it too")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--try", dest="trial", action="store_true", help="print only")
    return arguments.parse_args()


def _speeds(systems: Mapping[str, Run], batch: int, context: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """System -> measure -> speed in each repeat, after one warm-up repeat."""
    chance = random.Random(0)
    speeds: dict[str, dict[str, list[float]]] = {name: {WRITING: [], READING: []} for name in systems}
    for repeat in range(repeats + 1):
        prompts = [[chance.randrange(100, 40_000) for _ in range(context)] for _ in range(batch)]
        for name, run in systems.items():
            reading, writing = run(prompts, TOKENS)
            if repeat:
                speeds[name][READING].append(batch * context / reading)
                speeds[name][WRITING].append(batch * (TOKENS - 1) / writing)
    return speeds


def _comparisons(
    speeds: Mapping[str, Mapping[str, Sequence[float]]], batch: int, context: int, counts: Sequence[int]
) -> list[dict[str, Any]]:
    """Compare each number of adapters with empty slots, the base alone and other systems; 16 with 8; print."""
    pairs = [(EMPTY, BARE), *((EMPTY, name) for name in map(served_bare, (VLLM, LLAMA)) if name in speeds)]
    for count in counts:
        ours = engine_with(count)
        pairs += [(ours, EMPTY), (ours, BARE)]
        rivals = [with_adapters(name, count) for name in ("PEFT adapter_names", VLLM, LLAMA)]
        pairs += [(ours, name) for name in rivals if name in speeds]
    if {8, 16} <= set(counts):
        pairs.append((engine_with(16), engine_with(8)))
    found = [
        speed_ratio(a, b, _measure(measure, batch, context), speeds[a][measure], speeds[b][measure])
        for a, b in pairs
        for measure in (WRITING, READING)
    ]
    for row in found:
        print(f"{row['measure']:45} {row['a']:28} / {row['b']:36} {row['ratio']:.2f}", flush=True)
    return found


def _measure(measure: str, batch: int, context: int) -> str:
    return f"{measure}, {batch} row{'s' if batch > 1 else ''} of {context}"


if __name__ == "__main__":
    main()
