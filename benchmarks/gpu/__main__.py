"""What a GPU does with bases of 4 and 8 billion parameters: training and judging, one adapter at a time.

    python -m benchmarks.gpu                                    both shapes; a GPU of 80 GB, about 130 GB of disk
    python -m benchmarks.gpu --shape qwen3-4b --fraction 24/80  as a card of 24 GB would, in gpu_smaller.json
    python -m benchmarks.gpu --shape tiny --try                 a minute on a CPU, to see that it works; stores nothing

No network is needed: the bases have random weights in the published shapes, and the tokenizer is that of the default
base. The figures are about speed and memory, and none about quality. Each step is a process of its own, so that its
memory is its own; a step that runs out of memory is reported, and the others go on.

`--fraction` limits what PyTorch allocates, in each process and those that it starts. It does not limit what CUDA and
its libraries take besides, and the free memory that a process asks for (the size of a KV cache, `doctor`) is that of
the whole GPU.

Not run on a GPU yet.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, as_called, dataset, parser, save_figures, single_row, speed_table, write_rows
from benchmarks.gpu.shapes import SHAPES, TINY, make_base
from searchlora.adapters.store import Store
from searchlora.shop import make_shop


@dataclass(frozen=True)
class Run:
    """The folder and the size of a run."""

    folder: Path
    fraction: float
    steps: int
    pairs: int

    def searchlora(self, *arguments: object) -> tuple[float, str | None]:
        """Seconds of a command, and the end of its message if it failed."""
        return self.command("-m", "searchlora", *arguments)

    def command(self, *arguments: object) -> tuple[float, str | None]:
        started = time.monotonic()
        command = [sys.executable, *map(str, arguments)]
        environment = dict(os.environ)
        if self.fraction < 1:  # read by the allocator of every process, training included
            environment["PYTORCH_CUDA_ALLOC_CONF"] = f"per_process_memory_fraction:{self.fraction}"
        ended = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace", env=environment)
        seconds = time.monotonic() - started
        return seconds, None if ended.returncode == 0 else (ended.stderr or ended.stdout)[-2000:]


def main() -> None:
    arguments = parser("gpu")
    arguments.add_argument("--shape", action="append", choices=[*SHAPES, TINY])
    arguments.add_argument("--fraction", type=Fraction, default=Fraction(1), help="part of the GPU's memory: 24/80")
    arguments.add_argument("--steps", type=int, default=40, help="training steps")
    arguments.add_argument("--pairs", type=int, default=2000, help="judged pairs")
    arguments.add_argument("--work", type=Path, default=WORK / "gpu", help="folder of bases and data, which are reused")
    arguments.add_argument("--try", action="store_true", dest="trial", help="print only")
    options = arguments.parse_args()
    run = Run(options.work, float(options.fraction), options.steps, options.pairs)
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for shape in options.shape or list(SHAPES):
        base = make_base(shape, run.folder / shape)
        steps = chain(_trained(run, base), _doctor(run, base), _judged(run, base))
        for name, figures, problem in steps:
            print(f"{shape}, {name}: {'failed' if problem else 'done'}", file=sys.stderr)
            rows += [single_row(f"{shape}, {name}", measure, value) for measure, value in figures.items()]
            if problem:
                failed[f"{shape}, {name}"] = problem
    more = {"part of the memory": float(options.fraction), "failed": failed}
    name = "gpu" if options.fraction == 1 else "gpu_smaller"
    print(speed_table(rows, []) if rows else "No step succeeded.")
    if not options.trial:
        save_figures(name, rows, [], more, module=as_called("gpu"))
    for name, problem in failed.items():
        print(f"{name} failed:\n{problem}")


#: Name of a step, its figures, and the end of its message if it failed.
Step = tuple[str, dict[str, float], str | None]


def _trained(run: Run, base: Path) -> Iterator[Step]:
    """`train judgment` with and without checkpointing."""
    data = dataset(run.folder / "judgment", "judgment", _shop(run), format="shop").folder
    for checkpointing in (False, True):
        name = f"{base.name}-{'checkpointed' if checkpointing else 'plain'}"
        settings = [f"optim.max_steps={run.steps}", f"optim.gradient_checkpointing={str(checkpointing).lower()}"]
        overrides = [part for setting in settings for part in ("--set", setting)]
        how = ("--base", base, "--store", run.folder / "store", *overrides)
        seconds, problem = run.searchlora("train", "judgment", "--data", data, "--name", name, *how)
        figures: dict[str, float] = {}
        if problem is None:
            training = Store(run.folder / "store").get(name).manifest.training
            figures = {
                "tokens/s": training["tokens"] / training["seconds"],
                "peak memory of training, GB": training["peak_memory_gb"],
                "whole command, s": seconds,
            }
        yield f"train judgment, {'with' if checkpointing else 'without'} checkpointing", figures, problem


def _doctor(run: Run, base: Path) -> Iterator[Step]:
    seconds, problem = run.searchlora("doctor", "--base", base)
    yield "doctor --base", {"whole command, s": seconds}, problem


def _judged(run: Run, base: Path) -> Iterator[Step]:
    """`judge` without an adapter."""
    shop, pairs, topics = _shop(run), run.folder / "pairs.qrels", run.folder / "topics.jsonl"
    with (shop / "rewriting.jsonl").open(encoding="utf-8") as queries:
        rows = map(json.loads, queries)
        write_rows(topics, ({"id": row["id"], "query": row["query"]} for row in rows))
    with (shop / "qrels.txt").open(encoding="utf-8") as qrels:
        pairs.write_text("".join(islice(qrels, run.pairs)), encoding="utf-8")
    out = run.folder / f"judged {base.name}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    seconds, problem = run.searchlora(
        *("judge", "--base", base, "--task", "judgment", "--settings", run.folder / "judgment"),
        *("--topics", topics, "--corpus", shop / "corpus.jsonl", "--pairs", pairs, "--out", out / "graded.qrels"),
    )
    yield "judge", {} if problem else {"pairs/s, whole command": run.pairs / seconds}, problem


def _shop(run: Run) -> Path:
    if not (run.folder / "shop").is_dir():
        make_shop(run.folder / "shop", products=600, queries=600)
    return run.folder / "shop"


if __name__ == "__main__":
    main()
