"""Measures the checkout in PYTHONPATH in one precision: reads names of systems, and writes their speeds as JSON."""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.multi_adapter.systems import _engine as _engine_run
from benchmarks.multi_adapter.systems import made_adapters
from benchmarks.training import __main__ as training
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import BaseModel, resolve
from searchlora.recipe import load_recipe

#: Measures once: tokens a second of each measure.
Run = Callable[[], list[float]]

ROWS, CONTEXT, TOKENS, ADAPTERS, STEPS = 32, 64, 32, 8, 4


def main() -> None:
    precision, work = sys.argv[1], Path(sys.argv[2])
    base = resolve(training.BASE)
    folders = made_adapters(base, work / "adapters", ADAPTERS, 16)
    systems = {
        "equal in any batch": _engine(base, folders, precision, batch_invariant=True),
        "batch_invariant: false": _engine(base, folders, precision, batch_invariant=False),
        "training": _training(precision),
    }
    for line in sys.stdin:
        print(json.dumps(systems[line.strip()]()), flush=True)


def _engine(base: BaseModel, folders: list[Path], precision: str, *, batch_invariant: bool) -> Run:
    how = {"max_loras": ADAPTERS, "prefix_tokens": 0, "cache_tokens": 1 << 16}
    engine = LocalEngine(base, precision=precision, batch_invariant=batch_invariant, **how)  # type: ignore[arg-type]
    for number, folder in enumerate(folders):
        engine.load_folder(f"a{number}", folder)
    rng, measured = random.Random(0), _engine_run(engine, ADAPTERS)

    def run() -> list[float]:
        prompts = [rng.choices(range(1000, 20_000), k=CONTEXT) for _ in range(ROWS)]
        reading, writing = measured(prompts, TOKENS)
        return [ROWS * CONTEXT / reading, ROWS * (TOKENS - 1) / writing]

    return run


def _training(precision: str) -> Run:
    optim = {"batch_size": training.LENGTHS[60][0], "max_steps": STEPS}
    recipe = load_recipe({"base": training.BASE, "method": "lora", "precision": precision, "optim": optim})
    records = training._records(60)
    folder, runs = Path(tempfile.mkdtemp()), itertools.count()

    def run() -> list[float]:
        speeds, _ = training._train_ours(recipe, records, folder / str(next(runs)))
        return [sorted(speeds)[len(speeds) // 2]]

    return run


if __name__ == "__main__":
    main()
