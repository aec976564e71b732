"""One training run in a separate process, so that its peak memory is measured alone.

python -m benchmarks.embedding_squad.training NAME DATA STORE RECIPE lora|OUT [key=value ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import progress_bars
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.experiments.encoder_train import read_training_file, train_full_model
from searchlora.experiments.train import train_or_reuse
from searchlora.experiments.training_runs import TrainingOptions, has_unfinished_run
from searchlora.recipe import load_encoder_recipe
from searchlora.task import load_encoder_task

HERE = Path(__file__).parent
LORA = "lora"


def lora(name: str, dataset: Dataset, store: Store, recipe: str, overrides: list[str]) -> StoredAdapter:
    """The adapter of a fold, trained if it does not exist."""
    _run(name, dataset, store, recipe, LORA, overrides)
    return store.get(name)


def full(name: str, dataset: Dataset, store: Store, recipe: str, overrides: list[str]) -> tuple[Path, dict[str, Any]]:
    """The fully fine-tuned model of a fold, trained if it does not exist, and its training information."""
    out = store.root.parent / "full" / name
    _run(f"{name}-full", dataset, store, recipe, str(out), overrides)
    return out, read_training_file(out)


def _run(name: str, dataset: Dataset, store: Store, recipe: str, what: str, overrides: list[str]) -> None:
    command = [sys.executable, "-m", "benchmarks.embedding_squad.training", name, str(dataset.folder), str(store.root)]
    subprocess.run([*command, str(HERE / recipe), what, *overrides], check=True)


def main(name: str, data: str, root: str, recipe: str, what: str, *overrides: str) -> None:
    """Entry point of the command line."""
    store = Store(root)
    with progress_bars() as steps:
        if what == LORA:
            train_or_reuse("embedding", data, name, recipe=recipe, overrides=overrides, store=store, steps=steps)
            return
        task, out = load_encoder_task("embedding"), Path(what)
        requested = load_encoder_recipe(task.default_recipe, recipe, (*overrides, "full=true"))
        about = read_training_file(out)
        if about:
            if about["recipe"] == requested.model_dump() and about["dataset"] == load_dataset(data).fingerprint:
                print(f"The model exists, trained on this dataset with this recipe: {out}")
                return
            sys.exit(f"{out} contains a model of another recipe or dataset. Remove it first.")
        out.parent.mkdir(parents=True, exist_ok=True)
        resume = has_unfinished_run(store, name)
        options = TrainingOptions(recipe=recipe, overrides=overrides, resume=resume, steps=steps)
        train_full_model(task, data, name, out, options, store=store)


if __name__ == "__main__":
    main(*sys.argv[1:])
