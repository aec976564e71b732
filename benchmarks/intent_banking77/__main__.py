"""BANKING77's 77 intents, official test, with one adapter on SmolLM2-135M.

    python -m benchmarks.intent_banking77

Trains on the whole official training set but for the rows that stand in the test (the builder lists them) and 280 rows
on which the temperature of the probabilities is chosen. The adapter is used again where it is there.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import WORK, real_data
from searchlora.adapters.store import Store
from searchlora.cli.bars import bars
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.experiments.train import train_or_reuse

NAME = "banking77-intent"
SHARES = (0.96, 0.03, 0.01)
HERE = Path(__file__).parent


def main() -> None:
    with bars() as steps:
        dataset = _dataset()
        store = Store(WORK / "store")
        train_or_reuse("intent", dataset.folder, NAME, recipe=HERE / "recipe.yaml", store=store, steps=steps)


def _dataset() -> Dataset:
    folder = WORK / "banking77"
    if not folder.is_dir():
        build("intent", real_data() / "banking77", format="banking77", out=folder, shares=SHARES)
    return load_dataset(folder)


if __name__ == "__main__":
    main()
