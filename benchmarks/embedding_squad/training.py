"""One training run in a separate process, so that its peak memory is measured alone.

python -m benchmarks.embedding_squad.training NAME DATA STORE RECIPE [key=value ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import progress_bars
from searchlora.data.dataset import Dataset
from searchlora.experiments.train import train_or_reuse

HERE = Path(__file__).parent


def lora(name: str, dataset: Dataset, store: Store, recipe: str, overrides: list[str]) -> StoredAdapter:
    """The adapter of a fold, trained if it does not exist."""
    return _run(name, dataset, store, recipe, overrides)


def full(name: str, dataset: Dataset, store: Store, recipe: str, overrides: list[str]) -> StoredAdapter:
    """The fully fine-tuned model of a fold, trained if it does not exist."""
    return _run(f"{name}-full", dataset, store, recipe, [*overrides, "method=full"])


def _run(name: str, dataset: Dataset, store: Store, recipe: str, overrides: list[str]) -> StoredAdapter:
    command = [sys.executable, "-m", "benchmarks.embedding_squad.training", name, str(dataset.folder), str(store.root)]
    subprocess.run([*command, str(HERE / recipe), *overrides], check=True)
    return store.get(name)


def main(name: str, data: str, root: str, recipe: str, *overrides: str) -> None:
    """Entry point of the command line."""
    with progress_bars() as steps:
        train_or_reuse("embedding", data, name, recipe=recipe, overrides=overrides, store=Store(root), steps=steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
