"""Encoders of the benchmarks, each trained in a process of its own, so that its peak memory is measured alone.

python -m benchmarks.encoders NAME DATA STORE RECIPE [key=value ...]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import progress_bars
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train


def trained_encoder(name: str, data: Path, store: Store, recipe: Path, overrides: Sequence[str] = ()) -> StoredAdapter:
    """An adapter, or with `method=full` a whole model, trained if it does not exist."""
    command = [sys.executable, "-m", "benchmarks.encoders", name, str(data), str(store.root), str(recipe), *overrides]
    subprocess.run(command, check=True)
    return store.get(name)


def main(name: str, data: str, root: str, recipe: str, *overrides: str) -> None:
    """Entry point of the command line."""
    with progress_bars() as steps:
        train(
            "embedding",
            data,
            name,
            TrainingOptions(recipe=recipe, overrides=overrides, reuse=True),
            store=Store(root),
            steps=steps,
            log=print,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
